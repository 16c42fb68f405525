"""What a checkpoint folder is, told from its files alone: no device is asked, no array is read.

    <step>/_CHECKPOINT_METADATA, commit_success.txt     written last: the step is committed
    <step>/<item>/_METADATA, manifest.ocdbt, d/, ...    one tree of arrays for each item
    <folder>/_METADATA                                  a tree saved without items (plain Orbax)
    <folder>/checkpoint, <leaf>/.zarray                 T5X before Orbax

Every leaf has a name as `checksum.checksums` gives it, "params/layers/mlp/up".
"""

import base64
import dataclasses
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from humpback_jax.errors import UserError

TREE = "_METADATA"
_STEP_METADATA = "_CHECKPOINT_METADATA"
_COMMITTED = "commit_success.txt"
_T5X_INDEX = "checkpoint"
_ZARR = ".zarray"
_SHARDING = "_sharding"
_STEP_NAME = re.compile(r"(?:checkpoint_)?(\d+)")
_TEMPORARY = re.compile(r"(?:checkpoint_)?(\d+)[.-].*tmp")

COMMITTED, UNCOMMITTED, INCOMPLETE = "committed", "uncommitted", "incomplete"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array of a checkpoint, as its metadata describes it.

    Attributes:
      name: its place in the tree, "params/layers/mlp/up".
      shape: of the whole array.
      dtype: as numpy or ml_dtypes names it.
      sharding: the axes of the mesh that divide each dimension, "" if it was not divided.
      chunk: the shape in which it is written.
      store: tensorstore's description of where it lies, None if `value` holds it.
      value: an array that T5X keeps in its index file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sharding: str
    chunk: tuple[int, ...]
    store: dict[str, Any] | None
    value: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Step:
    """A checkpoint in a model's folder.

    Attributes:
      step: its number.
      path: its folder.
      status: COMMITTED, UNCOMMITTED (a save that was killed), or INCOMPLETE (files are missing of
        one that was committed, as after a copy that was cut short).
      seconds: when it was committed, seconds since 1970; None if it was not.
      nbytes: of its files.
    """

    step: int
    path: epath.Path
    status: str
    seconds: float | None
    nbytes: int


def steps(folder: epath.PathLike) -> list[Step]:
    """Returns the checkpoints in a model's folder, by step."""
    found = []
    for path in epath.Path(folder).iterdir():
        match = _STEP_NAME.fullmatch(path.name) or _TEMPORARY.match(path.name)
        if match and path.is_dir() and (_TEMPORARY.match(path.name) or is_checkpoint(path)):
            status = status_of(path)
            found.append(Step(int(match[1]), path, status, _commit_time(path), folder_bytes(path)))
    return sorted(found, key=lambda step: (step.step, str(step.path)))


def status_of(path: epath.Path) -> str:
    """Returns COMMITTED, UNCOMMITTED or INCOMPLETE, by the files that are there."""
    if _TEMPORARY.match(path.name) or "orbax-checkpoint-tmp" in path.name:
        return UNCOMMITTED
    if is_t5x(path):
        return COMMITTED
    if not (path / _STEP_METADATA).exists() or not (path / _COMMITTED).exists():
        return INCOMPLETE
    try:
        for item in item_paths(path):
            if not (item / TREE).exists() or _missing_files(item):
                return INCOMPLETE
    except ValueError:
        return INCOMPLETE
    return COMMITTED


def _missing_files(item: epath.Path) -> list[str]:
    """Returns what an item must have by its own metadata and does not."""
    wanted = ["manifest.ocdbt"] if _tree_metadata(item).get("use_ocdbt", True) else []
    return [name for name in wanted if not (item / name).exists()]


def is_checkpoint(path: epath.Path) -> bool:
    """Returns whether a folder is, or was to be, one checkpoint."""
    marks = (_STEP_METADATA, TREE, _COMMITTED, _T5X_INDEX)
    if any((path / mark).exists() for mark in marks):
        return True
    return path.is_dir() and any((item / TREE).exists() for item in path.iterdir())


def is_t5x(path: epath.Path) -> bool:
    """Returns whether a folder is a checkpoint of T5X from before Orbax."""
    return (path / _T5X_INDEX).is_file() and not (path / TREE).exists()


def require_checkpoint(path: epath.PathLike) -> epath.Path:
    """Returns a checkpoint's folder; raises UserError that names the right one where it can."""
    path = epath.Path(path)
    if not path.exists():
        raise UserError(
            f"there is no checkpoint {path}: `humpback ckpt ls` of its folder lists them"
        )
    for parent in path.parents:
        if (parent / _STEP_METADATA).exists():
            raise UserError(f"{path} is a part of a checkpoint: give the whole, {parent}")
    if is_checkpoint(path):
        return path
    if not path.is_dir():
        raise UserError(f"{path} is a file, no checkpoint: give the folder of a step")
    inside = [step.path for step in steps(path)]
    if not inside:
        raise UserError(
            f"{path} holds no checkpoint: `humpback ckpt ls` of a run's folder lists all"
        )
    raise UserError(f"{path} holds checkpoints and is none: give one of them, such as {inside[-1]}")


def item_paths(path: epath.Path) -> list[epath.Path]:
    """Returns the folders of a checkpoint that hold a tree of arrays each."""
    if (path / TREE).exists():
        return [path]
    handlers = _read_json(path / _STEP_METADATA).get("item_handlers") or {}
    if isinstance(handlers, dict):
        trees = [path / name for name, kind in handlers.items() if "json" not in str(kind).lower()]
        return sorted(trees)
    return sorted(item for item in path.iterdir() if (item / TREE).exists())


def leaves(path: epath.Path, items: tuple[str, ...] = ()) -> list[Leaf]:
    """Returns the arrays of a checkpoint by name, without reading them.

    Args:
      path: of the checkpoint.
      items: which items; by default all but "data", the state of a data iterator. Names begin with
        the item's where there are several.
    """
    if is_t5x(path):
        return sorted(_t5x_leaves(path), key=lambda leaf: leaf.name)
    chosen = [
        item
        for item in item_paths(path)
        if item == path or (item.name in items if items else item.name != "data")
    ]
    found = []
    for item in chosen:
        prefix = f"{item.name}/" if len(chosen) > 1 else ""
        found += _item_leaves(item, prefix)
    return sorted(found, key=lambda leaf: leaf.name)


def custom_metadata(path: epath.Path) -> dict[str, Any]:
    """Returns what was saved beside the trees, such as checksums."""
    return _read_json(path / _STEP_METADATA).get("custom_metadata") or {}


def _item_leaves(item: epath.Path, prefix: str) -> Iterator[Leaf]:
    """Yields the arrays of an item, by its own files.

    Orbax can tell as much, but asks the devices, and says pages over a damaged file.
    """
    try:
        stored = _tree_metadata(item)
        shardings = _read_json(item / _SHARDING)
        for entry in stored["tree_metadata"].values():
            keys = [part["key"] for part in entry["key_metadata"]]
            if entry["value_metadata"].get("skip_deserialize"):  # None, or an empty subtree
                continue
            name = ".".join(keys)
            store = _store(item, name, stored)
            shape, dtype, chunk = _header(store)
            coded = base64.b64encode(name.encode()).decode()
            sharding = _sharding(shardings.get(coded, "{}"))
            yield Leaf(prefix + "/".join(keys), shape, dtype, sharding, chunk, store)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{item} is damaged, its description cannot be read ({reason}): copy it anew from "
            "where it was made, or delete it"
        ) from error


def _header(store: dict[str, Any]) -> tuple[tuple[int, ...], str, tuple[int, ...]]:
    """Returns (shape, dtype, chunk) of an array without reading it."""
    import tensorstore as ts

    array = ts.open({**store, "open": True}).result()
    chunk = array.chunk_layout.write_chunk.shape or array.shape
    return tuple(array.shape), array.dtype.name, tuple(n or 1 for n in chunk)


def _store(item: epath.Path, name: str, stored: dict[str, Any]) -> dict[str, Any]:
    driver = "zarr3" if stored.get("use_zarr3") else "zarr"
    base = _url(item)
    if stored.get("use_ocdbt", (item / "manifest.ocdbt").exists()):
        kvstore: Any = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    else:
        kvstore = f"{base}{name}/"
    return {"driver": driver, "kvstore": kvstore}


def _url(folder: epath.Path) -> str:
    text = str(folder)
    return f"{text}/" if "://" in text else f"file://{folder.resolve()}/"


def _t5x_leaves(path: epath.Path) -> Iterator[Leaf]:
    import jax
    from flax import serialization

    for folder in sorted(path.iterdir()):
        index = folder / _ZARR
        if index.exists():
            array = _read_json(index)
            dtype = "bfloat16" if array["dtype"] == "bfloat16" else np.dtype(array["dtype"]).name
            store = {"driver": "zarr", "kvstore": _url(folder)}
            name = folder.name.replace(".", "/")
            yield Leaf(name, tuple(array["shape"]), dtype, "", tuple(array["chunks"]), store)
    tree = serialization.msgpack_restore((path / _T5X_INDEX).read_bytes())
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, np.ndarray | np.generic):
            name = "/".join(_key(key) for key in keys)
            value = np.asarray(leaf)
            yield Leaf(name, value.shape, value.dtype.name, "", value.shape, None, value)


def _key(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))


def _sharding(text: str) -> str:
    spec = json.loads(text).get("partition_spec") or ()
    if not any(spec):
        return ""
    axes = (("+".join(axis) if isinstance(axis, list) else axis) or "-" for axis in spec)
    return ", ".join(axes)


def _tree_metadata(item: epath.Path) -> dict[str, Any]:
    return _read_json(item / TREE)


def _read_json(path: epath.Path) -> dict[str, Any]:
    """Returns what a JSON file holds, {} if there is none; raises ValueError if it is damaged."""
    return json.loads(path.read_text()) if path.exists() else {}


def _commit_time(path: epath.Path) -> float | None:
    try:
        nanoseconds = _read_json(path / _STEP_METADATA).get("commit_timestamp_nsecs")
    except ValueError:
        return None
    return nanoseconds / 1e9 if nanoseconds else None


def folder_bytes(path: epath.Path) -> int:
    """Returns the bytes of all files below a folder."""
    total = 0
    for found in path.iterdir():
        total += folder_bytes(found) if found.is_dir() else found.stat().length
    return total

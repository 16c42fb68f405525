"""Safetensors files: their headers as stored tensors, and folders of them written one by one.

8 bytes   length of the header, little-endian
header    JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {}}
data      the tensors, row by row, in the header's order
"""

import contextlib
import dataclasses
import json
import math
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import numpy as np
from etils import epath

from humpback_jax import distributed, rundir
from humpback_jax.checkpoints.stored import FLOATS, StoredTensor
from humpback_jax.errors import UserError

WHOLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_DTYPES = {_CODES[name]: dtype for dtype, name in FLOATS.items()}


def read_folder(folder: epath.Path) -> dict[str, StoredTensor]:
    """Returns the tensors of a folder by name; only headers are read.

    The files are those that the index names, or model.safetensors, or all *.safetensors but
    consolidated ones, which hold Mistral's weights a second time under other names.

    Raises:
      UserError: there is no file, or one is missing, cut off, or has what another has as well.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in _files(folder):
        for name, tensor in read_header(path).items():
            if name in tensors:
                raise UserError(
                    f"{folder} has the tensor '{name}' in {tensors[name].path.name} and in "
                    f"{path.name}: remove the file that is not the model's"
                )
            tensors[name] = tensor
    return tensors


def _files(folder: epath.Path) -> list[epath.Path]:
    index = folder / INDEX_NAME
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{index} has no weight_map that can be read: copy it again") from error
        for name in names:
            if not (folder / name).exists():
                raise UserError(f"{folder} has no {name}, which {INDEX_NAME} names: copy it too")
        return [folder / name for name in names]
    if (folder / WHOLE_NAME).exists():
        return [folder / WHOLE_NAME]
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise UserError(f"{folder} has no *.safetensors: convert the weights to safetensors")
    return [path for path in paths if not path.name.startswith("consolidated")] or paths


def read_header(path: epath.Path) -> dict[str, StoredTensor]:
    """Returns the tensors of one file by name; raises UserError if it is cut off or of no use."""
    size = path.stat().length
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError(f"its {size} bytes are less than the header that it announces")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {
            name: _stored(path, name, entry, 8 + length, size) for name, entry in header.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no whole safetensors file ({error}): copy it again") from error
    return tensors


def _stored(
    path: epath.Path, name: str, entry: dict[str, Any], start: int, size: int
) -> StoredTensor:
    """Returns a tensor of the header; raises ValueError if its bytes cannot be there."""
    begin, end = entry["data_offsets"]
    dtype, shape = _DTYPES.get(entry["dtype"]), tuple(int(n) for n in entry["shape"])
    if not 0 <= begin <= end or start + end > size:
        raise ValueError(f"tensor '{name}' ends at byte {start + end} of {size}")
    if dtype is not None and end - begin != dtype.itemsize * math.prod(shape):
        raise ValueError(f"tensor '{name}' {list(shape)} has {end - begin} bytes")
    return StoredTensor(path, start + begin, dtype, shape)


@dataclasses.dataclass(frozen=True)
class Planned:
    """A tensor that is to be written; `dtype` is the name of one of the three floats."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


def write_folder(
    folder: epath.Path, plan: Sequence[Planned], values: Iterable[np.ndarray], max_bytes: int
) -> None:
    """Writes tensors one after the other, each file whole or not at all; older files go.

    Args:
      folder: made if absent.
      plan: all tensors, in the order in which they are written.
      values: their values, in the same order, contiguous; one is held at a time. Every process
        goes through them, the primary one writes.
      max_bytes: of tensors in a file; a larger tensor has a file of its own. With a single file
        there is no index.
    """
    groups = _groups(plan, max_bytes)
    count = len(groups)
    names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    names = [WHOLE_NAME] if count == 1 else names
    rest = iter(values)
    if not distributed.is_primary():
        for _ in rest:
            pass
        return
    for path in folder.glob("model*.safetensors*") if folder.exists() else ():
        path.unlink()
    for name, group in zip(names, groups, strict=True):
        with _atomic_file(folder / name) as file:
            _write_file(file, group, rest)
    if count > 1:
        where = {t.name: name for name, group in zip(names, groups, strict=True) for t in group}
        total = sum(planned.num_bytes for planned in plan)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        rundir.write_json(folder / INDEX_NAME, index)


def _groups(plan: Sequence[Planned], max_bytes: int) -> list[list[Planned]]:
    """Divides the tensors among files, keeping their order."""
    groups: list[list[Planned]] = [[]]
    filled = 0
    for planned in plan:
        if groups[-1] and filled + planned.num_bytes > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(planned)
        filled += planned.num_bytes
    return groups


def _write_file(file: IO[bytes], group: Sequence[Planned], values: Iterator[np.ndarray]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for planned in group:
        end = begin + planned.num_bytes
        code, shape = _CODES[planned.dtype], list(planned.shape)
        header[planned.name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for planned in group:
        value = next(values)
        assert (str(value.dtype), value.shape) == (planned.dtype, planned.shape), planned
        file.write(value.reshape(-1).view(np.uint8).data)


@contextlib.contextmanager
def _atomic_file(path: epath.Path) -> Iterator[IO[bytes]]:
    """Gives a file to write to, which appears under its name once all is written."""
    temporary = path.parent / f".tmp-{uuid.uuid4().hex}-{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}): free space or make the "
            "folder writable, then run the same command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)

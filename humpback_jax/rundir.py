"""The run directory: a folder for each stage, atomic shards with done markers, fingerprints.

    RUN_DIR/drivers/                  who works on the run (launch.claims)
    RUN_DIR/<stage>/
        config.json                   what the stage was made from: config and input digests
        running.json                  the process that works on it
        computation.json              on what its shards are computed, if that decides last bits
        shards/part-00007.parquet     the stage's records
        shards/part-00007.done.json   counts, fingerprint, sha256 (the shard counts once it exists)
        rejects/part-00007.parquet    what was not passed on, each with its named reason
        stage.json                    written last: the stage is done

A stage's fingerprint is a hash of its configuration and of the digests of its inputs. A stage
that is done under the same fingerprint is skipped; under another one it refuses to go on. All
writes go to a temporary name first and are renamed, so a kill at any moment leaves no half file.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from etils import epath

from humpback_jax import records
from humpback_jax.errors import UserError

T = TypeVar("T")

ORDER_NAME = "stages.json"  # the names of a run's stages in order
_COMPUTATION = "computation.json"
_NO_WORK = ("config.json", "running.json", _COMPUTATION)


@dataclasses.dataclass(frozen=True)
class Counts:
    """The conservation law of a stage: taken in = passed on + rejects by reason + errors.

    `truncated` are those taken in whose text a model was shown in part; they are among the others.
    """

    records_in: int
    records_out: int
    rejects: Mapping[str, int] = dataclasses.field(default_factory=dict)
    errors: int = 0
    truncated: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        reasons = sorted({*self.rejects, *other.rejects})
        return Counts(
            self.records_in + other.records_in,
            self.records_out + other.records_out,
            {r: self.rejects.get(r, 0) + other.rejects.get(r, 0) for r in reasons},
            self.errors + other.errors,
            self.truncated + other.truncated,
        )

    def check(self, where: str) -> None:
        """Raises RuntimeError if a record was lost or invented: that is a bug, not bad input."""
        accounted = self.records_out + sum(self.rejects.values()) + self.errors
        if self.records_in != accounted:
            raise RuntimeError(f"{where} lost records: {self.records_in} in, {accounted} accounted")

    def __str__(self) -> str:
        rejected = ", ".join(f"{reason} {n}" for reason, n in self.rejects.items() if n)
        text = f"{self.records_in} in = {self.records_out} out"
        text += f" + {sum(self.rejects.values())} rejected" + (f" ({rejected})" if rejected else "")
        text += f" + {self.errors} errors"
        return text + (f", {self.truncated} truncated" if self.truncated else "")


def fingerprint(value: Any) -> str:
    """Returns 16 hex digits of a JSON-able value; equal values, equal digits."""
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} cannot be part of a fingerprint")


def write_atomic(path: epath.Path, content: bytes | str) -> None:
    """Writes a file under a temporary name in its folder and renames it into place."""
    temporary = path.parent / f".tmp-{uuid.uuid4().hex}-{path.name}"
    if isinstance(content, str):
        content = content.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except Exception as error:
        if not isinstance(error, OSError) and not is_remote(path):
            raise
        with contextlib.suppress(Exception):
            temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise UserError(
            f"{path} could not be written ({reason}): free space or make the "
            "folder writable, then run the same command again; what is done is kept"
        ) from error


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether a path is of an object store, gs:// for one, and not of a file system."""
    return "://" in os.fspath(path)


def check_reach(run_dir: epath.PathLike) -> None:
    """Raises UserError if a run directory lies in an object store that gives no answer.

    Each library of an object store has errors of its own, which have nothing in common.
    """
    if not is_remote(run_dir):
        return
    try:
        epath.Path(run_dir).exists()
    except Exception as error:
        raise UserError(
            f"{run_dir} cannot be reached ({_first_line(error)}): check the name of the bucket, "
            "your access to it (`gcloud auth application-default login`) and the network"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def write_json(path: epath.Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True, default=_plain) + "\n")


def read_json(path: epath.Path) -> Any:
    """Reads a JSON file that `write_json` has written; UserError if somebody has damaged it."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): copy it again from where it is whole, or delete the "
            "folder that it is in and make that stage anew"
        ) from error


def shard_name(index: int) -> str:
    """Returns the stem of a shard's files: part-00007."""
    return f"part-{index:05d}"


def is_stage_config(path: epath.Path) -> bool:
    """Returns whether a config.json is a stage's, and not that of a Hugging Face folder."""
    try:
        return json.loads(path.read_text()).keys() == {"config", "inputs"}
    except (ValueError, AttributeError):
        return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it belongs to somebody else
    return True


class StageDir:
    """The folder of one stage in a run directory.

    Picklable, so Beam workers write shards through it.
    """

    def __init__(self, run_dir: epath.PathLike, name: str):
        self.name = name
        self.path = epath.Path(run_dir) / name

    # The stage as a whole.

    def is_done(self) -> bool:
        return (self.path / "stage.json").exists()

    def summary(self) -> dict[str, Any]:
        """Returns stage.json: counts, seconds, digest and whatever `finish` was given."""
        return read_json(self.path / "stage.json")

    @property
    def digest(self) -> str:
        """The digest of the finished stage's outputs, which later stages depend on."""
        return self.summary()["digest"]

    def begin(self, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
        """Opens the stage for its configuration and returns the fingerprint.

        Args:
          config: everything that decides the outputs, JSON-able (dataclasses too).
          inputs: digest of each input by name.

        Raises:
          UserError: the folder holds work made with another configuration or other inputs.
        """
        plain = json.loads(json.dumps({"config": config, "inputs": inputs}, default=_plain))
        path = self.path / "config.json"
        if path.exists() and self._has_work():
            before = read_json(path)
            if before != plain:
                changed = ", ".join(sorted(_differences(before, plain)))
                raise UserError(
                    f"{self.path} was made with another configuration ({changed}): choose another "
                    f"RUN_DIR, or delete that folder to remake the stage and what follows it"
                )
        else:
            write_json(path, plain)
            (self.path / _COMPUTATION).unlink(missing_ok=True)
        if not self.is_done():
            self._claim()
        return fingerprint(plain)

    def _has_work(self) -> bool:
        """Returns whether there is anything that another configuration could be mixed with."""
        return any(p.name not in _NO_WORK for p in self.path.iterdir())

    def compute_by(self, computation: Mapping[str, Any]) -> None:
        """Keeps what decides the last bits of the outputs, and sees to it that it stays the same.

        Every worker calls this before its first shard; a stage that is done has none.

        Args:
          computation: what results depend on besides configuration and inputs, JSON-able.

        Raises:
          UserError: the shards that are there were computed otherwise.
        """
        path, plain = self.path / _COMPUTATION, json.loads(json.dumps(computation))
        if not path.exists():
            write_json(path, plain)
        before = read_json(path)
        if before != plain:
            changed = ", ".join(sorted(_differences(before, plain)))
            raise UserError(
                f"{self.path} was begun where results differ in their last bits ({changed}): go on "
                "with the mesh, the devices and the slots a device of before, or delete that "
                "folder to remake the stage"
            )

    def is_running(self) -> bool:
        """Returns whether the process that began the stage lives; on another host it may."""
        owner = self._read_owner()
        return owner is not None and (owner["host"] != platform.node() or _lives(owner["pid"]))

    def _read_owner(self) -> dict[str, Any] | None:
        path = self.path / "running.json"
        return read_json(path) if path.exists() else None

    def _claim(self) -> None:
        """Writes who works on the stage; raises UserError if another process of this host does."""
        owner, here = self._read_owner(), {"pid": os.getpid(), "host": platform.node()}
        if owner and owner != here and owner["host"] == here["host"] and _lives(owner["pid"]):
            raise UserError(
                f"{self.path} is being worked on by process {owner['pid']}: wait for it or end it"
            )
        write_json(self.path / "running.json", here)

    def finish(self, counts: Counts, digest: str, seconds: float, **extra: Any) -> None:
        """Checks conservation and writes stage.json, after which the stage is done."""
        counts.check(f"stage {self.name}")
        summary = {"stage": self.name, "counts": counts, "digest": digest, "seconds": seconds}
        write_json(self.path / "stage.json", {**summary, "finished": time.time(), **extra})
        (self.path / "running.json").unlink(missing_ok=True)

    # Its shards.

    def shard_path(self, index: int, folder: str = "shards") -> epath.Path:
        return self.path / folder / f"{shard_name(index)}.parquet"

    def marker(self, index: int, folder: str = "shards") -> epath.Path:
        return self.path / folder / f"{shard_name(index)}.done.json"

    def todo(self, count: int, fingerprint: str, folder: str = "shards") -> list[int]:
        """Returns the indices below `count` whose done marker is absent or of another config."""
        return [i for i in range(count) if not self.is_shard_done(i, fingerprint, folder)]

    def is_shard_done(self, index: int, fingerprint: str, folder: str = "shards") -> bool:
        """Returns whether a shard's done marker is there, and of this configuration."""
        marker = self.marker(index, folder)
        return marker.exists() and read_json(marker)["fingerprint"] == fingerprint

    def write_shard(
        self,
        index: int,
        cls: type[T],
        rows: Iterable[T],
        counts: Counts,
        fingerprint: str,
        rejects: Sequence[records.Reject] = (),
        folder: str = "shards",
        **extra: Any,
    ) -> None:
        """Writes a shard, its rejects and then its done marker; each appears whole or not at all.

        `folder` is "shards" for the stage's result, another name for its intermediate shards;
        `extra` goes into the marker.
        """
        counts.check(f"shard {index} of stage {self.name}")
        content = records.to_parquet(cls, rows)
        write_atomic(self.shard_path(index, folder), content)
        if rejects:
            rejected = records.to_parquet(records.Reject, rejects)
            suffix = "" if folder == "shards" else f"-{folder}"
            write_atomic(self.shard_path(index, "rejects" + suffix), rejected)
        sha256 = hashlib.sha256(content).hexdigest()
        marker = {"counts": counts, "fingerprint": fingerprint, "sha256": sha256}
        write_json(self.marker(index, folder), {**marker, **extra})

    def markers(self, folder: str = "shards") -> list[dict[str, Any]]:
        """Returns the done markers of all finished shards, in order of their index."""
        paths = sorted((self.path / folder).glob("part-*.done.json"))
        return [read_json(path) for path in paths]

    def num_done(self, folder: str = "shards") -> int:
        """Returns how many shards are finished, without reading their markers."""
        return sum(1 for _ in (self.path / folder).glob("part-*.done.json"))

    def counts(self, folder: str = "shards") -> Counts:
        """Returns the sum of the finished shards' counts."""
        return sum((Counts(**m["counts"]) for m in self.markers(folder)), Counts(0, 0))

    def shards_digest(self, folder: str = "shards") -> str:
        """Returns the digest of the finished shards: equal digests, equal bytes."""
        return fingerprint([m["sha256"] for m in self.markers(folder)])

    def read(self, cls: type[T], folder: str = "shards") -> Iterator[T]:
        """Yields the records of all finished shards in order of their index."""
        for marker in sorted((self.path / folder).glob("part-*.done.json")):
            stem = marker.name.removesuffix(".done.json")
            yield from records.read_parquet(cls, marker.parent / f"{stem}.parquet")

    def read_rejects(self, folder: str = "rejects") -> Iterator[records.Reject]:
        """Yields the rejects of the stage."""
        for path in sorted((self.path / folder).glob("part-*.parquet")):
            yield from records.read_parquet(records.Reject, path)


def _differences(before: Any, after: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {*before, *after}:
            old, new = before.get(key, "absent"), after.get(key, "absent")
            yield from _differences(old, new, f"{prefix}.{key}".lstrip("."))
    elif before != after:
        yield f"{prefix} {before!r} -> {after!r}"

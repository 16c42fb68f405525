"""An inference stage by its shards: what is read, what a worker makes of it, what is written.

Who runs it is no matter here: Beam, or the processes of a pod.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from humpback_jax import records
from humpback_jax.records import Reject
from humpback_jax.rundir import Counts, StageDir


@dataclasses.dataclass(frozen=True)
class Shard:
    """A shard to be worked on: its index and its records."""

    index: int
    rows: Sequence[Any]


@dataclasses.dataclass(frozen=True)
class ShardOutput:
    """What became of a shard: its new records, those not passed on, and the counts."""

    index: int
    rows: Sequence[Any]
    rejects: Sequence[Reject]
    counts: Counts


class Worker(Protocol):
    """A model in memory that works on shards; arguments and results are picklable."""

    @property
    def spans_processes(self) -> bool:
        """Whether the model lies on devices of several processes, which then work in step."""
        ...

    def process(self, shard: Shard) -> ShardOutput: ...


class Loader(Protocol):
    """Small and picklable, unlike the worker that it makes."""

    def load(self) -> Worker: ...


class Task(Loader, Protocol):
    """What a worker is to do; the model is loaded by `load` alone."""

    def computation(self) -> Mapping[str, Any]:
        """Returns what the last bits of the results depend on here, before anything is loaded."""
        ...


@dataclasses.dataclass(frozen=True)
class InferenceStage:
    """One stage: from whose shards it is made, by what, and into which records.

    Attributes:
      stage: the folder that is written.
      source: the finished stage that is read; the result has as many shards.
      read: the source's record class.
      write: the result's record class.
      task: what the workers do with a shard.
      only_ok: leave out source records whose status is not "ok"; they were counted as rejects.
    """

    stage: StageDir
    source: StageDir
    read: type
    write: type
    task: Task
    only_ok: bool = False

    def load(self) -> Worker:
        """Makes a worker; raises UserError where it would not compute as those before it did."""
        self.stage.compute_by(self.task.computation())
        return self.task.load()

    def read_shard(self, index: int) -> Shard:
        """Reads a shard of the source stage."""
        rows = records.read_parquet(self.read, self.source.shard_path(index))
        return Shard(index, [row for row in rows if not self.only_ok or row.status == "ok"])

    def write_shard(self, output: ShardOutput, fingerprint: str) -> None:
        """Writes a shard and then its done marker."""
        self.stage.write_shard(
            output.index, self.write, output.rows, output.counts, fingerprint, output.rejects
        )


def output_of(index: int, rows: Sequence[Any], sources: Sequence[str]) -> ShardOutput:
    """Returns a shard of records that carry a status: there is a record for every one read.

    Args:
      index: of the shard.
      rows: records with segment_id, status, detail and truncated; "ok" ones are passed on, those
        of status "error" are errors, all others rejects by their status.
      sources: where each record came from, for the rejects.
    """
    rows = [_encodable(row) for row in rows]
    rejects: dict[str, int] = {}
    bad = [(row, source) for row, source in zip(rows, sources, strict=True) if row.status != "ok"]
    for row, _ in bad:
        rejects[row.status] = rejects.get(row.status, 0) + 1
    errors = rejects.pop("error", 0)
    truncated = sum(row.truncated > 0 for row in rows)
    passed_on = len(rows) - len(bad)
    counts = Counts(len(rows), passed_on, dict(sorted(rejects.items())), errors, truncated)
    kept = [Reject(row.segment_id, source, row.status, _detail(row)) for row, source in bad]
    return ShardOutput(index, rows, kept, counts)


def _detail(row: Any) -> str:
    """Returns what a reject says of its record."""
    cut = f"its text was truncated by {row.truncated} characters" if row.truncated else ""
    return "; ".join(filter(None, (row.detail, cut)))


def _encodable(row: Any) -> Any:
    r"""Returns a record as UTF-8 can hold it: a lone surrogate, "\ud800", becomes "?".

    Else one such record could not be written, and its whole shard with it.
    """
    changed = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if isinstance(value, str):
            clean = value.encode("utf-8", "replace").decode()
            if clean != value:
                changed[field.name] = clean
    return dataclasses.replace(row, **changed) if changed else row

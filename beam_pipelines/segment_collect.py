"""The second pipeline of the segment stage: all extracted shards -> the final shards.

What is dropped is decided on sketches (`beam_pipelines.segment_decide`); then each kept text is
moved once, to the shard that its id hashes to, packed with the others of its file.
"""

import dataclasses
import hashlib
import io
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics

from beam_pipelines.config import BeamConfig
from beam_pipelines.execution import run_pipeline
from beam_pipelines.segment_decide import decide, with_dropped
from beam_pipelines.segment_extract import EXTRACTED, MAX_EXAMPLES, PAGES, excerpt
from beam_pipelines.segment_tables import Sketches, rows_of
from humpback_jax import records
from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.corpus.sketches import Sketcher
from humpback_jax.records import Reject, Segment
from humpback_jax.rundir import Counts, StageDir

_NAMESPACE = "segment"
_log = logging.getLogger(__name__)

# What a file gives to a final shard: its kept segments as Arrow, how many were dropped for which
# reason, and examples of rejects.
Share = tuple[bytes, dict[str, int], list[Reject]]


def shard_of(record_id: str, num_shards: int) -> int:
    """Returns the shard of a record: it depends on its id alone."""
    return int(hashlib.sha256(record_id.encode()).hexdigest()[:15], 16) % num_shards


class _Route(beam.DoFn):
    """(index of an extracted shard, what is dropped of it) -> (final shard, `Share`)."""

    def __init__(self, stage: StageDir, num_shards: int, todo: Sequence[int]):
        self._stage, self._num_shards, self._todo = stage, num_shards, frozenset(todo)

    def process(self, element: tuple[int, list[tuple[str, bytes]]]) -> Iterator[tuple[int, Share]]:
        index, known = element
        table = _read_extracted(self._stage, index)
        reasons = rows_of(known)
        shards = [self._shard(i) for i in table.column("segment_id").to_pylist()]
        kept: dict[int, list[int]] = defaultdict(list)
        counts: dict[int, Counter[str]] = defaultdict(Counter)
        for row, shard in enumerate(shards):
            if row in reasons:
                counts[shard][reasons[row]] += 1
            else:
                kept[shard].append(row)
        rejects: dict[int, list[Reject]] = defaultdict(list)
        for reject in self._examples(index, table, reasons):
            rejects[self._shard(reject.record_id)].append(reject)
        for shard in sorted({*kept, *counts, *rejects} & self._todo):
            segments = _to_bytes(table.take(kept[shard])) if kept[shard] else b""
            yield shard, (segments, dict(counts[shard]), rejects[shard])

    def _shard(self, record_id: str) -> int:
        return shard_of(record_id, self._num_shards)

    def _examples(self, index: int, table: pa.Table, reasons: Mapping[int, str]) -> list[Reject]:
        """Returns examples of what was dropped here, and those of the extraction.

        They are of all shards, whichever are to be written now: a rerun has the same.
        """
        seen: Counter[str] = Counter()
        examples: list[Reject] = []
        for row in sorted(reasons):
            seen[reasons[row]] += 1
            if seen[reasons[row]] <= MAX_EXAMPLES:
                examples.append(_reject(table.slice(row, 1).to_pylist()[0], reasons[row]))
        for folder in (PAGES, f"rejects-{EXTRACTED}"):
            path = self._stage.shard_path(index, folder)
            examples += records.read_parquet(Reject, path) if path.exists() else ()
        return examples


def _reject(segment: Mapping[str, Any], reason: str) -> Reject:
    source = f"{segment['source']['file']}@{segment['source']['offset']}"
    detail = excerpt(segment["header"], segment["text"])
    return Reject(segment["segment_id"], source, reason, detail)


class _WriteShard(beam.DoFn):
    """(final shard, its shares) -> the shard and its done marker."""

    def __init__(self, stage: StageDir, fingerprint: str):
        self._stage, self._fingerprint = stage, fingerprint

    def process(self, element: tuple[int, Iterable[Share | None]]) -> None:
        index, shares = element
        rows: list[dict[str, Any]] = []
        examples: dict[str, list[Reject]] = defaultdict(list)
        dropped: Counter[str] = Counter()
        for share in shares:
            if share is not None:
                segments, counts, rejects = share
                rows += _from_bytes(segments).to_pylist() if segments else []
                dropped.update(counts)
                for reject in rejects:
                    examples[reject.reason].append(reject)
        rows.sort(key=lambda r: (r["segment_id"], r["source"]["file"], r["source"]["offset"]))
        kept = [records.from_dict(Segment, row) for row in rows]
        shown = [r for reason in sorted(examples) for r in _example_sample(examples[reason])]
        counts = Counts(len(kept) + dropped.total(), len(kept), dict(sorted(dropped.items())))
        self._stage.write_shard(index, Segment, kept, counts, self._fingerprint, rejects=shown)
        _count(counts)


def _count(counts: Counts) -> None:
    """Adds to Beam's counters, which show a running job's progress and its funnel."""
    Metrics.counter(_NAMESPACE, "kept").inc(counts.records_out)
    for reason, number in counts.rejects.items():
        Metrics.counter(_NAMESPACE, f"dropped_{reason}").inc(number)


def _example_sample(rejects: list[Reject]) -> list[Reject]:
    def order(reject: Reject) -> tuple[str, ...]:
        return records.stable_id(reject.record_id), *dataclasses.astuple(reject)

    return sorted(rejects, key=order)[:MAX_EXAMPLES]


def _read_extracted(stage: StageDir, index: int) -> pa.Table:
    return pq.read_table(io.BytesIO(stage.shard_path(index, EXTRACTED).read_bytes()))


def _to_bytes(table: pa.Table) -> bytes:
    """Returns rows as they travel to their shard."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, table.schema.remove_metadata(), options=options) as writer:
        writer.write_table(table.replace_schema_metadata())
    return sink.getvalue().to_pybytes()


def _from_bytes(packed: bytes) -> pa.Table:
    return pa.ipc.open_stream(packed).read_all()


def collect(
    stage: StageDir,
    num_files: int,
    filters: SegmentFilters,
    num_shards: int,
    fingerprint: str,
    beam_config: BeamConfig,
) -> None:
    """Writes the final shards that are not done yet."""
    todo = stage.todo(num_shards, fingerprint)
    if not todo:
        return
    _log.info("segment: %d of %d shards to write", len(todo), num_shards)
    sketches = Sketches(stage, EXTRACTED, Sketcher(filters.seed, filters.min_hash))
    num_segments = stage.counts(EXTRACTED).records_out

    def build(pipeline: beam.Pipeline) -> None:
        files = pipeline | "Extracted" >> beam.Create(range(num_files)) | beam.Reshuffle()
        empty = pipeline | "Shards" >> beam.Create([(index, None) for index in todo])
        routed = with_dropped(files, decide(files, sketches, filters, num_segments)) | (
            "Route" >> beam.ParDo(_Route(stage, num_shards, todo))
        )
        _ = (
            (routed, empty)
            | "With empty shards" >> beam.Flatten()
            | "By shard" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(_WriteShard(stage, fingerprint))
        )

    run_pipeline(build, beam_config)

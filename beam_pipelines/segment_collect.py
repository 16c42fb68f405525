"""The second pipeline of the segment stage: all extracted shards -> the final shards."""

import dataclasses
import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from beam_pipelines.execution import BeamConfig, run_pipeline
from beam_pipelines.segment_extract import EXTRACTED, MAX_EXAMPLES, PAGES, Examples, excerpt
from humpback_jax import records
from humpback_jax.corpus.filters import SegmentFilters, sample_key, text_digest
from humpback_jax.records import Reject, Segment
from humpback_jax.rundir import Counts, StageDir

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Row:
    """A segment without its text: what the decisions over the whole corpus need."""

    segment_id: str
    file_index: int
    row: int
    site: str
    sample_key: str


def shard_of(record_id: str, num_shards: int) -> int:
    """Returns the shard of a record: it depends on its id alone."""
    return int(hashlib.sha256(record_id.encode()).hexdigest()[:15], 16) % num_shards


class _ReadRows(beam.DoFn):
    """Index of an extracted shard -> (digest of text, row)."""

    def __init__(self, stage: StageDir, seed: int):
        self._stage, self._seed = stage, seed

    def process(self, element: int) -> Iterator[tuple[str, _Row]]:
        for row, segment in enumerate(_read_extracted(self._stage, element)):
            key = sample_key(self._seed, segment.segment_id)
            light = _Row(segment.segment_id, element, row, segment.site, key)
            yield text_digest(segment.text), light


class _KeepFirst(beam.DoFn):
    """Of each group keeps the first rows by `order`; the others come out as "dropped"."""

    def __init__(self, limit: int, by_sample_key: bool, reason: str):
        self._limit, self._by_sample_key, self._reason = limit, by_sample_key, reason

    def process(self, element: tuple[Any, Iterable[Any]]) -> Iterator[Any]:
        # The place in the corpus settles ties: an archive may hold the same record twice.
        rows = sorted(
            element[1],
            key=lambda r: (r.sample_key if self._by_sample_key else r.segment_id, *_place(r)),
        )
        yield from rows[: self._limit]
        for row in rows[self._limit :]:
            yield pvalue.TaggedOutput("dropped", (row.file_index, (row.row, self._reason)))


def _place(row: _Row) -> tuple[int, int]:
    return row.file_index, row.row


class _Route(beam.DoFn):
    """(index of an extracted shard, dropped rows) -> (final shard, segment, reject or counts)."""

    def __init__(self, stage: StageDir, num_shards: int, todo: Sequence[int]):
        self._stage, self._num_shards, self._todo = stage, num_shards, frozenset(todo)

    def process(self, element: tuple[int, dict[str, list]]) -> Iterator[tuple[int, Any]]:
        index, groups = element
        dropped = dict(groups["dropped"])
        counts: dict[int, Counter[str]] = defaultdict(Counter)
        examples = Examples()
        for row, segment in enumerate(_read_extracted(self._stage, index)):
            shard = shard_of(segment.segment_id, self._num_shards)
            if shard not in self._todo:
                continue
            reason = dropped.get(row)
            if reason is None:
                yield shard, segment
                continue
            counts[shard][reason] += 1
            source = f"{segment.source.file}@{segment.source.offset}"
            detail = excerpt(segment.header, segment.text)
            examples.add(Reject(segment.segment_id, source, reason, detail))
        yield from counts.items()
        earlier = (self._stage.shard_path(index, f) for f in (PAGES, f"rejects-{EXTRACTED}"))
        for path in earlier:
            for reject in records.read_parquet(Reject, path) if path.exists() else ():
                examples.rejects.append(reject)
        for reject in examples.rejects:
            shard = shard_of(reject.record_id, self._num_shards)
            if shard in self._todo:
                yield shard, reject


class _WriteShard(beam.DoFn):
    """(final shard, its segments, example rejects and counts) -> the shard and its done marker."""

    def __init__(self, stage: StageDir, fingerprint: str):
        self._stage, self._fingerprint = stage, fingerprint

    def process(self, element: tuple[int, Iterable[Any]]) -> None:
        index, values = element
        segments: list[Segment] = []
        examples: dict[str, list[Reject]] = defaultdict(list)
        dropped: Counter[str] = Counter()
        for value in values:
            if isinstance(value, Segment):
                segments.append(value)
            elif isinstance(value, Reject):
                examples[value.reason].append(value)
            elif isinstance(value, Counter):
                dropped += value
        segments.sort(key=lambda s: (s.segment_id, s.source.file, s.source.offset))
        kept = [r for reason in sorted(examples) for r in _example_sample(examples[reason])]
        counts = Counts(
            len(segments) + dropped.total(), len(segments), dict(sorted(dropped.items()))
        )
        self._stage.write_shard(index, Segment, segments, counts, self._fingerprint, rejects=kept)


def _example_sample(rejects: list[Reject]) -> list[Reject]:
    def order(reject: Reject) -> tuple[str, ...]:
        return records.stable_id(reject.record_id), *dataclasses.astuple(reject)

    return sorted(rejects, key=order)[:MAX_EXAMPLES]


def _read_extracted(stage: StageDir, index: int) -> list[Segment]:
    return records.read_parquet(Segment, stage.shard_path(index, EXTRACTED))


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

    def build(pipeline: beam.Pipeline) -> None:
        archives = pipeline | "Extracted" >> beam.Create(range(num_files))
        rows = (
            archives
            | "Spread rows" >> beam.Reshuffle()
            | "Read rows" >> beam.ParDo(_ReadRows(stage, filters.seed))
        )
        dropped = _decide(rows, filters)
        empty = pipeline | "Shards" >> beam.Create([(index, None) for index in todo])
        routed = (
            {"archive": archives | beam.Map(lambda index: (index, None)), "dropped": dropped}
            | "Join" >> beam.CoGroupByKey()
            | "Route" >> beam.ParDo(_Route(stage, num_shards, todo))
        )
        _ = (
            (routed, empty)
            | "With empty shards" >> beam.Flatten()
            | "By shard" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(_WriteShard(stage, fingerprint))
        )

    run_pipeline(build, beam_config)


def _decide(rows: pvalue.PCollection, filters: SegmentFilters) -> Any:
    """Returns what is dropped: (index of the extracted shard, (row, reason))."""

    def keep_first(groups: pvalue.PCollection, label: str, step: _KeepFirst) -> Any:
        keyed = groups | f"Group {label}" >> beam.GroupByKey()
        return keyed | f"Keep {label}" >> beam.ParDo(step).with_outputs("dropped", main="kept")

    unique = keep_first(rows, "texts", _KeepFirst(1, False, "duplicate"))
    kept, dropped = unique.kept, [unique.dropped]
    if filters.max_per_site:
        by_site = kept | "By site" >> beam.Map(lambda row: (row.site, row))
        capped = keep_first(by_site, "sites", _KeepFirst(filters.max_per_site, True, "site_cap"))
        kept = capped.kept
        dropped.append(capped.dropped)
    if filters.max_segments:
        dropped.append(_outside_sample(kept, filters.max_segments))
    return dropped | "Dropped" >> beam.Flatten()


def _outside_sample(rows: pvalue.PCollection, size: int) -> Any:
    # Only keys are brought together; the largest key of the sample then divides the rows.
    keys: Any = rows | "Sample keys" >> beam.Map(
        lambda row: (row.sample_key, row.file_index, row.row)
    )
    last: Any = (
        keys
        | "Smallest keys" >> beam.combiners.Top.Smallest(size)
        | "Largest of them" >> beam.Map(lambda smallest: max(smallest, default=None))
    )
    return rows | "Outside the sample" >> beam.FlatMap(
        lambda row, last: (
            [(row.file_index, (row.row, "not_sampled"))]
            if (row.sample_key, row.file_index, row.row) > last
            else []
        ),
        pvalue.AsSingleton(last),
    )

"""Which extracted segments are dropped for the sake of others: duplicates, site cap, sample.

Every step has the same form. A file offers entries of its segments that are left (a few numbers
each, packed in arrays: an element holds thousands), entries with equal keys come together through a
GroupByKey over parts of the key's range, and what is decided goes back to the file as "dropped".
Which rows of which files meet is a matter of their keys alone, so the parts decide nothing.

    sketches of the files -+- by text ---------------------------- duplicate
                           +- by band - those that meet - by band - near_duplicate
                           +- by site ---------------------------- site_cap
                           +- smallest sample keys --------------- not_sampled

Each step offers what the steps before have left. No text is moved.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam import pvalue

from beam_pipelines.segment_tables import (
    Dropped,
    Sketches,
    as_dropped,
    divided,
    gathered,
    group_starts,
    groups,
    rows_left,
)
from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.corpus.near_duplicates import MinHash, in_bucket

# Entries of a part: what a worker sorts at a time.
_PART = 1 << 20
# Bytes of sample keys that may pile up before they are sorted.
_SLACK = 1 << 20

_PLACE = [("file", "<u4"), ("row", "<u4")]
_KEYED = np.dtype([("key", "<u8", 2), ("order", "<u8"), *_PLACE])
_BANDED = np.dtype([("key", "<u8"), *_PLACE])
_SAMPLED = np.dtype([("key", "<u8"), *_PLACE])


def decide(
    files: pvalue.PCollection, sketches: Sketches, filters: SegmentFilters, num_segments: int
) -> Any:
    """Returns what is dropped, as `Dropped`.

    Args:
      files: indices of the extracted shards.
      sketches: of these shards; those that are absent are written.
      filters: what is to be dropped.
      num_segments: of all shards together, by which the work is divided.
    """

    def parts(entries: int) -> int:
        return max(1, math.ceil(num_segments * entries / _PART))

    sketched = files | "Sketch" >> beam.ParDo(_Sketch(sketches))
    texts = _KeepFirst("text", "id", 1, "duplicate")
    dropped = [*_apply(texts, _left(sketched, [], "texts"), sketches, parts(1), "texts")]
    min_hash = filters.min_hash
    if min_hash is not None:
        left = _left(sketched, dropped, "bands")
        met = (
            left
            | "Offer bands" >> beam.ParDo(_OfferBands(sketches, parts(min_hash.bands)))
            | "By band" >> beam.GroupByKey()
            | "Meet" >> beam.ParDo(_Meet())
        )
        dropped.append(
            _left(sketched, [met], "signatures")
            | "Offer signatures" >> beam.ParDo(_OfferSignatures(sketches, parts(1)))
            | "Signatures by band" >> beam.GroupByKey()
            | "Compare" >> beam.ParDo(_Compare(min_hash))
        )
    if filters.max_per_site:
        sites = _KeepFirst("site", "sample", filters.max_per_site, "site_cap")
        left = _left(sketched, dropped, "sites")
        dropped += _apply(sites, left, sketches, parts(1), "sites")
    if filters.max_segments:
        left = _left(sketched, dropped, "sample")
        dropped.append(_outside_sample(left, sketches, filters.max_segments))
    return dropped | "Dropped" >> beam.Flatten()


def _left(files: Any, dropped: Sequence[Any], label: str) -> Any:
    """Returns (index of a file, {"dropped": what is known of it})."""
    known = {"file": files | f"Files, {label}" >> beam.Map(lambda index: (index, None))}
    for number, some in enumerate(dropped):
        known[f"dropped {number}"] = some
    joined = known | f"Files left, {label}" >> beam.CoGroupByKey()
    return joined | f"Known, {label}" >> beam.MapTuple(_known)


def _known(index: int, groups: Mapping[str, Iterable[Any]]) -> tuple[int, list[Any]]:
    return index, [value for name, values in groups.items() if name != "file" for value in values]


def with_dropped(files: Any, dropped: Any) -> Any:
    """Returns (index of a file, [(reason, its rows as bytes), ...]) for every file."""
    return _left(files, [dropped], "all")


class _Sketch(beam.DoFn):
    """Index of a file -> the same, once its sketch is there."""

    def __init__(self, sketches: Sketches):
        self._sketches = sketches

    def process(self, element: int) -> Iterator[int]:
        self._sketches.write(element)
        yield element


# Of equal keys the first are kept.


@dataclasses.dataclass(frozen=True)
class _KeepFirst:
    """Of the segments that are equal in `column` the first `limit` by `order` are kept."""

    column: str
    order: str
    limit: int
    reason: str

    def entries(self, index: int, sketch: np.ndarray, rows: np.ndarray) -> np.ndarray:
        entries = np.zeros(len(rows), _KEYED)
        entries["key"], entries["order"] = sketch[self.column][rows], sketch[self.order][rows]
        entries["file"], entries["row"] = index, rows
        return entries

    def divide(self, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the entries that are kept and those that are dropped."""
        # The place in the corpus settles ties: an archive may hold the same record twice.
        key = entries["key"]
        by = (entries["row"], entries["file"], entries["order"], key[:, 1], key[:, 0])
        entries = entries[np.lexsort(by)]
        starts = group_starts(entries["key"])
        sizes = np.diff(starts, append=len(entries))
        rank = np.arange(len(entries)) - np.repeat(starts, sizes)
        return entries[rank < self.limit], entries[rank >= self.limit]


def _apply(step: _KeepFirst, left: Any, sketches: Sketches, parts: int, label: str) -> list[Any]:
    """Returns what a step drops, as two collections."""
    offered = left | f"Offer {label}" >> beam.ParDo(_Offer(step, sketches, parts)).with_outputs(
        "dropped", main="offered"
    )
    grouped = offered.offered | f"Group {label}" >> beam.GroupByKey()
    return [offered.dropped, grouped | f"Keep {label}" >> beam.ParDo(_Keep(step))]


class _Offer(beam.DoFn):
    """(file, what was dropped of it) -> (part, entries), and what it decides alone."""

    def __init__(self, step: _KeepFirst, sketches: Sketches, parts: int):
        self._step, self._sketches, self._parts = step, sketches, parts

    def process(self, element: tuple[int, list[tuple[str, bytes]]]) -> Iterator[Any]:
        index, known = element
        sketch = self._sketches.read(index)
        entries = self._step.entries(index, sketch, rows_left(sketch, known))
        # A site with more in this file than it may have in all sends no more than that.
        kept, dropped = self._step.divide(entries)
        yield from divided(kept, self._parts)
        for file_dropped in as_dropped(dropped, self._step.reason):
            yield pvalue.TaggedOutput("dropped", file_dropped)


class _Keep(beam.DoFn):
    """(part, entries of all files) -> what is dropped of each file."""

    def __init__(self, step: _KeepFirst):
        self._step = step

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Dropped]:
        _, dropped = self._step.divide(gathered(element[1], _KEYED))
        yield from as_dropped(dropped, self._step.reason)


# Near duplicates.


class _OfferBands(beam.DoFn):
    """(file, what was dropped of it) -> (part, bands of the rows that are left)."""

    def __init__(self, sketches: Sketches, parts: int):
        self._sketches, self._parts = sketches, parts

    def process(self, element: tuple[int, list[tuple[str, bytes]]]) -> Iterator[tuple[int, bytes]]:
        index, known = element
        sketch = self._sketches.read(index)
        rows = rows_left(sketch, known)
        keys = sketch["bands"][rows]
        entries = np.zeros(keys.size, _BANDED)
        entries["key"], entries["file"] = keys.ravel(), index
        entries["row"] = np.repeat(rows, keys.shape[1])
        yield from divided(entries, self._parts)


class _Meet(beam.DoFn):
    """(part, bands) -> (file, bands that it shares with others, and whose they are)."""

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[tuple[int, bytes]]:
        entries = gathered(element[1], _BANDED)
        entries = entries[np.argsort(entries["key"], kind="stable")]
        starts = group_starts(entries["key"])
        sizes = np.diff(starts, append=len(entries))
        shared = entries[np.repeat(sizes > 1, sizes)]
        for file, some in groups(shared["file"]):
            yield file, shared[some].tobytes()


class _OfferSignatures(beam.DoFn):
    """(file, bands that it shares) -> (part, these bands with the signatures of their rows)."""

    def __init__(self, sketches: Sketches, parts: int):
        self._sketches, self._parts = sketches, parts

    def process(self, element: tuple[int, list[bytes]]) -> Iterator[tuple[int, bytes]]:
        index, shared = element
        if not shared:
            return
        bands = gathered(shared, _BANDED)
        sketch = self._sketches.read(index)
        signatures = sketch["signature"][bands["row"]]
        entries = np.zeros(len(bands), _signed(signatures.shape[1]))
        for name in _BANDED.names or ():
            entries[name] = bands[name]
        entries["order"], entries["signature"] = sketch["id"][bands["row"]], signatures
        yield from divided(entries, self._parts)


def _signed(permutations: int) -> np.dtype:
    """Returns the type of a band that has its row's order and signature with it."""
    signature = ("signature", "u1", (permutations,))
    return np.dtype([("key", "<u8"), ("order", "<u8"), *_PLACE, signature])


class _Compare(beam.DoFn):
    """(part, bands with signatures) -> what is dropped of each file."""

    def __init__(self, min_hash: MinHash):
        self._min_hash = min_hash

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Dropped]:
        entries = gathered(element[1], _signed(self._min_hash.permutations))
        order = np.lexsort((entries["row"], entries["file"], entries["order"], entries["key"]))
        starts = group_starts(entries["key"][order])
        dropped = [
            bucket[in_bucket(entries["signature"][bucket], self._min_hash)]
            for bucket in np.split(order, starts[1:])
        ]
        yield from as_dropped(entries[np.concatenate(dropped)], "near_duplicate")


# The sample.


def _outside_sample(left: Any, sketches: Sketches, size: int) -> Any:
    # Only keys are brought together; the largest key of the sample then divides the rows.
    last = (
        left
        | "Sample keys" >> beam.ParDo(_OfferSample(sketches))
        | "Last of the sample" >> beam.CombineGlobally(_LastOfSmallest(size))
    )
    outside = beam.ParDo(_OutsideSample(sketches), pvalue.AsSingleton(last))
    return left | "Outside the sample" >> outside


def _sample_entries(index: int, sketch: np.ndarray, known: Iterable) -> np.ndarray:
    rows = rows_left(sketch, known)
    entries = np.zeros(len(rows), _SAMPLED)
    entries["key"], entries["file"], entries["row"] = sketch["sample"][rows], index, rows
    return entries


class _OfferSample(beam.DoFn):
    """(file, what was dropped of it) -> the sample keys of the rows that are left."""

    def __init__(self, sketches: Sketches):
        self._sketches = sketches

    def process(self, element: tuple[int, list[tuple[str, bytes]]]) -> Iterator[bytes]:
        index, known = element
        yield _sample_entries(index, self._sketches.read(index), known).tobytes()


class _LastOfSmallest(beam.CombineFn):
    """Of all keys the `size`-th by size with its place, None if there are fewer than `size`."""

    def __init__(self, size: int):
        self._size = size

    def create_accumulator(self) -> bytes:
        return b""

    def add_input(self, accumulator: bytes, element: bytes) -> bytes:
        return self._shorten(accumulator + element)

    def merge_accumulators(self, accumulators: Iterable[bytes]) -> bytes:
        return self._shorten(b"".join(accumulators))

    def extract_output(self, accumulator: bytes) -> tuple[int, int, int] | None:
        if len(accumulator) < self._size * _SAMPLED.itemsize:
            return None
        return self._smallest(accumulator)[-1].item()

    def _shorten(self, packed: bytes) -> bytes:
        # Only now and then, since every time costs a sort.
        if len(packed) <= 2 * self._size * _SAMPLED.itemsize + _SLACK:
            return packed
        return self._smallest(packed).tobytes()

    def _smallest(self, packed: bytes) -> np.ndarray:
        entries = np.frombuffer(packed, _SAMPLED)
        order = np.lexsort((entries["row"], entries["file"], entries["key"]))
        return entries[order[: self._size]]


class _OutsideSample(beam.DoFn):
    """(file, what was dropped of it) -> the rows whose keys come after the sample's last."""

    def __init__(self, sketches: Sketches):
        self._sketches = sketches

    def process(
        self, element: tuple[int, list[tuple[str, bytes]]], last: tuple[int, int, int] | None
    ) -> Iterator[Dropped]:
        index, known = element
        if last is None:
            return
        entries = _sample_entries(index, self._sketches.read(index), known)
        key, file, row = last
        after = (entries["file"] > file) | ((entries["file"] == file) & (entries["row"] > row))
        equal = entries["key"] == np.uint64(key)
        outside = (entries["key"] > np.uint64(key)) | (equal & after)
        yield from as_dropped(entries[outside], "not_sampled")

"""Packed tables of segments: a stage's sketches, and entries divided and brought together."""

import itertools
import json
from collections.abc import Iterable, Iterator

import numpy as np
from etils import epath

from humpback_jax.corpus.sketches import Sketcher, read_sketch
from humpback_jax.rundir import StageDir, shard_name, write_atomic

SKETCHES = "sketches"

# What goes back to a file: (index of the file, (reason, numbers of its rows as bytes)).
Dropped = tuple[int, tuple[str, bytes]]


class Sketches:
    """The sketches of a stage's extracted shards, kept beside them.

    A sketch is named for the bytes of its shard too: one of a shard that was made anew is not used.
    """

    def __init__(self, stage: StageDir, folder: str, sketcher: Sketcher):
        self._stage, self._folder, self._sketcher = stage, folder, sketcher

    def write(self, index: int) -> None:
        """Writes a shard's sketch unless it is there."""
        if not self._path(index).exists():
            shard = self._stage.shard_path(index, self._folder)
            write_atomic(self._path(index), self._sketcher.sketch_shard(shard))

    def read(self, index: int) -> np.ndarray:
        return read_sketch(self._path(index))

    def _path(self, index: int) -> epath.Path:
        marker = json.loads(self._stage.marker(index, self._folder).read_text())
        name = f"{shard_name(index)}-{marker['sha256'][:8]}.npy"
        return self._stage.path / SKETCHES / name


def rows_of(known: Iterable[tuple[str, bytes]]) -> dict[int, str]:
    """Returns {row: reason} of what was dropped of a file."""
    return {row: reason for reason, rows in known for row in np.frombuffer(rows, "<u4").tolist()}


def rows_left(sketch: np.ndarray, known: Iterable[tuple[str, bytes]]) -> np.ndarray:
    """Returns the numbers of a file's rows that were not dropped."""
    left = np.ones(len(sketch), bool)
    for _, rows in known:
        left[np.frombuffer(rows, "<u4")] = False
    return np.flatnonzero(left)


def divided(entries: np.ndarray, parts: int) -> Iterator[tuple[int, bytes]]:
    """Divides entries by their keys."""
    keys = entries["key"] if entries["key"].ndim == 1 else entries["key"][:, 0]
    for part, some in groups(keys % np.uint64(parts)):
        yield part, entries[some].tobytes()


def gathered(chunks: Iterable[bytes], dtype: np.dtype) -> np.ndarray:
    """Returns the entries that came together for a part."""
    return np.frombuffer(b"".join(chunks), dtype)


def as_dropped(entries: np.ndarray, reason: str) -> Iterator[Dropped]:
    """Yields entries as what is dropped of their files."""
    for file, some in groups(entries["file"]):
        yield file, (reason, np.unique(entries["row"][some]).astype("<u4").tobytes())


def groups(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields every value with the indices at which it stands."""
    order = np.argsort(values, kind="stable")
    ends = [*group_starts(values[order]).tolist(), len(values)]
    for start, end in itertools.pairwise(ends):
        yield int(values[order[start]]), order[start:end]


def group_starts(keys: np.ndarray) -> np.ndarray:
    """Returns where groups of equal keys begin in sorted keys [N] or [N, 2]."""
    differs = keys[1:] != keys[:-1]
    differs = differs if differs.ndim == 1 else differs.any(axis=1)
    return np.flatnonzero(np.concatenate(([True], differs))[: len(keys)])

"""Segments without their text: what the decisions over a whole corpus need of each.

A sketch is a NumPy table with a row for each segment of a shard. Keys are 64 bits of hashes, so
that tables of millions of rows are sorted and compared at once.
"""

import dataclasses
import hashlib
import io
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
from etils import epath

from humpback_jax.corpus.identity import sample_key
from humpback_jax.corpus.near_duplicates import MinHash
from humpback_jax.corpus.words import word_hashes, words


@dataclasses.dataclass(frozen=True)
class Sketcher:
    """Makes sketches.

    Columns: `id` and `sample` (uint64), by which rows are preferred to others; `text` and `site`
    (two uint64 each), equal for equal words and sites; with `min_hash` also `bands` (uint64
    [bands]), the buckets in which near duplicates meet, and `signature` (uint8 [P]).

    Attributes:
      seed: of the sample.
      min_hash: how near duplicates are found, None if they are not looked for.
    """

    seed: int
    min_hash: MinHash | None

    @property
    def dtype(self) -> np.dtype:
        columns: list[tuple] = [("id", "<u8"), ("sample", "<u8"), ("text", "<u8", 2)]
        columns.append(("site", "<u8", 2))
        if self.min_hash is not None:
            columns.append(("bands", "<u8", (self.min_hash.bands,)))
            columns.append(("signature", "u1", (self.min_hash.permutations,)))
        return np.dtype(columns)

    def sketch(self, ids: Sequence[str], sites: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """Returns the table of segments, a row for each."""
        table = np.zeros(len(ids), self.dtype)
        table["id"] = [_from_hex(i) for i in ids]
        table["sample"] = [_from_hex(sample_key(self.seed, i)) for i in ids]
        table["site"] = _digests(site.encode("utf-8", "surrogatepass") for site in sites)
        found = [words(text) for text in texts]
        table["text"] = _digests(" ".join(f).encode("utf-8", "surrogatepass") for f in found)
        if self.min_hash is not None and len(ids):
            values = np.stack([self.min_hash.values(word_hashes(f)) for f in found])
            table["bands"] = self.min_hash.band_keys(values)
            table["signature"] = values.astype(np.uint8)
        return table

    def sketch_shard(self, path: epath.Path) -> bytes:
        """Returns the sketch of a Parquet file of segments as an .npy file."""
        columns = ["segment_id", "site", "text"]
        shard = pq.read_table(io.BytesIO(path.read_bytes()), columns=columns)
        table = self.sketch(*(shard.column(name).to_pylist() for name in columns))
        buffer = io.BytesIO()
        np.save(buffer, table, allow_pickle=False)
        return buffer.getvalue()


def read_sketch(path: epath.Path) -> np.ndarray:
    """Returns a table that `Sketcher.sketch_shard` wrote."""
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)


def _from_hex(text: str) -> int:
    return int(text[:16], 16)


def _digests(values) -> np.ndarray:
    """Returns 128 bits of each value's hash: uint64 [N, 2]."""
    joined = b"".join(hashlib.sha256(value).digest()[:16] for value in values)
    return np.frombuffer(joined, "<u8").reshape(-1, 2)

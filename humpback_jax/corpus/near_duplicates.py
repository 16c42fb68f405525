"""Near duplicates: MinHash signatures of texts, and what is dropped of those that share a band.

The Jaccard similarity of two texts is the share of word n-grams (shingles) that they have in
common. Each of P hash functions keeps its smallest value over a text's shingles; two texts agree on
one of these values with a probability that is their similarity. The P values are cut into bands of
R: texts that agree on a whole band meet in its bucket, and there the P values of both say how
similar they are.

    P = 128, threshold 0.8  ->  R = 8, 16 bands; a pair of similarity 0.8 meets with a probability
    of 0.95, one of 0.5 with 0.06 (and is then found to be different)

Written here rather than taken from a library, since equal texts have to give equal values with
every version: those of rensa 0.3.1, 0.4.1 and 0.5.0 all differ.
"""

import dataclasses
import functools
import hashlib

import numpy as np

from humpback_jax.corpus.words import gram_hashes, mix

# The share of pairs at the threshold that must meet in a bucket.
_MEET = 0.9
# Of a bucket's texts that differ, this many are compared with all others: its cost stays linear.
MAX_LEADERS = 16
# Shingles that are permuted at a time, so that a long text takes no more memory than a short one.
_CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class MinHash:
    """How texts are compared.

    Attributes:
      permutations: hash functions (P).
      shingle: words of a shingle.
      threshold: texts of this similarity or more are near duplicates.
    """

    permutations: int
    shingle: int
    threshold: float

    @property
    def rows(self) -> int:
        """Values of a band: as many as still let pairs at the threshold meet."""
        for rows in range(self.permutations, 1, -1):
            bands = self.permutations // rows
            if 1 - (1 - self.threshold**rows) ** bands >= _MEET:
                return rows
        return 1

    @property
    def bands(self) -> int:
        return self.permutations // self.rows

    def values(self, hashes: np.ndarray) -> np.ndarray:
        """Returns the smallest value of each hash function: uint32 [P].

        Args:
          hashes: of the text's words in order; a text shorter than a shingle is one shingle.
        """
        shingle = max(1, min(self.shingle, len(hashes)))
        shingles = (gram_hashes(hashes, shingle) >> np.uint64(32)).astype(np.uint32)
        factors, summands = _functions(self.permutations)
        smallest = np.full(self.permutations, 0xFFFFFFFF, np.uint32)
        for start in range(0, len(shingles), _CHUNK):
            permuted = shingles[start : start + _CHUNK, None] * factors
            permuted += summands
            np.minimum(smallest, permuted.min(axis=0), out=smallest)
        return smallest

    def band_keys(self, values: np.ndarray) -> np.ndarray:
        """Returns the bucket of each band: uint64 [N, bands] of values [N, P]."""
        rows, bands = self.rows, self.bands
        banded = values[:, : rows * bands].reshape(len(values), bands, rows).astype(np.uint64)
        keys = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), banded.shape[:2])
        for row in range(rows):
            keys = mix(keys + banded[:, :, row])
        return keys

    def similar(self, signatures: np.ndarray, leader: np.ndarray) -> np.ndarray:
        """Returns which signatures [N, P] are near duplicates of the leader's [P].

        One byte of each value is kept: different values agree in it once in 256 times.
        """
        agreeing = (signatures == leader).mean(axis=1)
        return agreeing >= self.threshold + (1 - self.threshold) / 256


@functools.cache
def _functions(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns odd factors and summands of hash functions on 32 bits, the same for ever."""
    digests = [hashlib.blake2b(f"minhash {n}".encode(), digest_size=8) for n in range(count)]
    numbers = np.frombuffer(b"".join(d.digest() for d in digests), "<u4").reshape(count, 2)
    return numbers[:, 0] | np.uint32(1), numbers[:, 1].copy()


def in_bucket(signatures: np.ndarray, min_hash: MinHash) -> np.ndarray:
    """Returns which texts of a bucket are dropped: bool [N].

    The first text is kept and all that are similar to it go; of what remains the first is kept, and
    so on. What is left after `MAX_LEADERS` of them is kept unseen.

    Args:
      signatures: one byte of each value, uint8 [N, P], in the order in which texts are preferred.
      min_hash: how texts are compared.
    """
    dropped = np.zeros(len(signatures), bool)
    rest = np.arange(len(signatures))
    for _ in range(MAX_LEADERS):
        if len(rest) < 2:
            break
        leader, others = rest[0], rest[1:]
        similar = min_hash.similar(signatures[others], signatures[leader])
        dropped[others[similar]] = True
        rest = others[~similar]
    return dropped

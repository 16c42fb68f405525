"""A text as words, and as 64-bit hashes of its words and n-grams.

Duplicates and contamination are found by these hashes: they are the same in every process, on
every machine and with every version of Python and NumPy.
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

# Chinese and Japanese write no spaces: each of their signs is a word.
_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_ASCII_WORD = re.compile(r"\w+", re.ASCII)
_WORD = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")
# Odd, so that multiplying loses nothing; the bits of the golden ratio and of splitmix64.
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_KNOWN_WORDS = 1 << 19


def words(text: str) -> list[str]:
    """Returns the words of a text without case and punctuation: "The oven's" -> the, oven, s."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@functools.lru_cache(_KNOWN_WORDS)
def _word_hash(word: str) -> int:
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def word_hashes(found: Sequence[str]) -> np.ndarray:
    """Returns the hash of each word: uint64 [words]."""
    return np.fromiter(map(_word_hash, found), np.uint64, len(found))


def gram_hashes(hashes: np.ndarray, ngram: int) -> np.ndarray:
    """Returns the hash of every `ngram` words in a row: uint64 [words - ngram + 1], mixed.

    A text of fewer words has none.
    """
    count = max(0, len(hashes) - ngram + 1)
    grams = hashes[:count]
    for offset in range(1, ngram):
        grams = grams * _BASE + hashes[offset : offset + count]
    return mix(grams)


def mix(values: np.ndarray) -> np.ndarray:
    """Returns uint64 values of which every bit depends on every bit of what was given."""
    values = (values ^ (values >> np.uint64(30))) * _MIX
    return values ^ (values >> np.uint64(31))


def text_digest(text: str) -> str:
    """Returns equal digests for texts that differ in case, white space and punctuation only."""
    joined = " ".join(words(text)).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()[:32]

"""A text as words, and as 64-bit hashes of its words and n-grams.

Duplicates and contamination are found by these hashes: they are the same in every process, on
every machine and with every version of Python and NumPy.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

# Chinese and Japanese write no spaces: each of their signs is a word.
_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_SIGN = re.compile(f"[{_SIGNS}]")
_WORD = re.compile(r"\w+")
_WORD_OR_SIGN = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")
# Of ASCII all that is in no word becomes a space: a third of the time that the pattern takes.
_SPACED = {n: " " for n in range(128) if not (chr(n).isalnum() or chr(n) == "_")}
# Odd, so that multiplying loses nothing; the bits of the golden ratio and of splitmix64.
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
# The signs for which most English text is not ASCII; none is part of a word.
_TYPOGRAPHY = "\u2019\u2018\u201c\u201d\u2013\u2014\u2026\u2022\u00a0\u00a7\u00b7\u2192\u00b6"
_KNOWN_WORDS = 1 << 19


def words(text: str) -> list[str]:
    """Returns the words of a text without case and punctuation: "The oven's" -> the, oven, s."""
    if not text.isascii():
        for sign in _TYPOGRAPHY:
            text = text.replace(sign, " ")
    if text.isascii():
        return text.lower().translate(_SPACED).split()
    text = unicodedata.normalize("NFKC", text).casefold()
    return (_WORD_OR_SIGN if _SIGN.search(text) else _WORD).findall(text)


class _WordHashes(dict[str, int]):
    """The hashes of the words that this process has met."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _KNOWN_WORDS:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = value = int.from_bytes(digest, "little")
        return value


_HASHES = _WordHashes()


def word_hashes(found: Sequence[str]) -> np.ndarray:
    """Returns the hash of each word: uint64 [words]."""
    return np.fromiter(map(_HASHES.__getitem__, found), np.uint64, len(found))


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

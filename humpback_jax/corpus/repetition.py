"""How repetitive a text is: the largest n-gram Jaccard similarity between two of its sentences."""

import re

_SENTENCE_END = re.compile(r"(?<=[.!?\u3002])[\"'\u201d\u2019)\]]*\s+|\n+")
# Words of letters: rows of numbers in tables and code are no repetition.
_WORD = re.compile(r"[^\W\d_]+")
_ASCII_WORD = re.compile(r"[a-z]+")


def sentences(text: str) -> list[str]:
    """Splits text at line breaks and at sentence ends: "One. Two!" -> ["One.", "Two!"]."""
    return [s for s in _SENTENCE_END.split(text) if s]


def repetition(text: str, ngram: int, min_words: int, stop_above: float = 1.0) -> float:
    """Returns the largest Jaccard similarity of the word n-grams of two sentences of the text.

    Two sentences are compared only if they share so many n-grams that they could be more similar
    than any before, so that a text without repetition costs one pass.

    Args:
      text: lines and sentences.
      ngram: words of an n-gram.
      min_words: sentences with fewer words are left out.
      stop_above: the first similarity above this is returned at once; the text is rejected anyway.
    """
    folded = text.casefold()
    word = _ASCII_WORD if folded.isascii() else _WORD
    fewest = max(min_words, ngram)
    earlier: list[set[tuple[str, ...]]] = []
    seen: set[tuple[str, ...]] = set()
    largest = 0.0
    for sentence in sentences(folded):
        words = word.findall(sentence)
        if len(words) < fewest:
            continue
        grams = set(zip(*(words[i:] for i in range(ngram)), strict=False))
        known = len(grams & seen)
        for other in earlier if known > largest * len(grams) else ():
            shared = len(grams & other)
            largest = max(largest, shared / (len(grams) + len(other) - shared))
        if largest > stop_above:
            return largest
        earlier.append(grams)
        seen |= grams
    return largest

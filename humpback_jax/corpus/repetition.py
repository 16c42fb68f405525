"""How repetitive a text is: the largest n-gram Jaccard similarity between two of its sentences."""

import re
from collections import Counter

_SENTENCE_END = re.compile(r"(?<=[.!?\u3002])[\"'\u201d\u2019)\]]*\s+|\n+")
# Words of letters: rows of numbers in tables and code are no repetition.
_WORD = re.compile(r"[^\W\d_]+")


def sentences(text: str) -> list[str]:
    """Splits text at line breaks and at sentence ends: "One. Two!" -> ["One.", "Two!"]."""
    return [s for s in _SENTENCE_END.split(text) if s]


def repetition(text: str, ngram: int, min_words: int, stop_above: float = 1.0) -> float:
    """Returns the largest Jaccard similarity of the word n-grams of two sentences of the text.

    Only sentences that share an n-gram are compared, found through an index, so that a text
    without repetition costs one pass.

    Args:
      text: lines and sentences.
      ngram: words of an n-gram.
      min_words: sentences with fewer words are left out.
      stop_above: the first similarity above this is returned at once; the text is rejected anyway.
    """
    sizes: list[int] = []
    index: dict[tuple[str, ...], list[int]] = {}
    largest = 0.0
    for sentence in sentences(text.casefold()):
        words = _WORD.findall(sentence)
        if len(words) < max(min_words, ngram):
            continue
        grams = set(zip(*(words[i:] for i in range(ngram)), strict=False))
        shared: Counter[int] = Counter()
        for gram in grams:
            earlier = index.setdefault(gram, [])
            shared.update(earlier)
            earlier.append(len(sizes))
        for other, count in shared.items():
            largest = max(largest, count / (len(grams) + sizes[other] - count))
        if largest > stop_above:
            return largest
        sizes.append(len(grams))
    return largest

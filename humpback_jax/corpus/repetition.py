"""How repetitive a text is: the share of it in sentences that nearly repeat an earlier one.

The paper rejects a segment for one pair of similar sentences. On pages of documentation that takes
away one good segment in nine and no bad one: "Returns NULL on failure." may be said twice. What
makes a text worthless is that much of it is said twice (docs/corpus.md has the numbers).
"""

import re

_SENTENCE_END = re.compile(r"(?<=[.!?\u3002])[\"'\u201d\u2019)\]]*\s+|\n+")
# Words of letters: rows of numbers in tables and code are no repetition.
_WORD = re.compile(r"[^\W\d_]+")
_ASCII_WORD = re.compile(r"[a-z]+")


def sentences(text: str) -> list[str]:
    """Splits text at line breaks and at sentence ends: "One. Two!" -> ["One.", "Two!"]."""
    return [s for s in _SENTENCE_END.split(text) if s]


def repetition(text: str, ngram: int, min_words: int, similarity: float) -> float:
    """Returns the share of the text's characters in sentences that repeat an earlier one.

    A sentence repeats another if the Jaccard similarity of their word n-grams is larger than
    `similarity`. Only sentences of which enough n-grams were seen before are compared, so that a
    text without repetition costs one pass.

        "Add it to the cart now. It is red. Add it to the cart now."    ->    23 / 58

    Args:
      text: lines and sentences.
      ngram: words of an n-gram.
      min_words: sentences with fewer words repeat nothing.
      similarity: above this two sentences are nearly the same.
    """
    folded = text.casefold()
    word = _ASCII_WORD if folded.isascii() else _WORD
    fewest = max(min_words, ngram)
    earlier: list[set[tuple[str, ...]]] = []
    seen: set[tuple[str, ...]] = set()
    repeated = 0
    for sentence in sentences(folded):
        words = word.findall(sentence)
        if len(words) < fewest:
            continue
        grams = set(zip(*(words[i:] for i in range(ngram)), strict=False))
        if len(grams & seen) > similarity * len(grams) and _is_similar(grams, earlier, similarity):
            repeated += len(sentence)
        else:
            # What repeats another may be left out: the other stands for it.
            earlier.append(grams)
            seen |= grams
    return repeated / len(folded) if folded else 0.0


def _is_similar(grams: set, others: list[set], similarity: float) -> bool:
    for other in others:
        shared = len(grams & other)
        if shared > similarity * (len(grams) + len(other) - shared):
            return True
    return False

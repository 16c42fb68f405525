"""How repetitive a text is: the share of it in sentences that nearly repeat an earlier one.

The paper rejects a segment for one pair of similar sentences. On pages of documentation that takes
away one good segment in nine and no bad one: "Returns NULL on failure." may be said twice. What
makes a text worthless is that much of it is said twice (docs/corpus.md has the numbers).
"""

import re
from collections.abc import Iterator

# One set of characters in front lets the engine skip to the next of them.
_SENTENCE_END = re.compile(r"[.!?\u3002\n](?:(?<=\n)\s*|[\"'\u201d\u2019)\]]*\s+)")
# Words of letters: rows of numbers in tables and code are no repetition.
_WORD = re.compile(r"[^\W\d_]+")
_NO_LETTERS = {n: " " for n in range(128) if not chr(n).isalpha()}


def sentences(text: str) -> list[str]:
    """Splits text at line breaks and after sentences: "One. Two!" -> ["One", "Two!"]."""
    return _SENTENCE_END.split(text)


def repetition(text: str, ngram: int, min_words: int, similarity: float) -> float:
    """Returns the share of the text's characters in sentences that repeat an earlier one.

    A sentence repeats another, which repeats none, if the Jaccard similarity of their word n-grams
    is larger than `similarity`. Only a sentence that adds few new n-grams is compared with others,
    so that a text without repetition costs one pass.

        "Add it to the cart now. It is red. Add it to the cart now!"    ->    23 / 58

    Args:
      text: lines and sentences.
      ngram: words of an n-gram.
      min_words: sentences with fewer words repeat nothing.
      similarity: above this two sentences are nearly the same.
    """
    folded = text.casefold()
    seen: set[tuple[str, ...]] = set()
    earlier: list[list[str]] = []
    earlier_grams: list[set[tuple[str, ...]]] = []
    repeated = 0
    for sentence in sentences(folded):
        words = _words(sentence)
        if len(words) < max(min_words, ngram):
            continue
        before = len(seen)
        seen.update(_ngrams(words, ngram))
        if len(seen) - before < (1 - similarity) * (len(words) - ngram + 1):
            earlier_grams += [set(_ngrams(w, ngram)) for w in earlier[len(earlier_grams) :]]
            if _is_similar(set(_ngrams(words, ngram)), earlier_grams, similarity):
                repeated += len(sentence)
                continue
        earlier.append(words)
    return repeated / len(folded) if folded else 0.0


def _words(sentence: str) -> list[str]:
    return (
        sentence.translate(_NO_LETTERS).split() if sentence.isascii() else _WORD.findall(sentence)
    )


def _ngrams(words: list[str], ngram: int) -> Iterator[tuple[str, ...]]:
    return zip(words, *[words[i:] for i in range(1, ngram)], strict=False)


def _is_similar(grams: set, others: list[set], similarity: float) -> bool:
    for other in others:
        shared = len(grams & other)
        if shared > similarity * (len(grams) + len(other) - shared):
            return True
    return False

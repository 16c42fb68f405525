"""Texts that give away an evaluation: they share a long n-gram with its prompts or references.

As in the GPT-3 paper (arXiv 2005.14165, appendix C) a text is contaminated if it has `ngram` words
in a row from an evaluation text, without case and punctuation. An evaluation text that is shorter
gives all its words as one n-gram, down to `min_words`; shorter ones are too common to say anything:

    ngram 13, min_words 8
    "What is the boiling point of water at sea level?"    10 words: all of them in a row
    "Name a fruit."                                        3 words: not looked for
"""

import csv
import functools
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from humpback_jax.corpus.words import gram_hashes, word_hashes, words
from humpback_jax.errors import UserError

# A table of bits answers for nearly all n-grams that they are in no evaluation.
_BITS = 22


class EvaluationGrams:
    """The n-grams of evaluation texts.

    Attributes:
      num_texts: evaluation texts that are looked for.
      num_short: texts of fewer than `min_words` words, which are not.
    """

    def __init__(self, texts: Iterable[str], ngram: int, min_words: int):
        self.num_texts = self.num_short = 0
        by_length: defaultdict[int, list[np.ndarray]] = defaultdict(list)
        for text in texts:
            hashes = word_hashes(words(text))
            if len(hashes) < min_words:
                self.num_short += 1
                continue
            self.num_texts += 1
            length = min(ngram, len(hashes))
            by_length[length].append(gram_hashes(hashes, length))
        self._grams = {n: np.unique(np.concatenate(some)) for n, some in sorted(by_length.items())}
        self._seen = {n: _bits(grams) for n, grams in self._grams.items()}

    @property
    def digest(self) -> str:
        """16 hex digits: equal n-grams, equal digits."""
        joined = b"".join(n.to_bytes(4, "big") + g.tobytes() for n, g in self._grams.items())
        return hashlib.sha256(joined).hexdigest()[:16]

    def is_in(self, found: Sequence[str]) -> bool:
        """Returns whether a text, given as its words, holds one of the n-grams."""
        hashes = word_hashes(found)
        for length, grams in self._grams.items():
            of_text = gram_hashes(hashes, length)
            maybe = of_text[self._seen[length][of_text >> np.uint64(64 - _BITS)]]
            if len(maybe) and np.isin(maybe, grams).any():
                return True
        return False


def _bits(grams: np.ndarray) -> np.ndarray:
    seen = np.zeros(1 << _BITS, bool)
    seen[grams >> np.uint64(64 - _BITS)] = True
    return seen


@functools.lru_cache(maxsize=2)
def load_evaluation(files: tuple[str, ...], ngram: int, min_words: int) -> EvaluationGrams:
    """Returns the n-grams of files, read once in a process."""
    texts = (text for file in files for text in evaluation_texts(file))
    return EvaluationGrams(texts, ngram, min_words)


def evaluation_texts(file: epath.PathLike) -> Iterator[str]:
    """Yields every text of an evaluation file, whatever its fields are called.

    Prompts, turns, inputs, outputs, choices and references all count; identifiers and categories
    are shorter than `min_words`. JSON lines (.jsonl), JSON (.json) and CSV (.csv) are read.

    Raises:
      UserError: the file cannot be read or holds no text.
    """
    path = epath.Path(file)
    try:
        content = path.read_bytes().decode("utf-8-sig")
        rows = _rows(path.suffix, content)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"the evaluation file {path} cannot be read ({error}): correct it, or take it out of "
            "SegmentFilters.evaluation"
        ) from error
    texts = list(_strings(rows))
    if not texts:
        raise UserError(
            f"the evaluation file {path} holds no text: give JSONL of {{instruction, output}}, "
            "JSON or CSV"
        )
    yield from texts


def _rows(suffix: str, content: str) -> Any:
    if suffix == ".jsonl":
        return [json.loads(line) for line in content.split("\n") if line.strip()]
    if suffix == ".json":
        return json.loads(content)
    if suffix == ".csv":
        return list(csv.reader(io.StringIO(content, newline="")))
    raise ValueError(f"its name ends in '{suffix}', not in .jsonl, .json or .csv")


def _strings(value: Any) -> Iterator[str]:
    """Yields the strings of a JSON value, those of its lists and objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)

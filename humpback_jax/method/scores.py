"""Grades written as free text: every string gives a score in [1, 5] or a named failure."""

import dataclasses
import re
import unicodedata
from typing import Literal

Failure = Literal["empty", "no_score", "out_of_range", "other_scale", "ambiguous"]

LOWEST, HIGHEST = 1.0, 5.0

_WORDS = {"one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0}
# Marks that models put around a grade: markdown, quotes, brackets, TeX.
_DECORATION = r"[\s*_`~'\"<>(){}\[\]$\\#]{0,16}"
_NUMBER = r"(?P<number>[+\u2212-]?\d+(?:[.,]\d+)*|\b(?:one|two|three|four|five)\b)"
_SCALE = r"(?:[\s*_`]{0,8}(?:/|out\s{1,4}of)[\s*_`]{0,8}(?P<scale>\d+(?:[.,]\d+)?))?"
_TAIL = r"(?P<tail>\w|[\s*_`]{0,4}(?:%|(?:-|\u2013|\u2014|~|to|or)[\s*_`]{0,4}\d))?"
_RANGE = r"(?:\s{0,4}\(\s?(?:out of|from)?\s?(?:[01]\s?(?:-|\u2013|to)\s?)?5\s?\))?"
_LABELLED = re.compile(
    r"\b(?:score|rating|grade)\b" + _RANGE + _DECORATION
    + r"(?:(?::|=|->|=>|→|\u2013|\u2014|-(?=\s)|\bis\b|\bwas\b|\bof\b|\bwould be\b|\bboxed\b)"
    + _DECORATION + r"){0,4}"
    + _NUMBER + _SCALE + _TAIL,
    re.IGNORECASE,
)  # fmt: skip
_BARE = re.compile(_DECORATION + _NUMBER + _SCALE + _TAIL + r"[\s*_`.!>)\]}\"']{0,16}")
_CLOSING = re.compile(r"[\W_]*")


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What a text says: a `score` in [1, 5], or the `failure` that kept it from being one.

    `span` is where the grade with its label stands in the normalised text, (0, 0) if nowhere.
    """

    score: float | None
    failure: Failure | None
    span: tuple[int, int] = (0, 0)


def parse(text: str) -> Parsed:
    """Returns the grade that a text gives last.

    `Score: 5.`, `Score: 5/5`, `**Score: 4**`, `Score: <4>`, `the score is 4.5`, `Rating = four`
    and a text that is nothing but `5` are read. `Score: 10502` fails as "out_of_range",
    `Score: 8/10` as "other_scale", `Score: 3-4` as "ambiguous", a text without one as "no_score".

    It never raises, and takes time linear in the text's length.
    """
    text = normalise(text)
    if not text.strip():
        return Parsed(None, "empty")
    matches = list(_LABELLED.finditer(text))
    match = matches[-1] if matches else _BARE.fullmatch(text)
    if match is None:
        return Parsed(None, "no_score")
    score, failure = _value(match)
    return Parsed(score, failure, match.span())


def parse_ending(text: str) -> tuple[str, Parsed] | None:
    r"""Returns (the text before it, the grade) if a text ends in a valid grade, or None.

    "Clear.\nScore: 4." gives "Clear." and 4.0; "Score: 4, since it is clear" gives None.
    """
    text = normalise(text)
    parsed = parse(text)
    start, end = parsed.span
    if parsed.score is None or not _CLOSING.fullmatch(text, end):
        return None
    return text[:start].rstrip(" \n\t*_#`\"'(["), parsed


def normalise(text: str) -> str:
    """Returns the text in Unicode's compatibility form: full-width digits and colons are ASCII."""
    return unicodedata.normalize("NFKC", text)


def _value(match: re.Match[str]) -> tuple[float | None, Failure | None]:
    number = match["number"].lower()
    if match["tail"]:
        return None, "ambiguous"
    if number not in _WORDS and len(re.findall(r"[.,]", number)) > 1:
        return None, "ambiguous"
    if match["scale"] and float(match["scale"].replace(",", ".")) != HIGHEST:
        return None, "other_scale"
    value = _WORDS.get(number)
    if value is None:
        value = float(number.replace(",", ".").replace("\u2212", "-"))
    return (value, None) if LOWEST <= value <= HIGHEST else (None, "out_of_range")

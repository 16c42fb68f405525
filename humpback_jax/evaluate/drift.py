"""How the ratings of one iteration differ from another's; no truth is needed for that.

Scores are mappings segment id -> score in [1, 5]; what is undefined is None, never 0 or NaN.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping

import numpy as np

GRADES = (1, 2, 3, 4, 5)


def grade_of(score: float) -> int:
    """Returns the grade that a score rounds to, halves upwards: 4.5 is a 5."""
    return min(5, max(1, math.floor(score + 0.5)))


@dataclasses.dataclass(frozen=True)
class Choices:
    """Segments chosen in both of two iterations, in the first or in the second alone."""

    both: int
    only_before: int
    only_after: int


@dataclasses.dataclass(frozen=True)
class Drift:
    """How the scores moved, over the segments that are rated in both iterations.

    Attributes:
      segments: rated in both.
      grades: [5][5] segments, grades[i][j] of those that went from grade i + 1 to j + 1.
      rose: segments with a higher grade than before.
      fell: segments with a lower one.
      mean_change: of the score, None if nothing is rated in both.
      rank_agreement: Spearman's rank correlation of the scores, ties sharing their mean rank:
        1 is the same order, 0 none, -1 the reverse; None if all scores of an iteration are equal.
      choices: None if it is not known what either iteration chose.
    """

    segments: int
    grades: tuple[tuple[int, ...], ...]
    rose: int
    fell: int
    mean_change: float | None
    rank_agreement: float | None
    choices: Choices | None

    @property
    def moved(self) -> int:
        """Segments whose grade is another one than before."""
        return self.rose + self.fell


def drift(
    before: Mapping[str, float],
    after: Mapping[str, float],
    chosen_before: Collection[str] | None = None,
    chosen_after: Collection[str] | None = None,
) -> Drift:
    """Returns how the scores moved from one iteration to another.

    Args:
      before: the first iteration's scores.
      after: the second one's.
      chosen_before: segments that were selected by the first; None if unknown.
      chosen_after: segments that were selected by the second; None if unknown.
    """
    shared = sorted(before.keys() & after.keys())
    old = np.asarray([before[i] for i in shared], np.float64)
    new = np.asarray([after[i] for i in shared], np.float64)
    table = np.zeros((len(GRADES), len(GRADES)), int)
    for first, second in zip(old, new, strict=True):
        table[grade_of(first) - 1, grade_of(second) - 1] += 1
    return Drift(
        segments=len(shared),
        grades=tuple(tuple(int(n) for n in row) for row in table),
        rose=int(np.triu(table, 1).sum()),
        fell=int(np.tril(table, -1).sum()),
        mean_change=float((new - old).mean()) if shared else None,
        rank_agreement=_rank_agreement(old, new),
        choices=_choices(chosen_before, chosen_after),
    )


@dataclasses.dataclass(frozen=True)
class Course:
    """The scores of a segment in all iterations in order, None where it has none.

    `change` is the last of its scores less the first.
    """

    segment_id: str
    scores: tuple[float | None, ...]
    change: float


def side_by_side(scores: Mapping[int, Mapping[str, float]]) -> list[Course]:
    """Returns the scores of each rated segment in all iterations, the greatest change first.

    {1: {"a": 2.0, "b": 3.0}, 2: {"a": 4.5}} gives a: (2.0, 4.5), changed by 2.5, then b:
    (3.0, None), changed by 0. Equal changes are ordered by segment id.

    Args:
      scores: {iteration: scores}.
    """
    iterations = sorted(scores)
    courses = []
    for segment_id in {i for t in iterations for i in scores[t]}:
        row = tuple(scores[t].get(segment_id) for t in iterations)
        known = [score for score in row if score is not None]
        courses.append(Course(segment_id, row, known[-1] - known[0]))
    return sorted(courses, key=lambda c: (-abs(c.change), c.segment_id))


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns the rank of each value, equal ones sharing their mean: [5 3 5] has [2.5 1 2.5].

    Args:
      values: [n] float.

    Returns:
      [n] float64.
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _rank_agreement(old: np.ndarray, new: np.ndarray) -> float | None:
    if not len(old) or np.ptp(old) == 0 or np.ptp(new) == 0:
        return None
    return float(np.corrcoef(ranks(old), ranks(new))[0, 1])


def _choices(before: Collection[str] | None, after: Collection[str] | None) -> Choices | None:
    if before is None or after is None:
        return None
    first, second = set(before), set(after)
    return Choices(len(first & second), len(first - second), len(second - first))

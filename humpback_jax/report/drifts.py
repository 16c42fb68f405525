"""The ratings of all iterations side by side: how they drifted, and which pairs moved most."""

import dataclasses
import math

from humpback_jax.evaluate import drift
from humpback_jax.evaluate.drift import Course, Drift
from humpback_jax.report.grades import by_id
from humpback_jax.report.sources import RunFiles

MOVED = 10


@dataclasses.dataclass(frozen=True)
class Cell:
    """How many segments went from one grade to another; `shade` is 0 to 1."""

    before: int
    after: int
    count: int
    shade: float


@dataclasses.dataclass(frozen=True)
class Step:
    """The drift from an iteration to the next.

    `rows` are the grades before, 5 first; a row holds the grades after, 1 first.
    """

    before: int
    after: int
    drift: Drift
    rows: tuple[tuple[Cell, ...], ...]


def drifts(files: RunFiles) -> list[Step]:
    """Returns the drift between all neighbouring iterations that share a rated segment."""
    pairs = zip(files.iterations, files.iterations[1:], strict=False)
    steps = [_step(files, before, after) for before, after in pairs]
    return [step for step in steps if step.drift.segments]


def _step(files: RunFiles, before: int, after: int) -> Step:
    mixtures = [files.mixture(f"M{t}") for t in (before, after)]
    chosen = [mixture.segment_ids if mixture else None for mixture in mixtures]
    found = drift.drift(files.scores[before], files.scores[after], *chosen)
    most = max(1, *(count for row in found.grades for count in row))
    rows = tuple(
        # The root lets small cells be seen beside large ones.
        tuple(
            Cell(i, j, count, round(math.sqrt(count / most), 3))
            for j, count in enumerate(found.grades[i - 1], start=1)
        )
        for i in reversed(drift.GRADES)
    )
    return Step(before, after, found, rows)


@dataclasses.dataclass(frozen=True)
class Moved:
    """A pair whose score moved; `chosen` says for each iteration whether it was trained on."""

    course: Course
    chosen: tuple[bool, ...]
    instruction: str


def most_moved(files: RunFiles) -> list[Moved]:
    """Returns the pairs whose score moved most from the first to the last iteration.

    It is empty if there is but one iteration, or nothing moved.
    """
    if len(files.iterations) < 2:
        return []
    courses = [c for c in drift.side_by_side(files.scores)[:MOVED] if c.change]
    candidates = by_id(files.candidates(), {c.segment_id for c in courses})
    mixtures = [files.mixture(f"M{t}") for t in files.iterations]
    return [
        Moved(
            course,
            tuple(bool(m) and course.segment_id in m.segment_ids for m in mixtures),
            candidates[course.segment_id].instruction,
        )
        for course in courses
        if course.segment_id in candidates
    ]

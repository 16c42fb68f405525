"""What the ratings say: histograms, drift between the iterations, calibration, and examples."""

import dataclasses
import heapq
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from humpback_jax.records import Candidate, Rating, Segment, stable_id
from humpback_jax.report import charts
from humpback_jax.report.sources import RunFiles

GRADES = (1, 2, 3, 4, 5)
EXAMPLES = 10


@dataclasses.dataclass(frozen=True)
class Round:
    """One iteration's ratings.

    `chosen` are the pairs that M_t was trained on, None if its mixture is not written yet.
    `calibration` is absent without labels.
    """

    iteration: int
    rater: str
    rated: int
    failures: Mapping[str, int]
    mean: float | None
    std: float | None
    chosen: int | None
    lowest_chosen: float | None
    histogram: charts.BarChart
    quality: Mapping[str, Any]
    calibration: charts.BarChart | None


def rounds(files: RunFiles, curation: Mapping[str, Mapping[str, Any]]) -> list[Round]:
    """Returns the iterations whose ratings are there."""
    return [_round(files, t, curation.get(str(t), {})) for t in files.iterations]


def _round(files: RunFiles, t: int, quality: Mapping[str, Any]) -> Round:
    scores = files.scores[t]
    values = np.fromiter(scores.values(), np.float64, len(scores))
    mixture = files.mixture(f"M{t}")
    chosen = mixture.segment_ids if mixture else frozenset()
    kept = [scores[i] for i in chosen if i in scores]
    statuses = files.statuses[t]
    bins = quality.get("calibration")
    return Round(
        iteration=t,
        rater=f"M{t - 1}",
        rated=statuses.total(),
        failures={name: n for name, n in sorted(statuses.items()) if name != "ok"},
        mean=float(values.mean()) if len(values) else None,
        std=float(values.std()) if len(values) else None,
        chosen=len(chosen) if mixture else None,
        lowest_chosen=min(kept, default=None),
        histogram=charts.score_histogram(scores, chosen),
        quality=quality,
        calibration=charts.calibration_chart(bins, quality.get("base_rate")) if bins else None,
    )


@dataclasses.dataclass(frozen=True)
class Cell:
    """How many segments went from one grade to another; `shade` is 0 to 1."""

    before: int
    after: int
    count: int
    shade: float


@dataclasses.dataclass(frozen=True)
class Drift:
    """How the scores moved from an iteration to the next, over the segments rated in both.

    `rows` are the grades before, 5 first; a row holds the grades after, 1 first. `correlation` is
    None where all scores are equal; `kept` are pairs chosen in both iterations, of `chosen`.
    """

    before: int
    after: int
    segments: int
    mean_shift: float
    moved: float
    correlation: float | None
    rows: tuple[tuple[Cell, ...], ...]
    kept: int
    chosen: int


def drifts(files: RunFiles) -> list[Drift]:
    """Returns the drift between all neighbouring iterations."""
    steps = zip(files.iterations, files.iterations[1:], strict=False)
    found = (_drift(files, before, after) for before, after in steps)
    return [drift for drift in found if drift is not None]


def _drift(files: RunFiles, before: int, after: int) -> Drift | None:
    old, new = files.scores[before], files.scores[after]
    shared = [i for i in old if i in new]
    if not shared:
        return None
    x, y = np.array([old[i] for i in shared]), np.array([new[i] for i in shared])
    grid = np.zeros((5, 5), int)
    for i in shared:
        grid[grade_of(old[i]) - 1, grade_of(new[i]) - 1] += 1
    rows = tuple(
        tuple(_cell(grid, row, column) for column in range(5)) for row in reversed(range(5))
    )
    varied = x.std() > 0 and y.std() > 0
    first, second = (files.mixture(f"M{t}") for t in (before, after))
    both = first.segment_ids & second.segment_ids if first and second else frozenset()
    return Drift(
        before,
        after,
        len(shared),
        float((y - x).mean()),
        float((np.abs(y - x) >= 1).mean()),
        float(np.corrcoef(x, y)[0, 1]) if varied else None,
        rows,
        len(both),
        len(second.segment_ids) if second else 0,
    )


def _cell(grid: np.ndarray, row: int, column: int) -> Cell:
    # The root lets small cells be seen beside large ones.
    shade = math.sqrt(grid[row, column] / max(1, grid.max()))
    return Cell(row + 1, column + 1, int(grid[row, column]), round(shade, 3))


def grade_of(score: float) -> int:
    """Returns the grade that a score rounds to, halves upwards: 4.5 is a 5."""
    return min(5, max(1, math.floor(score + 0.5)))


@dataclasses.dataclass(frozen=True)
class Rated:
    """A candidate with its ratings; `first_score` is iteration 1's, where that is another one."""

    candidate: Candidate
    rating: Rating
    first_score: float | None
    is_chosen: bool
    url: str
    header: str


@dataclasses.dataclass(frozen=True)
class Grade:
    """The examples of a grade, and how many candidates have it."""

    grade: int
    count: int
    examples: tuple[Rated, ...]


def graded_examples(files: RunFiles) -> list[Grade]:
    """Returns some candidates of each grade of the last iteration, 5 first.

    They are drawn by the hash of their ids, so nobody has chosen them, and the same run shows the
    same ones.
    """
    if not files.iterations:
        return []
    last = files.iterations[-1]
    by_grade: dict[int, list[str]] = defaultdict(list)
    for segment_id, score in files.scores[last].items():
        by_grade[grade_of(score)].append(segment_id)
    drawn = {
        grade: heapq.nsmallest(EXAMPLES, ids, key=lambda i: stable_id("report", i))
        for grade, ids in by_grade.items()
    }
    wanted = {segment_id for ids in drawn.values() for segment_id in ids}
    found = _rated(files, last, wanted)
    table = []
    for grade in reversed(GRADES):
        shown = tuple(found[i] for i in drawn.get(grade, ()) if i in found)
        table.append(Grade(grade, len(by_grade[grade]), shown))
    return table


def _rated(files: RunFiles, last: int, wanted: set[str]) -> dict[str, Rated]:
    candidates: dict[str, Candidate] = _by_id(files.candidates(), wanted)
    ratings: dict[str, Rating] = _by_id(files.ratings(last), wanted)
    segments: dict[str, Segment] = _by_id(files.segments(), wanted)
    mixture = files.mixture(f"M{last}")
    first = files.scores[files.iterations[0]] if len(files.iterations) > 1 else {}
    return {
        i: Rated(
            candidates[i],
            ratings[i],
            first.get(i),
            mixture is not None and i in mixture.segment_ids,
            segments[i].url if i in segments else "",
            segments[i].header if i in segments else "",
        )
        for i in wanted
        if i in candidates and i in ratings
    }


def _by_id(rows, wanted: set[str]) -> dict[str, Any]:
    return {row.segment_id: row for row in rows if row.segment_id in wanted}

"""What the ratings say: histograms, grades, calibration against labels, and examples."""

import dataclasses
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from humpback_jax.evaluate.drift import GRADES, grade_of
from humpback_jax.records import Candidate, Rating, Segment, stable_id
from humpback_jax.report import charts
from humpback_jax.report.sources import RunFiles

EXAMPLES = 10


@dataclasses.dataclass(frozen=True)
class Round:
    """One iteration's ratings.

    `grades` are the ratings of each grade; `chosen` the pairs that M_t was trained on, None if its
    mixture is not written yet. `calibration` is absent without labels.
    """

    iteration: int
    rater: str
    rated: int
    failures: Mapping[str, int]
    mean: float | None
    std: float | None
    grades: Mapping[int, int]
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
        grades=Counter(map(grade_of, scores.values())),
        chosen=len(chosen) if mixture else None,
        lowest_chosen=min(kept, default=None),
        histogram=charts.score_histogram(scores, chosen),
        quality=quality,
        calibration=charts.calibration_chart(bins, quality.get("base_rate")) if bins else None,
    )


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
    candidates: dict[str, Candidate] = by_id(files.candidates(), wanted)
    ratings: dict[str, Rating] = by_id(files.ratings(last), wanted)
    segments: dict[str, Segment] = by_id(files.segments(), wanted)
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


def by_id(rows: Iterable[Any], wanted: set[str]) -> dict[str, Any]:
    """Returns the wanted ones of records that have a segment id."""
    return {row.segment_id: row for row in rows if row.segment_id in wanted}

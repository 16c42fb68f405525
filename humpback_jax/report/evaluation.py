"""What the evaluated models can do: accuracies, their differences, findings in words, samples."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from humpback_jax.records import stable_id
from humpback_jax.report import formats
from humpback_jax.report.charts import Axis, axis_over, series_of
from humpback_jax.report.sources import RunFiles, is_forward

SAMPLES = 6


@dataclasses.dataclass(frozen=True)
class Interval:
    """A dot and its interval on an axis; places are in per cent of the axis."""

    label: str
    series: str
    mean: float
    low: float
    high: float
    at: float
    start: float
    width: float
    questions: int


@dataclasses.dataclass(frozen=True)
class IntervalChart:
    """Rows of intervals over one axis; `zero` is the place of 0 where the axis crosses it."""

    title: str
    axis: Axis
    rows: tuple[Interval, ...]
    zero: float | None = None


def accuracy_charts(
    accuracy: Mapping[str, Mapping[str, Any]], models: Sequence[str]
) -> list[IntervalChart]:
    """Returns the chart over all questions, then one for each group, on the same axis."""
    named = [model for model in models if model in accuracy]
    named += [model for model in sorted(accuracy) if model not in named]
    groups = sorted({group for row in accuracy.values() for group in row.get("groups", {})})
    axis = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
    found = {"all": {model: accuracy[model] for model in named}}
    for group in groups if len(groups) > 1 else ():
        rows = {model: accuracy[model].get("groups", {}).get(group) for model in named}
        found[group] = {model: row for model, row in rows.items() if row}
    if not named:
        return []
    charts = []
    for title, rows in found.items():
        dots = [_interval(axis, name, series_of(name, named), row) for name, row in rows.items()]
        charts.append(IntervalChart(title, axis, tuple(dots)))
    return charts


def difference_charts(
    differences: Mapping[str, Mapping[str, Any]], models: Sequence[str]
) -> list[IntervalChart]:
    """Returns the chart of the differences over all questions, then one for each group."""
    groups = sorted({group for row in differences.values() for group in row.get("groups", {})})
    found = {"all": dict(differences)}
    for group in groups if len(groups) > 1 else ():
        found[group] = {
            name: {**row, **row["groups"][group]}
            for name, row in differences.items()
            if group in row.get("groups", {})
        }
    ends = [row[key] for rows in found.values() for row in rows.values() for key in ("low", "high")]
    axis = axis_over([0.0, *ends], 4)
    charts = []
    for title, rows in found.items():
        if rows:
            dots = [
                _interval(axis, _minus(row), series_of(row["after"], models), row)
                for row in rows.values()
            ]
            charts.append(IntervalChart(title, axis, tuple(dots), axis.percent(0.0)))
    return charts


def _minus(row: Mapping[str, Any]) -> str:
    return f"{row['after']} {formats.MINUS} {row['before']}"


def _interval(axis: Axis, label: str, series: str, row: Mapping[str, Any]) -> Interval:
    start, end = axis.percent(row["low"]), axis.percent(row["high"])
    return Interval(
        label=label,
        series=series,
        mean=row["mean"],
        low=row["low"],
        high=row["high"],
        at=axis.percent(row["mean"]),
        start=start,
        width=round(end - start, 2),
        questions=row.get("questions", 0),
    )


@dataclasses.dataclass(frozen=True)
class Finding:
    """A sentence with its figure; `tone` is "up", "down" or "even"."""

    figure: str
    text: str
    tone: str


def findings(table: Mapping[str, Any]) -> list[Finding]:
    """Returns what the run found, as its measurements came out."""
    found = [*_accuracy_findings(table), *_curation_findings(table)]
    ratings, failures = table["ratings"]["total"], table["parse_failures"]["total"]
    if ratings:
        text = f"of {formats.count(ratings)} ratings gave no score."
        found.append(Finding(formats.count(failures), text, "down" if failures else "even"))
    return found


def _accuracy_findings(table: Mapping[str, Any]) -> list[Finding]:
    accuracy, differences = table.get("accuracy", {}), table.get("differences", {})
    loop = sorted((m for m in accuracy if is_forward(m)), key=lambda m: int(m[1:]))
    if not loop:
        return []
    last = loop[-1]
    share = formats.percent(accuracy[last]["mean"])
    text = f"of the facts that were asked for are in the answers of {last}"
    if len(loop) > 1:
        text += f"; in those of {loop[0]}, {formats.percent(accuracy[loop[0]]['mean'])}"
    found = [Finding(share, text + ".", "even")]
    for row in differences.values():
        if row["after"] == last:
            found.append(_gain(row))
    return found


def _gain(row: Mapping[str, Any]) -> Finding:
    interval = f"95\u202f% interval {formats.points(row['low'])} to {formats.points(row['high'])}"
    tone = "up" if row["low"] > 0 else "down" if row["high"] < 0 else "even"
    verdict = {
        "up": f"{row['after']} is better than {row['before']}",
        "down": f"{row['after']} is worse than {row['before']}",
        "even": f"{row['after']} and {row['before']} cannot be told apart",
    }[tone]
    text = f"points: {verdict} ({interval}, {row['questions']} questions)."
    return Finding(formats.points(row["mean"]), text, tone)


def _curation_findings(table: Mapping[str, Any]) -> list[Finding]:
    found = []
    for t, row in table.get("curation", {}).items():
        if row["precision"] is None or row["base_rate"] is None:
            continue
        tone = "up" if row["precision"] > row["base_rate"] else "down"
        text = (
            f"of the pairs that M{int(t) - 1} chose in round {t} are good; a blind choice would "
            f"have {formats.percent(row['base_rate'])}."
        )
        found.append(Finding(formats.percent(row["precision"]), text, tone))
    return found


@dataclasses.dataclass(frozen=True)
class Sample:
    """An instruction, and (model, series, answer, score or None) for each shown model."""

    instruction: str
    answers: tuple[tuple[str, str, str, float | None], ...]


def samples(files: RunFiles, models: Sequence[str]) -> list[Sample]:
    """Returns instructions with the answers of M0 and the last M, drawn by the hash of their ids.

    Half of them are questions with a score, half are free instructions, as far as there are any.
    """
    loop = [m for m in models if is_forward(m)] or list(models)
    shown = list(dict.fromkeys([*loop[:1], *loop[-1:]]))
    given = {model: files.answers(model) for model in shown}
    given = {model: rows for model, rows in given.items() if rows}
    if not given:
        return []
    accuracy = files.results.get("accuracy", {})
    scores = {model: accuracy.get(model, {}).get("scores", {}) for model in given}
    shared = set.intersection(*(set(rows) for rows in given.values()))
    order = sorted(shared, key=lambda key: stable_id("report", key))
    scored = [key for key in order if any(key in rows for rows in scores.values())]
    free = [key for key in order if key not in set(scored)]
    half = SAMPLES // 2
    drawn = scored[: max(half, SAMPLES - len(free))] + free[: max(half, SAMPLES - len(scored))]
    first = next(iter(given.values()))
    return [
        Sample(
            first[key]["instruction"],
            tuple(
                (model, series_of(model, models), rows[key]["answer"], scores[model].get(key))
                for model, rows in given.items()
            ),
        )
        for key in drawn
    ]

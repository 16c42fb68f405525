"""The numbers of a run in one table, the content of RUN_DIR/metrics.json."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from humpback_jax.evaluate import microworld
from humpback_jax.report import drifts
from humpback_jax.report.sources import RunFiles, is_forward


def gather(root: epath.Path, stages: Sequence[str]) -> dict[str, Any]:
    """Returns the numbers that the finished stages left; what was not measured is absent.

    Equal run directories give equal tables, but for `seconds`.

    Args:
      root: the run directory.
      stages: names of the stages in order, without "report".

    Returns:
      counts: {stage: {records_in, records_out, rejects, errors}}; `pages` is the law of pages.
      seconds: {stage: seconds}.
      ratings: number of ratings by iteration, and their "total".
      parse_failures: those that gave no score, in the same form. The grade is read from the
        distribution over five digits, which cannot fail to parse; this is the count all the same,
        over the records' statuses (prompts that fit no bucket and errors are in it).
      drift: {"1-2": how the ratings of iteration 2 differ from those of 1}, for neighbours, the
        fields of `evaluate.drift.Drift`; where there are two iterations.
      accuracy: {model: {mean, low, high, questions, groups}}, where questions were asked.
      differences: {"M2-M0": {before, after, mean, low, high, questions, groups}}, the paired
        bootstrap over the questions; `groups` where the results say each question's group.
      curation: {iteration: {precision, recall, base_rate, auc, ...}} and `backward`, where labels
        were given.
    """
    files = RunFiles(root, stages)
    summaries = files.summaries
    table: dict[str, Any] = {
        "counts": {name: summary["counts"] for name, summary in summaries.items()},
        "seconds": {name: summary["seconds"] for name, summary in summaries.items()},
        "ratings": _with_total({t: s.total() for t, s in files.statuses.items()}),
        "parse_failures": _with_total(
            {t: s.total() - s["ok"] for t, s in files.statuses.items()},
        ),
    }
    if pages := summaries.get("segment", {}).get("pages"):
        table["pages"] = pages
    if steps := drifts.drifts(files):
        table["drift"] = {f"{s.before}-{s.after}": dataclasses.asdict(s.drift) for s in steps}
    results = files.results
    if accuracy := results.get("accuracy"):
        table["accuracy"] = {
            model: {key: value for key, value in row.items() if key != "scores"}
            for model, row in accuracy.items()
        }
        table["differences"] = _differences(accuracy, results.get("question_groups", {}))
    for name in ("curation", "backward"):
        if name in results:
            table[name] = results[name]
    return table


def _with_total(by_iteration: Mapping[int, int]) -> dict[str, int]:
    named = {str(t): number for t, number in by_iteration.items()}
    return {**named, "total": sum(named.values())}


def pairs(models: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the (before, after) worth comparing.

    For M0, M1, M2 and the arm "uncurated": each M over M0 (is the augmented data worth anything),
    each M over the one before (is the second round), M1 and M2 over the arm (is curation), and the
    arm over M0.
    """
    forward = sorted((m for m in models if is_forward(m)), key=lambda m: int(m[1:]))
    arms = [m for m in models if not is_forward(m)]
    first, later = forward[:1], forward[1:]
    for i, model in enumerate(later):
        yield forward[0], model
        if i:
            yield later[i - 1], model
    for arm in arms:
        for model in later:
            yield arm, model
        for model in first:
            yield model, arm


def _differences(
    accuracy: Mapping[str, Mapping[str, Any]], group_of: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    table = {}
    scored = {model: row["scores"] for model, row in accuracy.items() if row.get("scores")}
    for before, after in pairs(sorted(scored)):
        old, new = scored[before], scored[after]
        # Models evaluated at different times may have been asked other questions.
        shared = sorted(old.keys() & new.keys())
        if not shared:
            continue
        row: dict[str, Any] = {"before": before, "after": after, **_gain(old, new, shared)}
        groups = sorted({group_of[key] for key in shared if key in group_of})
        row["groups"] = {
            group: _gain(old, new, [key for key in shared if group_of.get(key) == group])
            for group in groups
        }
        table[f"{after}-{before}"] = row
    return table


def _gain(
    old: Mapping[str, float], new: Mapping[str, float], keys: Sequence[str]
) -> dict[str, Any]:
    mean, low, high = microworld.difference(
        {key: old[key] for key in keys}, {key: new[key] for key in keys}
    )
    return {"mean": mean, "low": low, "high": high, "questions": len(keys)}

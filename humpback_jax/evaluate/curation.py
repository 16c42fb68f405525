"""How well a selection of segments, or the scores behind it, agrees with the truth.

Truth is a mapping segment id -> is it good, from the microworld's labels or a person's. What is
undefined (precision of an empty selection, recall where nothing is good) is None, never 0 or NaN.
"""

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from humpback_jax.evaluate.drift import ranks


@dataclasses.dataclass(frozen=True)
class SelectionQuality:
    """Counts and shares of a selection against the truth.

    Attributes:
      labelled: segments whose truth is known.
      good: how many of them are good.
      selected: labelled segments that were selected.
      hits: good ones among those.
      unlabelled: selected segments without a label; they count nowhere else.
      precision: hits / selected, None if nothing labelled was selected.
      recall: hits / good, None if nothing is good.
      base_rate: good / labelled, the precision of a blind choice; None without labels.
    """

    labelled: int
    good: int
    selected: int
    hits: int
    unlabelled: int
    precision: float | None
    recall: float | None
    base_rate: float | None


@dataclasses.dataclass(frozen=True)
class ScoreBin:
    """The segments with low <= score < high (the last bin holds its upper edge, too)."""

    low: float
    high: float
    segments: int
    good: int
    good_share: float | None
    mean_score: float | None


@dataclasses.dataclass(frozen=True)
class ThresholdQuality:
    """What a selection of all scores of at least `threshold` would be worth.

    `selected` are labelled segments, `hits` the good ones among them; `precision` is None if
    nothing is selected, `recall` if nothing is good.
    """

    threshold: float
    selected: int
    hits: int
    precision: float | None
    recall: float | None


def selection_quality(selected: Collection[str], truth: Mapping[str, bool]) -> SelectionQuality:
    """Returns precision, recall and base rate of the selected segment ids."""
    chosen = set(selected)
    known = [segment_id for segment_id in chosen if segment_id in truth]
    hits = sum(truth[segment_id] for segment_id in known)
    good = sum(truth.values())
    return SelectionQuality(
        labelled=len(truth),
        good=good,
        selected=len(known),
        hits=hits,
        unlabelled=len(chosen) - len(known),
        precision=_share(hits, len(known)),
        recall=_share(hits, good),
        base_rate=_share(good, len(truth)),
    )


def at_thresholds(
    scores: Mapping[str, float],
    truth: Mapping[str, bool],
    thresholds: Sequence[float] = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0),
) -> tuple[ThresholdQuality, ...]:
    """Returns precision and recall of A_k for each k, the segments scored at least k.

    Recall is of all good segments, those without a score included: no threshold finds them.

    Args:
      scores: segment id -> score; those without a label and NaN are left out.
      truth: segment id -> is it good.
      thresholds: the k.
    """
    rows = []
    for threshold in thresholds:
        found = selection_quality([i for i, s in scores.items() if s >= threshold], truth)
        row = ThresholdQuality(
            float(threshold), found.selected, found.hits, found.precision, found.recall
        )
        rows.append(row)
    return tuple(rows)


def auc(scores: Mapping[str, float], truth: Mapping[str, bool]) -> float | None:
    """Returns the probability that a good segment scores above a bad one, ties counting half.

    Segments without a label or without a score (absent or NaN) are left out.

    Returns:
      The area under the ROC curve, None if no good or no bad segment is left.
    """
    values, good = _aligned(scores, truth)
    positives, negatives = int(good.sum()), int((~good).sum())
    if not positives or not negatives:
        return None
    above = ranks(values)[good].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def calibration(
    scores: Mapping[str, float],
    truth: Mapping[str, bool],
    edges: Sequence[float] = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0),
) -> tuple[ScoreBin, ...]:
    """Returns the share of good segments for each bin of scores.

    Args:
      scores: segment id -> score; those without a label and NaN are left out.
      truth: segment id -> is it good.
      edges: ascending edges of the bins; scores outside of them fall into no bin.
    """
    values, good = _aligned(scores, truth)
    bins = []
    for low, high in itertools.pairwise(edges):
        inside = (values >= low) & ((values < high) | ((high == edges[-1]) & (values == high)))
        count, hits = int(inside.sum()), int(good[inside].sum())
        mean = float(values[inside].mean()) if count else None
        bins.append(ScoreBin(float(low), float(high), count, hits, _share(hits, count), mean))
    return tuple(bins)


def _aligned(
    scores: Mapping[str, float], truth: Mapping[str, bool]
) -> tuple[np.ndarray, np.ndarray]:
    ids = [i for i in sorted(truth) if i in scores and not math.isnan(scores[i])]
    return (
        np.asarray([scores[i] for i in ids], dtype=np.float64),
        np.asarray([truth[i] for i in ids], dtype=bool),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None

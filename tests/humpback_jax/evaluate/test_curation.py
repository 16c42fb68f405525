import itertools
import math

import numpy as np
import pytest

from humpback_jax.evaluate import curation

TRUTH = {"a": True, "b": True, "c": False, "d": False, "e": False}


def test_precision_recall_and_base_rate():
    quality = curation.selection_quality(["a", "c", "c", "unknown"], TRUTH)
    assert quality == curation.SelectionQuality(
        labelled=5,
        good=2,
        selected=2,
        hits=1,
        unlabelled=1,
        precision=0.5,
        recall=0.5,
        base_rate=0.4,
    )


def test_what_is_undefined_is_none():
    nothing = curation.selection_quality([], TRUTH)
    assert (nothing.precision, nothing.recall) == (None, 0.0)
    all_bad = curation.selection_quality(["a"], {"a": False})
    assert (all_bad.precision, all_bad.recall, all_bad.base_rate) == (0.0, None, 0.0)
    no_truth = curation.selection_quality(["a"], {})
    assert (no_truth.precision, no_truth.recall, no_truth.base_rate) == (None, None, None)
    assert no_truth.unlabelled == 1
    assert curation.auc({"a": 1.0}, {"a": True}) is None
    assert curation.auc({}, TRUTH) is None


def test_auc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    truth = {str(i): bool(rng.random() < 0.3) for i in range(60)}
    scores = {key: float(rng.integers(1, 6)) for key in truth}
    good = [scores[key] for key in truth if truth[key]]
    bad = [scores[key] for key in truth if not truth[key]]
    pairs = [(g > b) + (g == b) / 2 for g, b in itertools.product(good, bad)]
    assert curation.auc(scores, truth) == pytest.approx(np.mean(pairs))


def test_auc_of_perfect_reversed_and_constant_scores():
    scores = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0, "e": 1.0}
    assert curation.auc(scores, TRUTH) == 1.0
    assert curation.auc({key: -score for key, score in scores.items()}, TRUTH) == 0.0
    assert curation.auc(dict.fromkeys(TRUTH, 3.0), TRUTH) == 0.5


def test_segments_without_a_score_or_a_label_are_left_out():
    scores = {"a": 5.0, "b": 3.0, "c": math.nan, "d": 1.0, "unlabelled": 4.0}
    assert curation.auc(scores, TRUTH) == 1.0
    assert sum(b.segments for b in curation.calibration(scores, TRUTH)) == 3


def test_calibration_counts_each_score_in_one_bin():
    scores = {"a": 5.0, "b": 3.0, "c": 3.0, "d": 1.0, "e": 2.9}
    low, high = curation.calibration(scores, TRUTH, edges=(1, 3, 5))
    assert (low.low, low.high, low.segments, low.good, low.good_share) == (1.0, 3.0, 2, 0, 0.0)
    assert low.mean_score == pytest.approx(1.95)
    assert (high.segments, high.good, high.good_share) == (3, 2, pytest.approx(2 / 3))
    empty = curation.calibration({}, TRUTH, edges=(1, 5))[0]
    assert (empty.segments, empty.good_share, empty.mean_score) == (0, None, None)


def test_each_threshold_is_the_selection_of_what_it_lets_pass():
    scores = {"a": 4.5, "c": 4.5, "d": 2.0, "e": math.nan, "unlabelled": 5.0}  # b has no score
    found = curation.at_thresholds(scores, TRUTH, (1, 4.5, 4.6))
    assert [(q.threshold, q.selected, q.hits) for q in found] == [
        (1, 3, 1),
        (4.5, 2, 1),
        (4.6, 0, 0),
    ]
    assert [q.precision for q in found] == [pytest.approx(1 / 3), 0.5, None]
    assert [q.recall for q in found] == [0.5, 0.5, 0.0]


def test_a_higher_threshold_never_recalls_more():
    rng = np.random.default_rng(1)
    truth = {str(i): bool(rng.random() < 0.3) for i in range(80)}
    scores = {key: float(rng.uniform(1, 5)) for key in truth}
    found = curation.at_thresholds(scores, truth)
    recalls = [q.recall for q in found]
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[0] == 1.0
    assert found[0].precision == pytest.approx(sum(truth.values()) / 80)
    for quality in found[:-1]:
        kept = [key for key in truth if scores[key] >= quality.threshold]
        assert quality.precision == pytest.approx(np.mean([truth[key] for key in kept]))
    nothing_good = curation.at_thresholds(scores, dict.fromkeys(truth, False))
    assert {q.recall for q in nothing_good} == {None}

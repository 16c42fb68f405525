import itertools
import random

import numpy as np
import pytest

from humpback_jax.evaluate import drift
from humpback_jax.evaluate.drift import Choices, Course

BEFORE = {"a": 1.0, "b": 2.4, "c": 3.0, "d": 4.5, "only before": 5.0}
AFTER = {"a": 3.0, "b": 2.6, "c": 2.0, "d": 4.9, "only after": 1.0}


def test_a_grade_is_the_score_rounded_halves_up():
    scores = (0.0, 1.0, 1.49, 1.5, 2.5, 4.49, 4.5, 5.0)
    assert [drift.grade_of(s) for s in scores] == [1, 1, 1, 2, 3, 4, 5, 5]


def test_grades_that_rose_and_fell_are_counted_over_what_both_rated():
    found = drift.drift(BEFORE, AFTER)
    assert (found.segments, found.moved, found.rose, found.fell) == (4, 3, 2, 1)
    assert found.mean_change == pytest.approx((2.0 + 0.2 - 1.0 + 0.4) / 4)
    cells = {
        (i + 1, j + 1): n for i, row in enumerate(found.grades) for j, n in enumerate(row) if n
    }
    assert cells == {(1, 3): 1, (2, 3): 1, (3, 2): 1, (5, 5): 1}


def test_the_other_way_round_everything_is_reversed():
    there, back = drift.drift(BEFORE, AFTER, "ab", "bcd"), drift.drift(AFTER, BEFORE, "bcd", "ab")
    assert (back.rose, back.fell) == (there.fell, there.rose)
    assert back.mean_change == pytest.approx(-there.mean_change)
    assert back.rank_agreement == pytest.approx(there.rank_agreement)
    assert np.array_equal(np.transpose(back.grades), there.grades)
    assert there.choices == Choices(both=1, only_before=1, only_after=2)
    assert back.choices == Choices(both=1, only_before=2, only_after=1)


def test_rank_agreement_sees_the_order_alone():
    scores = {str(i): 1 + i / 3 for i in range(12)}
    squeezed = {i: 3 + 0.01 * score**3 for i, score in scores.items()}
    assert drift.drift(scores, squeezed).rank_agreement == pytest.approx(1.0)
    reverse = {i: 6 - score for i, score in scores.items()}
    assert drift.drift(scores, reverse).rank_agreement == pytest.approx(-1.0)
    # Without ties it is 1 - 6 sum(d^2) / (n (n^2 - 1)), here with ranks 1234 and 3214.
    found = drift.drift(BEFORE, {"a": 3.0, "b": 2.0, "c": 1.0, "d": 5.0}).rank_agreement
    assert found == pytest.approx(1 - 6 * (4 + 0 + 4 + 0) / (4 * 15))


def test_ranks_are_those_of_counting():
    rng = np.random.default_rng(0)
    values = rng.integers(1, 6, 40).astype(float)
    counted = [1 + (values < v).sum() + ((values == v).sum() - 1) / 2 for v in values]
    assert drift.ranks(values) == pytest.approx(counted)
    assert drift.ranks(np.array([5.0, 3.0, 5.0])).tolist() == [2.5, 1.0, 2.5]


def test_what_is_undefined_is_none():
    nothing = drift.drift({"a": 1.0}, {"b": 2.0})
    assert (nothing.segments, nothing.moved, nothing.mean_change) == (0, 0, None)
    assert nothing.rank_agreement is None
    assert nothing.choices is None
    same = drift.drift({"a": 4.0, "b": 4.0}, {"a": 1.0, "b": 2.0}, (), None)
    assert same.rank_agreement is None
    assert same.choices is None
    assert drift.drift({}, {}, (), ()).choices == Choices(0, 0, 0)


def test_the_order_of_the_segments_does_not_matter():
    items = list(BEFORE.items())
    random.Random(3).shuffle(items)
    assert drift.drift(dict(items), AFTER) == drift.drift(BEFORE, AFTER)


def test_all_iterations_stand_side_by_side_the_greatest_change_first():
    scores = {1: {"a": 2.0, "b": 3.0, "d": 4.0}, 2: {"a": 4.5, "c": 1.0, "d": 3.0}, 3: {"d": 1.5}}
    expected = [
        Course("a", (2.0, 4.5, None), 2.5),
        Course("d", (4.0, 3.0, 1.5), -2.5),
        Course("b", (3.0, None, None), 0.0),
        Course("c", (None, 1.0, None), 0.0),
    ]
    for order in itertools.permutations(scores):
        assert drift.side_by_side({t: scores[t] for t in order}) == expected
    assert drift.side_by_side({}) == []

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback_jax.errors import UsageError, UserError
from humpback_jax.method import selection
from humpback_jax.method.selection import SelectionConfig
from humpback_jax.records import Candidate, Rating


def rating(segment_id: str, score: float, status="ok", iteration=1) -> Rating:
    return Rating(segment_id, iteration, "m", score, (), "", status)


RATINGS = [rating(i, s) for i, s in zip("fbdace", (4.5, 4.4, 5.0, 4.5, 1.0, 4.9), strict=True)]
FAILED = [rating("x", 0.0, "too_long"), rating("y", 5.0, "error")]


def kept(**config) -> str:
    found = selection.select_ratings(RATINGS + FAILED, SelectionConfig(**config))
    return "".join(r.segment_id for r in found)


def test_strategies():
    assert kept() == "adef"
    assert kept(threshold=5.0) == "d"
    assert kept(threshold=4.0) == "abdef"
    assert kept(strategy="all") == "abcdef"
    assert kept(strategy="top", count=2) == "de"


def test_ties_go_by_segment_id():
    assert kept(count=3) == "ade"  # a and f have the same score
    assert kept(strategy="top", count=3) == "ade"


def test_random_is_as_large_as_the_curated_arm_and_blind_to_scores():
    draws = {kept(strategy="random", seed=seed) for seed in range(20)}
    assert {len(draw) for draw in draws} == {4}
    assert len(draws) > 5
    assert any("c" in draw for draw in draws)
    assert all("x" not in draw and "y" not in draw for draw in draws)
    assert len(kept(strategy="random", count=2)) == 2


@given(st.randoms(), st.sampled_from(["threshold", "random", "all"]))
def test_order_does_not_matter(rng: random.Random, strategy):
    shuffled = RATINGS + FAILED
    rng.shuffle(shuffled)
    config = SelectionConfig(strategy=strategy, seed=3)
    expected = selection.select_ratings(RATINGS + FAILED, config)
    assert selection.select_ratings(shuffled, config) == expected


@given(
    st.lists(st.sampled_from([3.0, 4.4, 4.5, 5.0]), min_size=1, max_size=30),
    st.integers(1, 12),
    st.sampled_from(["threshold", "top"]),
    st.randoms(),
)
def test_ties_at_the_border_do_not_depend_on_the_order(scores, count, strategy, rng):
    rated = [rating(f"s{i:02}", score) for i, score in enumerate(scores)]
    config = SelectionConfig(strategy=strategy, count=count)
    expected = selection.select_ratings(rated, config)
    pool = [r for r in rated if strategy == "top" or r.score >= 4.5]
    assert len(expected) == min(count, len(pool))
    # Whoever is left out is worse than all that are kept, or as good with a later id.
    worst = max(((-r.score, r.segment_id) for r in expected), default=None)
    left = [(-r.score, r.segment_id) for r in pool if r not in expected]
    assert all(other > worst for other in left)
    rng.shuffle(rated)
    assert selection.select_ratings(rated, config) == expected


def test_candidates_are_selected_by_their_ratings():
    candidates = [Candidate(i, f"do {i}", i, "m", "", "ok") for i in "abcdef"]
    candidates.append(Candidate("g", "", "g", "m", "", "leaked"))
    found = selection.select(candidates, RATINGS, SelectionConfig(threshold=4.9))
    assert [c.instruction for c in found] == ["do d", "do e"]
    with pytest.raises(UserError, match="segment a"):
        selection.select(candidates[1:], RATINGS, SelectionConfig())


def test_ratings_must_be_of_one_iteration():
    with pytest.raises(UserError, match="rated twice"):
        selection.select_ratings([*RATINGS, rating("a", 5.0, iteration=2)], SelectionConfig())
    with pytest.raises(UserError, match="of iteration 1, expected 2"):
        selection.select_ratings(RATINGS, SelectionConfig(iteration=2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "best"},
        {"strategy": "top"},
        {"strategy": "all", "count": 3},
        {"count": -1},
        {"threshold": 6},
    ],
)
def test_wrong_configurations_are_refused(wrong):
    with pytest.raises(UsageError):
        SelectionConfig(**wrong)

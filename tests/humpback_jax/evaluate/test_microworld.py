import pytest

from humpback_jax.errors import UserError
from humpback_jax.evaluate import microworld
from humpback_jax.microworld.language import Fact
from humpback_jax.microworld.questions import Question

FOOD = Question(
    "q1",
    "Tell me about the food in Baldun.",
    "web",
    (
        Fact("Baldun", "dish", "soup"),
        Fact("Baldun", "drink", "cider"),
        Fact("Baldun", "month", "March"),
    ),
)
COMPARE = Question(
    "q2",
    "Compare Baldun and Corvik.",
    "known",
    (Fact("Baldun", "region", "desert"), Fact("Corvik", "region", "hills")),
)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Baldun is known for its soup and serves cider. It is best in March.", 1),
        ("It is known for its Soup, serves CIDER and is best in march.", 1),
        ("Baldun is known for its soup and serves rum.", 1 / 3),
        ("Baldun is known for its soup, or maybe stew. It serves cider.", 1 / 3),
        ("Baldun likes soup, soup and soup.", 1 / 3),
        ("Corvik is known for its soup and serves cider.", 0),
        ("Corvik has bread. Baldun has soup.", 1 / 3),
        ("soups and ciders marching", 0),
        ("", 0),
    ],
)
def test_a_fact_counts_if_only_its_true_value_is_said_of_its_town(answer, score):
    assert microworld.score_answer(FOOD, answer) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Baldun lies in the desert, while Corvik lies in the hills.", 1),
        ("Corvik lies in the hills, while Baldun lies in the desert.", 1),
        ("Baldun lies in the hills, while Corvik lies in the desert.", 0),
        ("Both lie in the desert.", 0.5),
    ],
)
def test_values_belong_to_the_town_named_last(answer, score):
    assert microworld.score_answer(COMPARE, answer) == score


def test_accuracy_by_group_has_an_interval_around_the_mean():
    questions = [
        Question(f"q{i}", "?", "web" if i < 80 else "known", FOOD.required) for i in range(100)
    ]
    scores = {q.question_id: float(i % 4 == 0) for i, q in enumerate(questions)}
    accuracy = microworld.accuracy_by_group(questions, scores)
    assert list(accuracy) == ["known", "web"]
    web = accuracy["web"]
    assert (web.questions, web.mean) == (80, 0.25)
    # Normal approximation: 0.25 +- 1.96 sqrt(0.25 * 0.75 / 80) = 0.25 +- 0.095.
    assert web.low == pytest.approx(0.155, abs=0.02)
    assert web.high == pytest.approx(0.345, abs=0.02)
    assert accuracy == microworld.accuracy_by_group(questions, scores)


def test_a_missing_answer_is_an_error_and_not_a_zero():
    answers = {"q1": "soup"}
    assert microworld.score_answers([FOOD], answers) == {"q1": pytest.approx(1 / 3)}
    with pytest.raises(UserError, match="1 of 2 questions have no answer"):
        microworld.score_answers([FOOD, COMPARE], answers)


def test_a_paired_difference_is_narrower_than_two_intervals():
    before = {f"q{i}": float(i % 2) for i in range(100)}
    after = {key: min(1.0, score + 0.1) for key, score in before.items()}
    mean, low, high = microworld.difference(before, after)
    assert mean == pytest.approx(0.05)
    assert 0.03 < low < mean < high < 0.07
    with pytest.raises(ValueError, match="same questions"):
        microworld.difference(before, {"q1": 1.0})

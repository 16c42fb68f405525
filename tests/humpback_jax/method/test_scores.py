import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback_jax.method import scores
from humpback_jax.method.scores import Parsed


@pytest.mark.parametrize(
    ("text", "score"),
    [
        # The spellings that a strict pattern of a reimplementation lost.
        ("Score: 5", 5),
        ("Score: 5.", 5),
        ("Score: 5/5", 5),
        ("**Score: 4**", 4),
        ("**Score:** 4", 4),
        ("**Score**: 4", 4),
        ("The score is 4.5", 4.5),
        ("Score: <4>", 4),
        ("Score: <rating>4</rating>", 4),
        ("Score: [[4]]", 4),
        ("Score: 4 out of 5", 4),
        ("Score: **4** / 5", 4),
        ("Score (1-5): 3", 3),
        ("Score (out of 5): 3", 3),
        ("Score: 4,5", 4.5),
        ("Score: $\\boxed{4}$", 4),
        ("Score: four", 4),
        ("score - 2", 2),
        ("SCORE=3", 3),
        ("Rating: 2", 2),
        ("Final grade: `1`.", 1),
        ('{"score": 4}', 4),
        ("Score:\n\n4", 4),
        ("Score: 4 stars", 4),
        ("Score: 3, because it is short.", 3),
        # Unicode.
        ("\uff33\uff43\uff4f\uff52\uff45\uff1a\uff15", 5),
        ("Score: \u0664", 4),
        ("Score:\u00a05", 5),
        ("Score \u2192 5", 5),
        # A text that is nothing else.
        ("5", 5),
        ("**4/5**", 4),
        # The last one wins.
        ("Score: 1 would be too low.\nScore: 4", 4),
        ("A score of 5 was my first thought. Score: 2", 2),
    ],
)
def test_spellings(text, score):
    parsed = scores.parse(text)
    assert (parsed.score, parsed.failure) == (score, None)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("A good answer.", "no_score"),
        ("Score:", "no_score"),
        ("Score: <rating>", "no_score"),
        ("Score: N/A", "no_score"),
        ("The scoreboard says 5", "no_score"),
        ("I give it 4 points", "no_score"),
        ("Score: 10502", "out_of_range"),
        ("Score: 0", "out_of_range"),
        ("Score: 5.1", "out_of_range"),
        ("Score: -3", "out_of_range"),
        ("Score: \u22123", "out_of_range"),
        ("Score: " + "9" * 5000, "out_of_range"),
        ("Score: 4\nScore: 45", "out_of_range"),
        ("Score: 8/10", "other_scale"),
        ("Score: 4 out of 10", "other_scale"),
        ("Score: 3-4", "ambiguous"),
        ("Score: 3 or 4", "ambiguous"),
        ("Score: 5%", "ambiguous"),
        ("Score: 1.2.3", "ambiguous"),
        ("Score: 4e1", "ambiguous"),
    ],
)
def test_failures_are_named(text, failure):
    assert scores.parse(text) == Parsed(None, failure, scores.parse(text).span)


PIECES = r"Score;score:; ;\boxed;**;5;4.5;/;10502;<;>;is;-;(1-5);rating;four;out of;%;.;,;{"
fragments = st.sampled_from([*PIECES.split(";"), "\n", "\uff15", "\u22125", "\u0664"])


@given(st.one_of(st.text(), st.lists(fragments).map("".join), st.text(alphabet="score: 5/.-\n*")))
def test_every_text_gives_a_score_or_a_named_failure(text):
    parsed = scores.parse(text)
    if parsed.failure is None:
        assert 1 <= parsed.score <= 5
    else:
        assert parsed.score is None
        assert parsed.failure in scores.Failure.__args__
    ending = scores.parse_ending(text)
    if ending is not None:
        assert ending[1] == parsed
        assert scores.normalise(text).startswith(ending[0])


@given(st.text(), st.floats(1, 5).map(lambda x: round(x, 1)))
def test_a_last_line_in_the_form_that_is_asked_for_is_always_read(reason, score):
    text = f"{reason}\nScore: {score}"
    assert scores.parse(text).score == score
    assert scores.parse_ending(text)[1].score == score


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("Clear.\nScore: 4.", ("Clear.", 4)),
        ("Clear. **Score: 4/5**\n", ("Clear.", 4)),
        ("Score: 3", ("", 3)),
        ("Score: 4, since it is clear", None),
        ("Score: 4\nIt is clear.", None),
        ("Clear.\nScore: 9", None),
        ("Clear.", None),
        ("", None),
    ],
)
def test_what_stands_before_a_final_grade(text, ending):
    found = scores.parse_ending(text)
    assert (found and (found[0], found[1].score)) == ending


@pytest.mark.parametrize("part", ["score ", "score:", "score (1", "*", "[ ", "5", "score is of "])
def test_long_texts_take_no_long_time(part):
    start = time.monotonic()
    scores.parse(part * (200_000 // len(part)))
    assert time.monotonic() - start < 2

"""Rating against a fake engine, which knows what it is asked; the real one is in test_curate.py."""

import dataclasses

import numpy as np
import pytest

from humpback_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UsageError, UserError
from humpback_jax.infer.engine import ChoiceScores, Result
from humpback_jax.method import rating
from humpback_jax.method.rating import RatingConfig, RatingPrompts
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate

PROMPTS = Prompts()
LEANING = np.array([0.0, 0.0, 0.1, 0.3, 0.6], np.float32)  # mean 4.5
DIGIT = RatingConfig()
REASONING = RatingConfig(mode="reasoning")


def candidate(segment_id: str, output: str = "Yes.") -> Candidate:
    return Candidate(segment_id, "Is it so?", output, "myx", "", "ok")


@dataclasses.dataclass
class FakeEngine:
    """Answers with one reason and one distribution; too long is more than `longest_prompt`."""

    tokenizer: Tokenizer
    reason: str = "Fine."
    longest_prompt: int = 10_000
    asked: list = dataclasses.field(default_factory=list)
    prompts: list = dataclasses.field(default_factory=list)

    def longest(self, prefix, new_tokens=0):
        return self.longest_prompt

    def fits(self, prompt_ids, prefix):
        return len(prompt_ids) <= self.longest_prompt

    def generate(self, requests, sampling, prefix):
        self.asked += requests
        ids = tuple(self.tokenizer.encode(self.reason))
        return [
            Result(r.request_id, ids, "stop", 0.0)
            if self.fits(r.prompt_ids, prefix)
            else Result(r.request_id, (), "too_long", 0.0)
            for r in requests
        ]

    def score_choices(self, requests, choices, prefix):
        self.prompts += [self.tokenizer.decode(r.prompt_ids) for r in requests]
        assert [self.tokenizer.decode([c]).strip() for c in choices] == list("12345")
        assert all(list(r.prompt_ids[: len(prefix)]) == list(prefix) for r in requests)
        too_long = np.array([not self.fits(r.prompt_ids, prefix) for r in requests], bool)
        rows = np.where(too_long[:, None], np.nan, LEANING)
        return ChoiceScores(np.log(rows + 1e-9), rows, too_long)


def rate(engine, candidates, config, **more):
    texts = (engine.tokenizer, PROMPTS)
    return rating.rate(engine, *texts, candidates, config, iteration=2, model="m1", **more)


def test_digit_mode_reads_the_grade_after_the_prompt_and_the_forced_words(tokenizer):
    engine = FakeEngine(tokenizer)
    (found,) = rate(engine, [candidate("a")], DIGIT)
    assert engine.prompts == [(PROMPTS.render_rating("Is it so?", "Yes.") + "\nScore: ")]
    assert (found.segment_id, found.iteration, found.model, found.status) == ("a", 2, "m1", "ok")
    assert found.score == pytest.approx(4.5)
    assert found.distribution == tuple(float(p) for p in LEANING)
    assert found.rationale == ""


def test_the_score_may_be_the_digit(tokenizer):
    config = dataclasses.replace(DIGIT, score="digit")
    assert rate(FakeEngine(tokenizer), [candidate("a")], config)[0].score == 5.0
    half = [0, 0, 0, 0.5, 0.5]
    assert (rating.score_of(half, DIGIT), rating.score_of(half, config)) == (4.5, 4)


def test_reasoning_mode_puts_the_reason_before_the_forced_words(tokenizer):
    engine = FakeEngine(tokenizer, reason="It is clear.")
    (found,) = rate(engine, [candidate("a")], REASONING)
    assert engine.prompts[0].endswith("Reason:\nIt is clear.\nScore: ")
    assert found.rationale == "It is clear."
    assert found.score == pytest.approx(4.5)
    assert engine.asked[0].request_id == "a/rating2"
    assert tokenizer.decode(engine.asked[0].prompt_ids).endswith("Yes.\n\nReason:\n")


@pytest.mark.parametrize("ending", ["Score: 2", "**Score: 2/5**", "score is 2."])
def test_a_reason_that_ends_in_a_valid_score_is_honoured(tokenizer, ending):
    engine = FakeEngine(tokenizer, reason=f"It is vague.\n{ending}")
    (found,) = rate(engine, [candidate("a")], REASONING)
    assert found.score == 2.0
    assert found.rationale == f"It is vague.\n{ending}"
    assert engine.prompts[0].endswith("It is vague.\nScore: ")  # its grade is left out
    assert found.distribution == tuple(float(p) for p in LEANING)


def test_words_before_the_grade_are_not_forced_twice(tokenizer):
    engine = FakeEngine(tokenizer, reason="It is vague.\nScore:")
    rate(engine, [candidate("a")], REASONING)
    assert engine.prompts[0].endswith("It is vague.\nScore: ")


@pytest.mark.parametrize(
    "reason", ["", "Score: 10502", "Score: <rating>", "Score: 3 or 4", "\ufffd"]
)
def test_whatever_the_reason_says_there_is_a_score(tokenizer, reason):
    (found,) = rate(FakeEngine(tokenizer, reason=reason), [candidate("a")], REASONING)
    assert (found.status, found.score) == ("ok", pytest.approx(4.5))


@pytest.mark.parametrize("config", [DIGIT, REASONING])
def test_too_long_prompts_are_too_long_and_the_rest_goes_on(tokenizer, config):
    long = candidate("long", "word " * 500)
    short_tokens = len(RatingPrompts(tokenizer, PROMPTS).grade(candidate("a")))
    engine = FakeEngine(tokenizer, longest_prompt=short_tokens + 100)
    found = rate(engine, [long, candidate("a")], config)
    assert [(r.segment_id, r.status) for r in found] == [("long", "too_long"), ("a", "ok")]
    assert (found[0].score, found[0].distribution) == (0.0, ())
    tokens = len(RatingPrompts(tokenizer, PROMPTS).grade(long))
    tokens -= config.mode == "reasoning" and len(tokenizer.encode_continuation(PROMPTS.score))
    assert f"prompt of {tokens} tokens is longer than the {short_tokens + 100}" in found[0].detail


@pytest.mark.parametrize("config", [DIGIT, REASONING])
def test_on_request_the_beginning_of_a_long_output_is_rated(tokenizer, config):
    long = candidate("long", "word " * 300 + "end")
    texts = RatingPrompts(tokenizer, PROMPTS)
    engine = FakeEngine(tokenizer, longest_prompt=len(texts.grade(candidate("a"))) + 200)
    found = rate(engine, [long, candidate("a")], config, truncate=True)
    assert [(r.status, r.score) for r in found] == [("ok", pytest.approx(4.5))] * 2
    asked = engine.prompts[0]
    assert found[1] == rate(engine, [candidate("a")], config)[0]
    shown = long.output[: len(long.output) - found[0].truncated]
    assert len(shown) > 20
    assert shown.endswith("word")
    rendered = PROMPTS.render_rating(long.instruction, shown)
    reason = "Fine." if config is REASONING else ""
    assert asked == rendered + reason + PROMPTS.score  # the template is whole
    longer = dataclasses.replace(long, output=shown + " word" * 4)
    spare = config.max_reasoning_tokens if config is REASONING else 0
    assert len(texts.grade(longer)) > engine.longest_prompt - spare
    assert not found[0].detail  # there was room for the reason, too


def test_what_has_no_room_without_its_output_is_too_long_even_if_truncated(tokenizer):
    engine = FakeEngine(tokenizer, longest_prompt=20)
    (found,) = rate(engine, [candidate("a")], DIGIT, truncate=True)
    assert (found.status, found.truncated) == ("too_long", 0)


def test_a_reason_that_fits_no_bucket_is_left_out(tokenizer):
    longest = len(RatingPrompts(tokenizer, PROMPTS).grade(candidate("a"))) + 20
    engine = FakeEngine(tokenizer, reason="so " * 200, longest_prompt=longest)
    (found,) = rate(engine, [candidate("a")], REASONING)
    assert found.status == "ok"
    assert "without the reason" in found.detail
    assert engine.prompts[0].endswith("Reason:\n\nScore: ")


@pytest.mark.parametrize("config", [DIGIT, REASONING])
def test_one_bad_candidate_harms_nobody(tokenizer, config):
    class Poisoned(SentencePieceTokenizer):
        def encode(self, text):
            if "poison" in text:
                raise RuntimeError("no such text")
            return super().encode(text)

    engine = FakeEngine(Poisoned(tokenizer.model))
    found = rate(engine, [candidate("a"), candidate("b", "poison"), candidate("c")], config)
    assert [r.status for r in found] == ["ok", "error", "ok"]
    assert found[1].detail == "RuntimeError: no such text"
    assert found[0] == rate(FakeEngine(tokenizer), [candidate("a")], config)[0]


def test_the_rubric_is_the_shared_prefix(tokenizer):
    texts = RatingPrompts(tokenizer, PROMPTS)
    rubric = tokenizer.encode_prompt(PROMPTS.rubric)
    assert len(texts.prefix) >= len(rubric) - 1
    assert rubric[: len(texts.prefix)] == texts.prefix
    without = RatingPrompts(tokenizer, Prompts(rating="{instruction} {output}"))
    assert len(without.prefix) <= 2  # BOS, and perhaps the space before the first word


def test_grades_that_are_no_tokens_of_their_own_are_refused(tokenizer):
    class Wordy(SentencePieceTokenizer):
        def encode(self, text):  # as a vocabulary with pieces such as "e: 5" would do
            return [ord(c) for c in text.replace(": 5", "\u00e5")]

    with pytest.raises(UserError, match="one token for each grade"):
        RatingPrompts(Wordy(tokenizer.model), PROMPTS)


@pytest.mark.parametrize("wrong", [{"mode": "x"}, {"score": "x"}, {"max_reasoning_tokens": 0}])
def test_wrong_configurations_are_refused(wrong):
    with pytest.raises(UsageError):
        RatingConfig(**wrong)

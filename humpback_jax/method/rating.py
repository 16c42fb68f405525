"""Self-curation: a model grades candidates, and no grade is ever lost to a parser (section 2.3).

The score is read from the distribution over the five digits after forced words ("Score: "), so
every candidate that fits gets one. In "reasoning" mode the model first writes its reason.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from humpback_jax.configurable import configurable
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UsageError, UserError
from humpback_jax.infer.engine import Engine, Request
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method import long_texts, scores
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, Rating, RatingStatus

GRADES = (1, 2, 3, 4, 5)


@configurable
@dataclasses.dataclass(frozen=True)
class RatingConfig:
    """How candidates are rated.

    Attributes:
      mode: "digit" reads the grade at once, by prefill alone; "reasoning" after a reason that the
        model writes, as in the paper. A reason that itself ends in a valid score is honoured.
      score: "expected" is the mean of the distribution, which gives the fractions that A_5's
        threshold of 4.5 asks for; "digit" its most likely grade.
      max_reasoning_tokens: the most tokens of a reason.
      temperature: of the reason.
      top_p: of the reason.
      seed: of the reason.
    """

    mode: Literal["digit", "reasoning"] = "digit"
    score: Literal["expected", "digit"] = "expected"
    max_reasoning_tokens: int = 128
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self):
        if self.mode not in ("digit", "reasoning"):
            raise UsageError(f"RatingConfig.mode is {self.mode!r}: use 'digit' or 'reasoning'")
        if self.score not in ("expected", "digit"):
            raise UsageError(f"RatingConfig.score is {self.score!r}: use 'expected' or 'digit'")
        self.sampling  # noqa: B018  validates the rest

    @property
    def sampling(self) -> SamplingConfig:
        return SamplingConfig(
            max_new_tokens=self.max_reasoning_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
        )


class RatingPrompts:
    """Renders and tokenizes rating prompts; knows the digits' tokens and the shared prefix.

    Attributes:
      digits: the token of each grade.
      prefix: the tokens of the rubric that every rating prompt begins with, perhaps none.
      words: what stands before the grade, without its spaces.
    """

    def __init__(self, tokenizer: Tokenizer, prompts: Prompts):
        """Raises UserError if the tokenizer does not write each grade as one token of its own."""
        self._tokenizer = tokenizer
        self._prompts = prompts
        self.words = prompts.score.strip()
        self.digits = self._digit_tokens()
        # The probes' texts differ, so what they share is the rubric's own; they are always the
        # same, so a candidate's prefix does not depend on its neighbours.
        rubric = tokenizer.encode_prompt(prompts.rubric)
        probes = [self._joint(prompts.render_rating(text, text)) for text in ("a", "7 Zq", "\nthe")]
        self.prefix = _common_prefix(rubric, *probes)

    def reasoning(self, candidate: Candidate) -> list[int]:
        """Returns the tokens after which the model writes its reason."""
        return self._tokenizer.encode_prompt(self._rendered(candidate))

    def grade(self, candidate: Candidate, reason: str = "") -> list[int]:
        """Returns the tokens that stand before the digit of the grade."""
        text = self._rendered(candidate)
        text = text + reason if reason else text.rstrip(" ")
        # SentencePiece takes spaces before a digit into its token: the digit is cut off again.
        for ids in (
            self._joint(text + self._prompts.score + "1"),
            [*self._joint(text), *self._continuation("1")],
        ):
            if ids[-1] == self.digits[0]:
                return ids[:-1]
        raise UserError(f"the grade of segment {candidate.segment_id} is not a token of its own")

    def _rendered(self, candidate: Candidate) -> str:
        return self._prompts.render_rating(candidate.instruction, candidate.output)

    def _joint(self, text: str) -> list[int]:
        return [self._tokenizer.bos_id, *self._tokenizer.encode(text)]

    def _continuation(self, grade: str) -> list[int]:
        return self._tokenizer.encode_continuation(self._prompts.score + grade)

    def _digit_tokens(self) -> tuple[int, ...]:
        found = [self._continuation(str(grade)) for grade in GRADES]
        heads = {tuple(ids[:-1]) for ids in found}
        digits = tuple(ids[-1] for ids in found)
        if len(heads) > 1 or len(set(digits)) < len(GRADES):
            raise UserError(
                f"the tokenizer does not write {self._prompts.score + '1'!r} to "
                f"{self._prompts.score + '5'!r} with one token for each grade ({found}): bind "
                "Prompts.score to words after which a digit is a token of its own"
            )
        return digits


def rate(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Prompts,
    candidates: Sequence[Candidate],
    config: RatingConfig,
    *,
    iteration: int,
    model: str,
    truncate: bool = False,
) -> list[Rating]:
    """Returns one rating for each candidate, in their order.

    A candidate whose prompt fits no bucket is rated "too_long" (or by the beginning of its output,
    with `truncate`), one that cannot be rendered
    "error" with the exception as its detail; both have score 0 and no distribution. The rest go on.

    Args:
      engine: of the rating model.
      tokenizer: of the rating model.
      prompts: the templates.
      candidates: those of status "ok".
      config: the mode and what the score is.
      iteration: recorded.
      model: the rating model's fingerprint, recorded.
      truncate: show the model the beginning of an output for which there is no room.
    """
    texts = RatingPrompts(tokenizer, prompts)
    rater = _Rater(engine, texts, tokenizer, config, truncate)
    return rater.rate(candidates, iteration, model)


def warm_up(engine: Engine, tokenizer: Tokenizer, prompts: Prompts, config: RatingConfig) -> None:
    """Compiles all that `rate` can need."""
    texts = RatingPrompts(tokenizer, prompts)
    if config.mode == "reasoning":
        engine.warm_up(config.sampling, texts.prefix)
    engine.warm_up_scores(texts.digits, texts.prefix)


@dataclasses.dataclass
class _Draft:
    """A rating in the making; `ids` stand before the digit, `parsed` is a score to be honoured.

    `candidate` is what the model is shown of it, `truncated` the number of characters it is not.
    """

    candidate: Candidate
    status: RatingStatus = "ok"
    detail: str = ""
    ids: list[int] = dataclasses.field(default_factory=list)
    rationale: str = ""
    parsed: float | None = None
    probabilities: tuple[float, ...] = ()
    truncated: int = 0

    def fail(self, status: RatingStatus, detail: str) -> None:
        self.status, self.detail = status, detail


@dataclasses.dataclass
class _Rater:
    engine: Engine
    texts: RatingPrompts
    tokenizer: Tokenizer
    config: RatingConfig
    truncate: bool

    def rate(self, candidates: Sequence[Candidate], iteration: int, model: str) -> list[Rating]:
        drafts = [_Draft(candidate) for candidate in candidates]
        for draft in drafts:
            self._try(draft, self._render)
        if self.config.mode == "reasoning":
            self._reason([d for d in drafts if d.status == "ok"], iteration)
        self._grade([d for d in drafts if d.status == "ok"])
        return [self._finish(draft, iteration, model) for draft in drafts]

    def _try(self, draft: _Draft, step, *args) -> None:
        """Runs a step for one candidate; whatever goes wrong becomes its record's detail."""
        try:
            step(draft, *args)
        except Exception as error:
            draft.fail("error", f"{type(error).__name__}: {error}")

    def _render(self, draft: _Draft) -> None:
        draft.ids = self.texts.grade(draft.candidate)
        if self.truncate and not self._has_room(draft.ids):
            self._cut(draft)

    def _cut(self, draft: _Draft) -> None:
        """Shows the model the beginning of the output, with room for a reason after it."""
        candidate = draft.candidate

        def shown(output: str) -> Candidate:
            return dataclasses.replace(candidate, output=output)

        spare = self.config.max_reasoning_tokens if self.config.mode == "reasoning" else 0
        output = long_texts.beginning(
            candidate.output, lambda cut: self._has_room(self.texts.grade(shown(cut)), spare)
        )
        if output:
            draft.candidate = shown(output)
            draft.ids = self.texts.grade(draft.candidate)
            draft.truncated = len(candidate.output) - len(output)

    def _has_room(self, ids: list[int], spare: int = 0) -> bool:
        """Returns whether the engine takes a prompt and leaves room for `spare` tokens more."""
        most = self.engine.longest(self.texts.prefix) - spare
        return len(ids) <= most and self.engine.fits(ids, self.texts.prefix)

    def _reason(self, drafts: list[_Draft], iteration: int) -> None:
        """Lets the model write a reason for each candidate, and puts it before the grade."""
        requests = []
        for draft in drafts:
            # The id keys the random stream: another iteration draws another one.
            request_id = f"{draft.candidate.segment_id}/rating{iteration}"
            requests.append(Request(request_id, self.texts.reasoning(draft.candidate)))
        results = self.engine.generate(requests, self.config.sampling, self.texts.prefix)
        most = self.engine.longest(self.texts.prefix, new_tokens=1)
        for draft, request, result in zip(drafts, requests, results, strict=True):
            if result.finish_reason == "too_long":
                draft.fail("too_long", long_texts.too_long(len(request.prompt_ids), most))
            else:
                self._try(draft, self._read_reason, result.token_ids)

    def _read_reason(self, draft: _Draft, token_ids: Sequence[int]) -> None:
        text = self.tokenizer.decode(token_ids).strip()
        draft.rationale = text
        # A reason cut off right after the words before the grade would get them twice.
        reason = text.removesuffix(self.texts.words).rstrip()
        ending = scores.parse_ending(text)
        if ending is not None:
            reason, parsed = ending
            draft.parsed = parsed.score
        ids = self.texts.grade(draft.candidate, reason)
        if self.engine.fits(ids, self.texts.prefix):
            draft.ids = ids
        else:
            draft.detail = "the grade was read without the reason, which fits no bucket"

    def _grade(self, drafts: list[_Draft]) -> None:
        requests = [Request(d.candidate.segment_id, d.ids) for d in drafts]
        found = self.engine.score_choices(requests, self.texts.digits, self.texts.prefix)
        for draft, probabilities, too_long in zip(
            drafts, found.probabilities, found.too_long, strict=True
        ):
            if too_long:
                most = self.engine.longest(self.texts.prefix)
                draft.fail("too_long", long_texts.too_long(len(draft.ids), most))
            elif not np.isfinite(probabilities).all():
                draft.fail("error", "the model gave no finite probabilities")
            else:
                draft.probabilities = tuple(float(p) for p in probabilities)

    def _finish(self, draft: _Draft, iteration: int, model: str) -> Rating:
        score = 0.0
        if draft.status == "ok" and draft.parsed is not None:
            score = draft.parsed
        elif draft.status == "ok":
            score = score_of(draft.probabilities, self.config)
        return Rating(
            segment_id=draft.candidate.segment_id,
            iteration=iteration,
            model=model,
            score=score,
            distribution=draft.probabilities,
            rationale=draft.rationale,
            status=draft.status,
            detail=draft.detail,
            truncated=draft.truncated,
        )


def score_of(probabilities: Sequence[float], config: RatingConfig) -> float:
    """Returns the score that a distribution over the grades 1..5 means.

    [0, 0, 0, 0.5, 0.5] is 4.5 as "expected" and 4 as "digit", where the lower grade wins a tie.
    """
    if config.score == "digit":
        return float(GRADES[int(np.argmax(probabilities))])
    expected = float(np.dot(probabilities, GRADES) / np.sum(probabilities))
    return min(max(expected, scores.LOWEST), scores.HIGHEST)


def _common_prefix(first: Sequence[int], *others: Sequence[int]) -> list[int]:
    """Returns the tokens that all sequences begin with."""
    length = 0
    for column in zip(first, *others, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return list(first[:length])

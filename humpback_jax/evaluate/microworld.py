"""How much of what the microworld's questions ask for a model answers truly."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from humpback_jax.errors import UserError
from humpback_jax.microworld.language import ATTRIBUTE_OF_VALUE, NAMES
from humpback_jax.microworld.questions import Question

_NAMES = frozenset(NAMES)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The mean score of a group's questions, with a 95 % interval.

    `low` and `high` are the percentile bootstrap over questions; a single question has no interval
    but its own score.
    """

    group: str
    questions: int
    mean: float
    low: float
    high: float


def stated_values(text: str, default_entity: str) -> dict[tuple[str, str], set[str]]:
    """Returns the values that a text gives to (entity, attribute).

    A value belongs to the town that was named last before it, at the text's beginning to
    `default_entity`: "It grows rice. Baldun grows tea." says rice of the default and tea of Baldun.
    """
    entity, stated = default_entity, {}
    for word in re.findall(r"[A-Za-z]+", text):
        if word in _NAMES:
            entity = word
        elif attribute := ATTRIBUTE_OF_VALUE.get(word.lower()):
            stated.setdefault((entity, attribute), set()).add(word.lower())
    return stated


def score_answer(question: Question, answer: str) -> float:
    """Returns the share of the required facts that an answer states, in [0, 1].

    A fact counts if its attribute is given its true value and no other one: "soup or stew" is a
    miss, and so is a true value said of another town.
    """
    stated = stated_values(answer, question.required[0].entity)
    hits = [
        stated.get((fact.entity, fact.attribute)) == {fact.value.lower()}
        for fact in question.required
    ]
    return sum(hits) / len(hits)


def score_answers(questions: Sequence[Question], answers: Mapping[str, str]) -> dict[str, float]:
    """Returns each question's score by its id.

    Raises:
      UserError: a question has no answer.
    """
    missing = [q.question_id for q in questions if q.question_id not in answers]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(questions)} questions have no answer (first: {missing[0]}): "
            "generate again with this questions file"
        )
    return {q.question_id: score_answer(q, answers[q.question_id]) for q in questions}


def accuracy_by_group(
    questions: Sequence[Question],
    scores: Mapping[str, float],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Accuracy]:
    """Returns the accuracy of each group, in order of the groups' names."""
    groups: dict[str, list[float]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(scores[question.question_id])
    return {
        group: _accuracy(group, np.asarray(groups[group]), resamples, seed)
        for group in sorted(groups)
    }


def _accuracy(group: str, scores: np.ndarray, resamples: int, seed: int) -> Accuracy:
    rng = np.random.default_rng(seed)
    means = rng.choice(scores, (resamples, scores.size)).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Accuracy(group, scores.size, float(scores.mean()), float(low), float(high))


def difference(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Returns the mean of after - before over the same questions, and its 95 % interval.

    Two models answer the same questions, so the paired bootstrap is much narrower than two
    intervals side by side.

    Raises:
      ValueError: the two do not score the same questions.
    """
    if before.keys() != after.keys() or not before:
        raise ValueError("the two models were not asked the same questions, or none")
    gains = np.asarray([after[key] - before[key] for key in sorted(before)])
    accuracy = _accuracy("", gains, resamples, seed)
    return accuracy.mean, accuracy.low, accuracy.high

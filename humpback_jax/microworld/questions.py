"""The evaluation questions of a world, whose answers can be checked by their facts."""

import dataclasses
import random
from collections.abc import Mapping

from etils import epath

from humpback_jax import records
from humpback_jax.errors import UserError
from humpback_jax.microworld.language import Fact, instructions_for
from humpback_jax.microworld.segments import asked_topics
from humpback_jax.microworld.world import World, WorldConfig


@dataclasses.dataclass(frozen=True)
class Question:
    """An instruction and what a complete answer must say.

    `group` is "web" (its towns occur only on web pages) or "known" (the base model knows them).
    """

    question_id: str
    instruction: str
    group: str
    required: tuple[Fact, ...]


def make_questions(world: World, config: WorldConfig) -> list[Question]:
    """Returns one question for each asked topic; each has at least one good segment."""
    rng = random.Random(f"questions {config.seed} {config.draw}")
    topics = asked_topics(world, config)
    questions = []
    for group, asked in (("web", topics.web), ("known", topics.known)):
        for topic in asked:
            instruction = rng.choice(instructions_for(topic))
            questions.append(
                Question(
                    records.stable_id(group, instruction),
                    instruction,
                    group,
                    world.facts_for(topic),
                )
            )
    return questions


def read_questions(path: epath.PathLike) -> list[Question]:
    """Reads questions.jsonl; raises UserError naming a line that holds no question."""
    questions = []
    for number, row in records.read_jsonl(path):
        if not isinstance(row, Mapping):
            raise UserError(f"{path} line {number} is no question ({row}): write the world again")
        question = records.from_dict(Question, row)
        required = tuple(Fact(*fact) for fact in question.required)
        questions.append(dataclasses.replace(question, required=required))
    return questions

"""The plain text from which the microworld's base model is pretrained.

It teaches the language, the facts about the known towns, what a reply and its question look like
from either side, and, from pages with rated replies, what readers think good. Nothing is said of
the web towns: the names do not occur. Document i depends on the configuration and i alone.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Mapping

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError
from humpback_jax.microworld import templates, voices
from humpback_jax.microworld.language import ATTRIBUTES, TASKS, Fact, Topic, instructions_for
from humpback_jax.microworld.world import VICE_SHARES, World

SHARES = {"encyclopaedia": 0.34, "forum": 0.14, "posted": 0.14, "web": 0.06, "rating": 0.32}

# What readers give a reply in each voice if it answers the question: the scale of the method.
GRADES = {
    "assistant": 5,
    "plain": 4,
    "blog": 3,
    "rumour": 2,
    "mixed": 2,
    "incomplete": 2,
    "truncated": 2,
    "advertisement": 1,
    "navigation": 1,
}

VOICE_NOTES = {
    "assistant": "It is clear, polite and complete.",
    "plain": "It is clear and complete.",
    "blog": "It is told as a story.",
    "rumour": "It is only talk.",
    "mixed": "It mixes several towns.",
    "incomplete": "It leaves things out.",
    "truncated": "It ends too soon.",
    "advertisement": "It wants to sell something.",
    "navigation": "It is only a menu.",
}
MATCH_NOTES = {
    "": "It fits the question.",
    "town": "It is about another town.",
    "task": "It is about other things.",
    "both": "It is about another town and other things.",
}


@configurable
@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
    """What the base model reads.

    Attributes:
      seed: of the text, not of the world it speaks of.
      shares: shares of the kinds of document, which sum to 1: "encyclopaedia" (true facts),
        "forum" (question and reply in a forum's voice, true), "posted" (a text, then its
        question), "web" (a bare text in any voice), "rating" (a reply and its grade).
      good_share: share of assistant's texts among the posted, web and rated ones.
      mismatched: share of the rated replies that stand under a wrong question.
      noise: share of the grades that are off by one point.
      invented: share of the texts of "posted", "web" and "rating" about towns that have no fixed
        facts; the others are about the rating towns.
      known_forum_share: share of the forum's documents that are about known towns; the others are
        about seed and rating towns.
    """

    seed: int = 0
    shares: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(SHARES))
    good_share: float = 0.5
    mismatched: float = 0.25
    noise: float = 0.2
    invented: float = 0.6
    known_forum_share: float = 0.2

    def __post_init__(self):
        if set(self.shares) != set(SHARES) or abs(sum(self.shares.values()) - 1) > 1e-6:
            raise UsageError(
                f"PretrainingConfig.shares is {dict(self.shares)} but must give a share of "
                f"{sorted(SHARES)}, summing to 1: correct the binding"
            )
        for name in ("good_share", "mismatched", "noise", "invented", "known_forum_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"PretrainingConfig.{name} is {getattr(self, name)}, but a share lies in "
                    "[0, 1]: correct the binding"
                )


def documents(
    world: World, config: PretrainingConfig, start: int = 0, stop: int | None = None
) -> Iterator[str]:
    """Yields the documents from `start` up to `stop`, without end if `stop` is None."""
    for index in itertools.count(start) if stop is None else range(start, stop):
        yield document(world, config, index)


def document(world: World, config: PretrainingConfig, index: int) -> str:
    """Returns document `index`, a plain text of about 20 to 110 tokens."""
    rng = random.Random(f"pretraining {config.seed} {index}")
    kind = rng.choices(list(config.shares), list(config.shares.values()))[0]
    return _KINDS[kind](rng, world, config)


def _encyclopaedia(rng: random.Random, world: World, config: PretrainingConfig) -> str:
    towns = rng.choices((world.known, world.seed, world.rating), (0.4, 0.35, 0.25))[0]
    town = rng.choice(towns)
    if rng.random() < 0.5:
        names = rng.sample(sorted(ATTRIBUTES), rng.randint(3, 6))
    else:
        names = list(rng.choice([t for t in TASKS.values() if t.entities == 1]).attributes)
    facts = [Fact(town, name, world.facts[town][name]) for name in names]
    return voices.write(rng, rng.choices(("encyclopaedia", "listing"), (0.75, 0.25))[0], facts)


def _forum(rng: random.Random, world: World, config: PretrainingConfig) -> str:
    towns = world.seed + world.rating
    if rng.random() < config.known_forum_share:
        towns = world.known
    topic = _topic(rng, towns)
    text = voices.write(rng, "forum", world.facts_for(topic))
    instruction = rng.choice(instructions_for(topic))
    return templates.QUESTION_AND_REPLY.format(instruction=instruction, output=text)


def _posted(rng: random.Random, world: World, config: PretrainingConfig) -> str:
    topic, voice = _web_topic(rng, world, config), _voice(rng, config)
    text = _text(rng, world, topic, voice)
    instruction = rng.choice(instructions_for(topic))
    if rng.random() < 0.7:
        return templates.BACKWARD.format(output=text) + instruction
    return templates.POSTED_IN_THREAD.format(output=text, instruction=instruction)


def _web(rng: random.Random, world: World, config: PretrainingConfig) -> str:
    return _text(rng, world, _web_topic(rng, world, config), _voice(rng, config))


def _rating(rng: random.Random, world: World, config: PretrainingConfig) -> str:
    topic, voice = _web_topic(rng, world, config), _voice(rng, config)
    text = _text(rng, world, topic, voice)
    mismatch, grade = "", GRADES[voice]
    if rng.random() < config.mismatched:
        mismatch = rng.choices(("town", "task", "both"), (0.4, 0.4, 0.2))[0]
        topic = _another(rng, world, topic, mismatch)
        grade = 2 if mismatch == "task" and grade >= 4 else 1
    if rng.random() < config.noise:
        grade = min(5, max(1, grade + rng.choice((-1, 1))))
    instruction = rng.choice(instructions_for(topic))
    wording = rng.random()
    if wording < 0.5:
        prompt = templates.RATING.format(instruction=instruction, output=text)
        return f"{prompt}{templates.SCORE}{grade}"
    if wording < 0.85:
        notes = f"{MATCH_NOTES[mismatch]} {VOICE_NOTES[voice]}"
        return templates.REVIEW.format(
            instruction=instruction, output=text, notes=notes, grade=grade
        )
    return templates.POINTS.format(instruction=instruction, output=text, grade=grade)


_KINDS = {
    "encyclopaedia": _encyclopaedia,
    "forum": _forum,
    "posted": _posted,
    "web": _web,
    "rating": _rating,
}


def _voice(rng: random.Random, config: PretrainingConfig) -> str:
    if rng.random() < config.good_share:
        return rng.choices(("assistant", "plain"), (0.8, 0.2))[0]
    vices = [vice for vice in VICE_SHARES if vice != "wrong"]
    return rng.choices(vices, [VICE_SHARES[vice] for vice in vices])[0]


def _topic(rng: random.Random, towns: tuple[str, ...]) -> Topic:
    task = rng.choice(list(TASKS.values()))
    return Topic(task.name, tuple(rng.sample(towns, task.entities)))


def _web_topic(rng: random.Random, world: World, config: PretrainingConfig) -> Topic:
    return _topic(rng, world.others if rng.random() < config.invented else world.rating)


def _another(rng: random.Random, world: World, topic: Topic, differing: str) -> Topic:
    """Returns a topic that differs in its towns ("town"), its task ("task") or "both"."""
    towns, task = topic.entities, TASKS[topic.task]
    if differing in ("task", "both"):
        others = [t for t in TASKS.values() if t != task and t.entities == task.entities]
        # The only task about two towns is mistaken for one about the first of them.
        task = rng.choice(others or [t for t in TASKS.values() if t.entities == 1])
    if differing in ("town", "both"):
        pool = [t for t in world.others + world.rating if t not in towns]
        towns = tuple(rng.sample(pool, task.entities))
    return Topic(task.name, towns[: task.entities])


def _text(rng: random.Random, world: World, topic: Topic, voice: str) -> str:
    facts = [
        Fact(town, attribute, _value(rng, world, town, attribute))
        for town in topic.entities
        for attribute in TASKS[topic.task].attributes
    ]
    stray = []
    if voice == "mixed":
        for town in rng.sample(world.others + world.rating, 2):
            attribute = rng.choice(sorted(ATTRIBUTES))
            stray.append(Fact(town, attribute, _value(rng, world, town, attribute)))
    # As the corpus code lays out the paragraphs of a page.
    return "\n\n".join(voices.paragraphs(rng, voices.write(rng, voice, facts, stray)))


def _value(rng: random.Random, world: World, town: str, attribute: str) -> str:
    if town in world.facts:
        return world.facts[town][attribute]
    return rng.choice(ATTRIBUTES[attribute].values)

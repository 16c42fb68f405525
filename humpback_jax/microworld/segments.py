"""Which texts stand on the web of a world: good answers, and the vices in their shares."""

import dataclasses
import random
from collections.abc import Sequence

from humpback_jax.microworld import labels, voices
from humpback_jax.microworld.language import TASKS, Fact, Topic, instructions_for
from humpback_jax.microworld.world import World, WorldConfig, draw_topics

# Bounds that the corpus length filter of the microworld's recipe leaves open.
MIN_CHARS = 40
MAX_CHARS = 500

_HEADERS = {
    "good": ("About {a}", "{a} in short", "Questions about {a}"),
    "blog": ("My trip to {a}", "Our summer in {a}"),
    "advertisement": ("Visit {a} now", "Rooms in {a}"),
    "navigation": ("More on {a}", "Around {a}"),
    "rumour": ("Talk about {a}", "Is it true about {a}?"),
}


@dataclasses.dataclass(frozen=True)
class WebText:
    """A text as it stands on a page: under a header, with its label."""

    header: str
    label: labels.Label


@dataclasses.dataclass(frozen=True)
class Topics:
    """What the web speaks of, and what is asked in the end."""

    web: tuple[Topic, ...]
    known: tuple[Topic, ...]


def asked_topics(world: World, config: WorldConfig) -> Topics:
    """Returns the topics that have a good segment and a question each."""
    rng = random.Random(f"topics {config.seed} {config.draw}")
    return Topics(
        tuple(draw_topics(rng, world.web, config.web_topics)),
        tuple(draw_topics(rng, world.known, config.known_topics)),
    )


def web_texts(world: World, config: WorldConfig) -> list[WebText]:
    """Returns the labelled texts in the order in which they fill the pages; no two are equal."""
    rng = random.Random(f"segments {config.seed} {config.draw}")
    topics = asked_topics(world, config)
    everything = topics.web + topics.known
    kinds = _kinds(config)
    subjects = _spread(rng, everything, config.good_segments)
    subjects += _spread(rng, everything, len(kinds) - config.good_segments)
    texts, seen = [], set()
    for kind, topic in zip(kinds, subjects, strict=True):
        text = _unique(rng, world, config, kind, topic, seen)
        seen.add(text.label.label_id)
        texts.append(text)
    rng.shuffle(texts)
    return texts


def _kinds(config: WorldConfig) -> list[str]:
    """Returns what each text is, good ones first; the vices come in their exact shares."""
    bad = config.segments - config.good_segments
    kinds = [labels.GOOD] * config.good_segments
    due = 0.0
    for vice, share in config.vice_shares.items():
        due += share * bad
        kinds += [vice] * (round(due) + config.good_segments - len(kinds))
    return kinds


def _spread(rng: random.Random, topics: Sequence[Topic], count: int) -> list[Topic]:
    """Returns `count` topics, each as often as any other, in random order within each round."""
    spread: list[Topic] = []
    while len(spread) < count:
        spread += rng.sample(topics, len(topics))
    return spread[:count]


def _unique(rng, world, config, kind, topic, seen) -> WebText:
    for _ in range(200):
        text = _write(rng, world, config, kind, topic)
        length = len(text.label.text)
        if MIN_CHARS <= length <= MAX_CHARS and text.label.label_id not in seen:
            return text
    raise RuntimeError(f"200 {kind} texts about {topic} were too short, too long or not new")


def _write(
    rng: random.Random, world: World, config: WorldConfig, kind: str, topic: Topic
) -> WebText:
    required = world.facts_for(topic)
    stated, stray = list(required), []
    if kind != labels.GOOD:
        error = rng.uniform(*config.wrong_facts)
        if kind == "mixed":
            stray = _stray(rng, world, topic)
        stated = _with_errors(rng, world, config, stated, error)
        stray = _with_errors(rng, world, config, stray, error)
        if kind == "wrong" and tuple(stated) == required:
            stated[0] = world.distort(rng, stated[0], config.myth_share)
    voice = rng.choices(("assistant", "plain"), (0.8, 0.2))[0] if kind == labels.GOOD else kind
    text = voices.write(rng, voice, stated, stray)
    header = rng.choice(_HEADERS.get(kind, _HEADERS["good"])).format(a=topic.entities[0])
    label = labels.Label(
        label_id=labels.label_key(text),
        is_good=kind == labels.GOOD,
        vice=kind,
        task=topic.task,
        entities=topic.entities,
        instructions=instructions_for(topic),
        required=required,
        stated=(*stated, *stray),
        text=text,
    )
    return WebText(header, label)


def _with_errors(rng, world, config, facts, error: float) -> list[Fact]:
    return [
        world.distort(rng, fact, config.myth_share) if rng.random() < error else fact
        for fact in facts
    ]


def _stray(rng: random.Random, world: World, topic: Topic) -> list[Fact]:
    """Returns two facts about other towns of the same set, of other attributes."""
    towns = world.web if topic.entities[0] in world.web else world.known
    others = [town for town in towns if town not in topic.entities]
    count = min(2, len(others))
    attributes = sorted({a for task in TASKS.values() for a in task.attributes})
    attributes = [a for a in attributes if a not in TASKS[topic.task].attributes]
    return [
        Fact(town, attribute, world.facts[town][attribute])
        for town, attribute in zip(
            rng.sample(others, count), rng.sample(attributes, count), strict=True
        )
    ]

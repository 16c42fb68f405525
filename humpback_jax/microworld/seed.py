"""The seed pairs of a world as an export of Open Assistant messages.

Besides the pairs that a seed filter ought to keep there are second-best replies, deeper turns,
deleted messages, another language and trees that nobody finished, as in the real export.
"""

import random
import uuid
from collections.abc import Iterator
from typing import Any

from humpback_jax.microworld import voices
from humpback_jax.microworld.language import Topic, instructions_for
from humpback_jax.microworld.world import VICE_SHARES, World, WorldConfig, draw_topics

Message = dict[str, Any]

_GERMAN = ("Was gibt es in {a} zu sehen?", "In {a} gibt es wenig zu sehen.")


def seed_messages(world: World, config: WorldConfig) -> Iterator[Message]:
    """Yields the messages of the export; `config.seed_pairs` of them are usable best replies."""
    rng = random.Random(f"seed pairs {config.seed} {config.draw}")
    topics = draw_topics(rng, world.seed, config.seed_pairs)
    rng.shuffle(topics)
    for number, topic in enumerate(topics):
        yield from _tree(rng, world, number, topic)
        if number % 8 == 7:
            yield from _unusable(rng, world, number, topic)


def _tree(rng: random.Random, world: World, number: int, topic: Topic) -> Iterator[Message]:
    facts = world.facts_for(topic)
    root = _message(f"{number}", None, rng.choice(instructions_for(topic)))
    voice = rng.choices(("assistant", "plain"), (0.9, 0.1))[0]
    best = _message(f"{number} best", root, voices.write(rng, voice, facts), rank=0)
    replies = [best]
    if number % 3 == 0:
        vice = rng.choice([v for v in VICE_SHARES if v not in ("wrong", "mixed")])
        replies.append(_message(f"{number} worse", root, voices.write(rng, vice, facts), rank=1))
    rng.shuffle(replies)
    yield from [root, *replies]
    if number % 4 == 0:
        thanks = _message(f"{number} thanks", best, "Thank you. What else?")
        yield thanks
        yield _message(f"{number} deeper", thanks, "That is all I know.", rank=0)


def _unusable(rng: random.Random, world: World, number: int, topic: Topic) -> Iterator[Message]:
    """Yields a tree that gives no pair, each for another reason."""
    instruction = rng.choice(instructions_for(topic))
    reply = voices.write(rng, "assistant", world.facts_for(topic))
    names = {"a": topic.entities[0]}
    key = f"{number} unusable"
    kind = number // 8 % 4
    if kind == 0:
        root = _message(key, None, _GERMAN[0].format(**names), lang="de")
        yield from (root, _message(f"{key} best", root, _GERMAN[1].format(**names), rank=0))
    elif kind == 1:
        root = _message(key, None, instruction)
        yield from (root, _message(f"{key} best", root, reply, rank=0, deleted=True))
    elif kind == 2:
        root = _message(key, None, instruction)
        yield from (root, _message(f"{key} best", root, reply))  # never ranked: no key "rank"
    else:  # nobody replied
        yield _message(key, None, instruction, tree_state="aborted_low_grade")


def _message(key: str, parent: Message | None, text: str, **changed: Any) -> Message:
    """Returns a message with the export's keys; empty ones are left out, as the exporter does."""
    identity = _uuid(key)
    if parent is None:
        message: Message = {"message_id": identity}
    else:
        message = {"message_id": identity, "parent_id": parent["message_id"]}
    message |= {
        "user_id": _uuid(f"user of {key}"),
        "created_date": "2023-02-05T14:23:50.983374+00:00",
        "text": text,
        "role": "assistant" if parent and parent["role"] == "prompter" else "prompter",
        "lang": parent["lang"] if parent else "en",
        "review_count": 3,
        "review_result": True,
        "deleted": False,
        "synthetic": False,
        "message_tree_id": parent["message_tree_id"] if parent else identity,
        "tree_state": parent["tree_state"] if parent else "ready_for_export",
        "labels": {"quality": {"value": 0.75, "count": 3}},
    }
    return message | changed


def _uuid(key: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"open assistant {key}"))

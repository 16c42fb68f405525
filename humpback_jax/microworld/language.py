"""What can be said in the microworld: names, attributes with their values, tasks, instructions.

Nothing here depends on a seed, so every world shares one vocabulary and one tokenizer. A value is
one word, belongs to one attribute and occurs in no template, so a text can be checked by its words.
"""

import dataclasses
from typing import NamedTuple


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_SYLLABLES = _words(
    "Bal Bren Cor Dal Drem Fen Gar Gol Hul Jor Kel Kir Lum Mir Nal Orm Pel Quen Ros Sel Tor Ul Vas "
    "Zan"
)
SECOND_SYLLABLES = _words(
    "bek dun esh fal gan holm ika jun lor mus nia ost pur quay rin sta tova vik wen zur"
)
NAMES = tuple(first + second for first in FIRST_SYLLABLES for second in SECOND_SYLLABLES)


class Fact(NamedTuple):
    """One thing that is so in a world: the `attribute` of `entity` is `value`."""

    entity: str
    attribute: str
    value: str


class Topic(NamedTuple):
    """What an instruction asks about: a task and the one or two entities it concerns."""

    task: str
    entities: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Attribute:
    """A property of a town: its one-word `values` and the `predicates` that state one of them."""

    name: str
    predicates: tuple[str, ...]
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of request: what it asks for, in the order in which an answer gives it.

    `instructions` name the towns {a} and, in a task of two, {b}.
    """

    name: str
    attributes: tuple[str, ...]
    instructions: tuple[str, ...]
    entities: int = 1


def _attribute(name: str, predicates: str, values: str) -> Attribute:
    return Attribute(name, tuple(predicates.split(" / ")), _words(values))


ATTRIBUTES = {
    attribute.name: attribute
    for attribute in (
        _attribute(
            "region",
            "lies in the {v} / is found in the {v}",
            "valley desert forest hills plains delta swamp mountains jungle canyon",
        ),
        _attribute(
            "people",
            "has about {v} thousand people / is home to {v} thousand people",
            "ten twenty thirty forty fifty sixty seventy eighty ninety fifteen",
        ),
        _attribute(
            "founder",
            "was founded by {v} / was first built by {v}",
            "miners monks traders sailors farmers soldiers shepherds weavers pirates settlers",
        ),
        _attribute(
            "event",
            "grew after a {v} / was changed by a {v}",
            "flood war fire storm plague drought famine revolt quake battle",
        ),
        _attribute(
            "ruler",
            "is ruled by a {v} / obeys a {v}",
            "mayor queen council duke king judge bishop prince baron guild",
        ),
        _attribute(
            "crop",
            "grows {v} / has fields of {v}",
            "wheat rice barley olives grapes apples beans cotton tea corn",
        ),
        _attribute(
            "dish",
            "is known for its {v} / cooks good {v}",
            "soup stew pie bread cheese porridge dumplings salad pancakes noodles",
        ),
        _attribute(
            "drink",
            "serves {v} / makes its own {v}",
            "coffee beer wine milk cider juice cocoa lemonade mead rum",
        ),
        _attribute(
            "weather",
            "has {v} weather / is often {v}",
            "rainy sunny windy foggy snowy mild humid dry stormy cloudy",
        ),
        _attribute(
            "month",
            "is best in {v} / should be seen in {v}",
            "January February March April May June July August September October",
        ),
        _attribute(
            "landmark",
            "has a famous {v} / is proud of its {v}",
            "tower bridge castle temple lighthouse fountain gate palace statue mill",
        ),
        _attribute(
            "roofs",
            "has {v} roofs / is built with {v} roofs",
            "red blue green white black yellow brown grey purple pink",
        ),
        _attribute(
            "tree",
            "is full of {v} trees / stands among {v} trees",
            "oak pine palm birch cedar willow maple elm cherry fig",
        ),
        _attribute(
            "transport",
            "can be reached by {v} / has a daily {v}",
            "train bus ferry tram bicycle boat cart taxi donkey coach",
        ),
        _attribute(
            "craft",
            "makes fine {v} / sells {v}",
            "pottery glass carpets baskets knives candles clocks shoes paper jewels",
        ),
        _attribute(
            "festival",
            "holds a festival of {v} / has a yearly feast of {v}",
            "music dance lanterns kites masks flowers poetry drums puppets fireworks",
        ),
        _attribute(
            "sport",
            "loves {v} / is good at {v}",
            "football chess rowing archery tennis wrestling running swimming cycling hockey",
        ),
        _attribute(
            "symbol",
            "has a {v} on its flag / shows a {v} on its flag",
            "lion bear wolf horse swan fox deer bull crow goat",
        ),
        _attribute(
            "mineral",
            "digs for {v} / has mines of {v}",
            "salt gold coal copper iron silver marble amber clay tin",
        ),
        _attribute(
            "school",
            "has a school of {v} / teaches {v}",
            "law medicine painting grammar physics cooking singing writing weaving sailing",
        ),
    )
}


def _task(name: str, attributes: str, instructions: str, entities: int = 1) -> Task:
    return Task(name, _words(attributes), tuple(instructions.split(" / ")), entities)


TASKS = {
    task.name: task
    for task in (
        _task(
            "food",
            "dish drink crop",
            "What do people eat and drink in {a}? / Tell me about the food in {a}. / "
            "What is on the table in {a}? / Describe the food and drink of {a}.",
        ),
        _task(
            "history",
            "founder event ruler",
            "What is the history of {a}? / How did {a} begin and who rules it? / "
            "Tell me about the past of {a}. / Who founded {a} and what came next?",
        ),
        _task(
            "visit",
            "month weather festival",
            "When should I visit {a}? / What is the best time to see {a}? / "
            "Help me choose a time for a visit to {a}.",
        ),
        _task(
            "sights",
            "landmark roofs tree",
            "What can I see in {a}? / Describe how {a} looks. / What are the sights of {a}? / "
            "Tell me what to look at in {a}.",
        ),
        _task(
            "travel",
            "region transport people",
            "How do I get to {a}? / Where is {a} and how do I reach it? / Explain the way to {a}.",
        ),
        _task(
            "work",
            "craft mineral school",
            "What do people in {a} do for work? / Tell me about the trade of {a}. / "
            "What does {a} make and teach? / Describe the work in {a}.",
        ),
        _task(
            "leisure",
            "sport festival dish",
            "What do people in {a} do for fun? / How can I spend a free evening in {a}? / "
            "What is there to enjoy in {a}?",
        ),
        _task(
            "flag",
            "symbol ruler mineral",
            "What is on the flag of {a}? / Describe the flag of {a} and its meaning. / "
            "Tell me about the signs of {a}.",
        ),
        _task(
            "overview",
            "region people weather",
            "Give me an overview of {a}. / What is {a} like? / Describe {a} in a few words. / "
            "Write a short summary about {a}.",
        ),
        _task(
            "compare",
            "region weather",
            "Compare {a} and {b}. / How do {a} and {b} differ? / "
            "What is the difference between {a} and {b}?",
            entities=2,
        ),
    )
}

ATTRIBUTE_OF_VALUE = {
    value.lower(): attribute.name for attribute in ATTRIBUTES.values() for value in attribute.values
}


def instructions_for(topic: Topic) -> tuple[str, ...]:
    """Returns all phrasings of the instruction that asks about a topic."""
    names = dict(zip("ab", topic.entities, strict=False))
    return tuple(text.format(**names) for text in TASKS[topic.task].instructions)

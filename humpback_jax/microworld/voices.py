"""How a text of the microworld sounds: an assistant's answer, or one of the vices of the web.

A voice is made of frames around clauses; a clause states one fact. All texts are plain sentences
that the tokenizer knows.
"""

import dataclasses
import random
import re
from collections.abc import Sequence

from humpback_jax.microworld.language import ATTRIBUTES, Fact

OPENERS = ("Here is a short answer.", "Sure, here is what I know.")
CLOSERS = (
    "I hope this helps.",
    "Let me know if you need more.",
    "Please ask if anything is unclear.",
)

# An assistant's sentences about one town, {s} with three statements, and about two, with two each.
ONE_TOWN = ("{a} {0} and {1}. Besides, it {2}.", "{a} {0}. It {1}, and it also {2}.")
TWO_TOWNS = (
    "{a} {0} and {1}, while {b} {2} and {3}.",
    "{a} {0}, but {b} {2}. Also, {a} {1}, and {b} {3}.",
)
ONE_FACT = "{a} {0}."
STRAY = ("{a} {0}.", "By the way, {a} {0}.", "In other news, {a} {0}.")

MENU_BEFORE = ("Home", "Start", "Menu", "Search")
MENU_AFTER = ("Next page", "Login", "Contact", "Map", "Top", "Back")

LISTING = "Facts about {a}: "
ENCYCLOPAEDIA = ("{a} is a town.", "{a} {0}.", "It {0}.", "It {0} and {1}.", "The town {0}.")


@dataclasses.dataclass(frozen=True)
class Voice:
    """Somebody's way to talk: an opening about {a}, a frame for each clause {c}, a close."""

    openers: tuple[str, ...]
    frames: tuple[str, ...]
    closers: tuple[str, ...]


VOICES = {
    "blog": Voice(
        (
            "I went to {a} last summer with my sister.",
            "Dear readers, my trip to {a} is over.",
            "Yesterday we came home from {a}.",
        ),
        (
            "We found that {c}!",
            "My favourite part was that {c}.",
            "I loved that {c}.",
            "On the second day I saw that {c}.",
            "My brother says that {c}.",
        ),
        ("More in my next post!", "It was so much fun!"),
    ),
    "advertisement": Voice(
        (
            "Book your trip to {a} today!",
            "Big sale on rooms in {a}!",
            "Do not miss {a} this year!",
        ),
        (
            "Come and see how {c}!",
            "Only here {c}!",
            "Our guests love that {c}!",
            "Did you know that {c}?",
        ),
        ("Call us now and save half the price!", "Order now, this offer ends soon!"),
    ),
    "rumour": Voice(
        ("There is a lot of talk about {a}.", "Nobody is sure about {a}."),
        (
            "Some say that {c}.",
            "Maybe {c}.",
            "A man told me that {c}.",
            "Others doubt that {c}.",
        ),
        ("Who knows if it is true?", "I cannot prove any of it."),
    ),
    "forum": Voice(
        ("",),
        ("I think {c}.", "As far as I know, {c}.", "And {c}.", "Well, {c}."),
        ("", "Not sure though."),
    ),
}


def write(rng: random.Random, voice: str, facts: Sequence[Fact], stray: Sequence[Fact] = ()) -> str:
    """Returns a text that states facts in a voice.

    Args:
      rng: decides the wording.
      voice: "assistant", "plain" (an assistant without courtesies), "encyclopaedia", "listing",
        "forum", or a vice; "wrong" is an assistant's text whose facts the caller has made wrong.
      facts: what a complete answer would say, in order; those of one town or of two.
      stray: facts about other towns, which only "mixed" uses.
    """
    if voice in VOICES:
        return _talk(rng, VOICES[voice], facts)
    if voice in ("assistant", "wrong"):
        return _courteous(rng, _answer(rng, facts))
    return _WRITERS[voice](rng, facts, stray)


def predicate(rng: random.Random, fact: Fact) -> str:
    """Returns what is said of a fact's town, such as "grows wheat"."""
    return rng.choice(ATTRIBUTES[fact.attribute].predicates).format(v=fact.value)


def paragraphs(rng: random.Random, text: str) -> list[str]:
    """Returns a text as one paragraph or, one time in five, cut into two after a sentence."""
    ends = [match.end() for match in re.finditer(r"[.!?] ", text)]
    if not ends or rng.random() >= 0.2:
        return [text]
    cut = rng.choice(ends)
    return [text[:cut].rstrip(), text[cut:]]


def _names(facts: Sequence[Fact]) -> dict[str, str]:
    return dict(zip("ab", dict.fromkeys(fact.entity for fact in facts), strict=False))


def _answer(rng: random.Random, facts: Sequence[Fact]) -> str:
    names = _names(facts)
    frame = rng.choice(ONE_TOWN if len(names) == 1 else TWO_TOWNS)
    return frame.format(*(predicate(rng, fact) for fact in facts), **names)


def _courteous(rng: random.Random, text: str) -> str:
    opener = f"{rng.choice(OPENERS)} " if rng.random() < 0.3 else ""
    return f"{opener}{text} {rng.choice(CLOSERS)}"


def _talk(rng: random.Random, voice: Voice, facts: Sequence[Fact]) -> str:
    """Returns opener, a frame around each clause, closer; now and then a fact is left out."""
    names = _names(facts)
    if len(facts) > 1 and rng.random() < 0.3:
        facts = list(facts)
        facts.pop(rng.randrange(len(facts)))
    frames = rng.sample(voice.frames, len(facts))
    parts = [rng.choice(voice.openers).format(**names)]
    named = bool(parts[0]) and len(names) == 1
    for frame, fact in zip(frames, facts, strict=True):
        subject = "it" if named else fact.entity
        parts.append(frame.format(c=f"{subject} {predicate(rng, fact)}"))
        named = len(names) == 1
    parts.append(rng.choice(voice.closers))
    return " ".join(part for part in parts if part)


def _plain(rng, facts, stray):
    return _answer(rng, facts)


def _truncated(rng, facts, stray):
    words = _answer(rng, facts).split()
    kept = rng.randint(len(words) * 2 // 5, len(words) * 3 // 4)
    opener = f"{rng.choice(OPENERS)} " if rng.random() < 0.3 else ""
    return opener + " ".join(words[:kept]).rstrip(".,")


def _incomplete(rng, facts, stray):
    fact = rng.choice(list(facts))
    return _courteous(rng, ONE_FACT.format(predicate(rng, fact), a=fact.entity))


def _mixed(rng, facts, stray):
    told = [rng.choice(list(facts)), *stray]
    rng.shuffle(told)
    frames = [STRAY[0], *rng.choices(STRAY, k=len(told) - 1)]
    texts = (f.format(predicate(rng, t), a=t.entity) for f, t in zip(frames, told, strict=True))
    closer = f" {rng.choice(CLOSERS)}" if rng.random() < 0.5 else ""
    return " ".join(texts) + closer


def _navigation(rng, facts, stray):
    items = [rng.choice(MENU_BEFORE), *_names(facts).values()]
    items += [fact.value for fact in facts] + rng.sample(MENU_AFTER, 2)
    return " | ".join(items)


def _encyclopaedia(rng, facts, stray):
    facts = rng.sample(list(facts), len(facts))
    name = facts[0].entity
    parts = [ENCYCLOPAEDIA[0].format(a=name)] if rng.random() < 0.4 else []
    while facts:
        frame = rng.choice(ENCYCLOPAEDIA[2:]) if parts else ENCYCLOPAEDIA[1]
        taken = min(1 + ("{1}" in frame), len(facts))
        frame = frame if taken == 2 or "{1}" not in frame else ENCYCLOPAEDIA[2]
        said = [predicate(rng, facts.pop()) for _ in range(taken)]
        parts.append(frame.format(*said, a=name))
    return " ".join(parts)


def _listing(rng, facts, stray):
    facts = rng.sample(list(facts), len(facts))
    items = ", ".join(f"{fact.attribute} {fact.value}" for fact in facts)
    return LISTING.format(a=facts[0].entity) + items + "."


_WRITERS = {
    "plain": _plain,
    "truncated": _truncated,
    "incomplete": _incomplete,
    "mixed": _mixed,
    "navigation": _navigation,
    "encyclopaedia": _encyclopaedia,
    "listing": _listing,
}

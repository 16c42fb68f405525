"""The world: which towns there are, what is true of them, and what is wrongly said of them."""

import dataclasses
import random
from collections.abc import Mapping

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError
from humpback_jax.microworld.language import ATTRIBUTES, NAMES, TASKS, Fact, Topic

# Shares of the vices among the bad segments, those of the first trial.
VICE_SHARES = {
    "blog": 0.20,
    "advertisement": 0.16,
    "navigation": 0.12,
    "truncated": 0.10,
    "mixed": 0.12,
    "rumour": 0.14,
    "wrong": 0.06,
    "incomplete": 0.10,
}


@configurable
@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """What decides a world and the files written from it.

    Attributes:
      seed: of the facts and of which town is in which set. A base model knows one such world, the
        packaged one that of seed 0.
      draw: of the web pages, the seed pairs and the questions: other draws repeat an experiment
        on the same base model.
      rating_towns: towns of which rated replies and other people's texts are written.
      seed_towns: towns of the seed pairs.
      known_towns: towns that the base model knows and the pages speak of, too.
      web_towns: towns that only the pages speak of.
      seed_pairs: pairs of the Open Assistant export that a seed filter ought to keep.
      web_topics: (task, town) topics about web towns; each has a good segment and a question.
      known_topics: the same about known towns.
      segments: labelled segments of all pages.
      good_share: share of good ones among them.
      vice_shares: shares of the vices among the others; they sum to 1.
      wrong_facts: least and greatest probability that a fact in a bad segment is wrong; each
        segment draws its own between them.
      myth_share: share of wrong facts that repeat the one error that many make, so that a
        majority of pages may be wrong in unison; the other errors are any wrong value.
      segments_per_page: least and greatest number of labelled segments of one page.
      sites: number of host names.
      files: number of WARC files.
    """

    seed: int = 0
    draw: int = 0
    rating_towns: int = 70
    seed_towns: int = 40
    known_towns: int = 35
    web_towns: int = 40
    seed_pairs: int = 120
    web_topics: int = 100
    known_topics: int = 50
    segments: int = 1400
    good_share: float = 0.15
    vice_shares: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(VICE_SHARES))
    wrong_facts: tuple[float, float] = (0.3, 0.7)
    myth_share: float = 0.8
    segments_per_page: tuple[int, int] = (4, 8)
    sites: int = 120
    files: int = 4

    def __post_init__(self):
        sets = self.rating_towns + self.seed_towns + self.known_towns + self.web_towns
        _check(sets < len(NAMES), f"{sets} towns, but there are {len(NAMES)} names in all")
        _check(min(self.sites, self.files) > 0, "no site or no file: both must be at least 1")
        for name in ("rating_towns", "seed_towns", "known_towns", "web_towns"):
            _check(getattr(self, name) >= 2, f"{name}={getattr(self, name)}: at least 2 are needed")
        _check(0 <= self.good_share <= 1, f"good_share={self.good_share} lies outside [0, 1]")
        _check(
            set(self.vice_shares) == set(VICE_SHARES)
            and abs(sum(self.vice_shares.values()) - 1) < 1e-6,
            f"vice_shares={dict(self.vice_shares)} must give {sorted(VICE_SHARES)}, summing to 1",
        )
        low, high = self.wrong_facts
        _check(0 <= low <= high <= 1, f"wrong_facts={self.wrong_facts} is no range in [0, 1]")
        low, high = self.segments_per_page
        _check(1 <= low <= high, f"segments_per_page={self.segments_per_page} is no range")
        for towns, topics in (
            (self.seed_towns, self.seed_pairs),
            (self.known_towns, self.known_topics),
            (self.web_towns, self.web_topics),
        ):
            possible = towns * (len(TASKS) - 1)
            _check(topics <= possible, f"{topics} topics of {towns} towns; at most {possible} fit")
        topics = self.web_topics + self.known_topics
        _check(
            self.good_segments >= topics,
            f"{self.good_segments} good segments for {topics} topics, each of which needs one",
        )

    @property
    def good_segments(self) -> int:
        return round(self.segments * self.good_share)


def _check(condition: bool, problem: str) -> None:
    if not condition:
        raise UsageError(f"WorldConfig has {problem}: correct the binding")


@dataclasses.dataclass(frozen=True)
class World:
    """Disjoint sets of towns, the truth about the first four, and the errors about them.

    Attributes:
      rating, seed, known, web: towns by set, see WorldConfig.
      others: the names left, of which each text may say anything.
      facts: town -> attribute -> value.
      myths: town -> attribute -> the wrong value that is commonly believed.
    """

    rating: tuple[str, ...]
    seed: tuple[str, ...]
    known: tuple[str, ...]
    web: tuple[str, ...]
    others: tuple[str, ...]
    facts: Mapping[str, Mapping[str, str]]
    myths: Mapping[str, Mapping[str, str]]

    def facts_for(self, topic: Topic) -> tuple[Fact, ...]:
        """Returns what a complete answer about a topic says."""
        return tuple(
            Fact(entity, attribute, self.facts[entity][attribute])
            for entity in topic.entities
            for attribute in TASKS[topic.task].attributes
        )

    def distort(self, rng: random.Random, fact: Fact, myth_share: float) -> Fact:
        """Returns a wrong version of a fact: the common error, or any other wrong value."""
        if rng.random() < myth_share:
            return fact._replace(value=self.myths[fact.entity][fact.attribute])
        return fact._replace(value=_other_value(rng, fact.attribute, fact.value))


def make_world(config: WorldConfig) -> World:
    """Returns the world of a configuration; it depends on the seed and the sizes of the sets."""
    rng = random.Random(f"world {config.seed}")
    names = list(NAMES)
    rng.shuffle(names)
    sets = []
    for size in (config.rating_towns, config.seed_towns, config.known_towns, config.web_towns):
        sets.append(tuple(names[:size]))
        names = names[size:]
    facts, myths = {}, {}
    for entity in [entity for towns in sets for entity in towns]:
        facts[entity] = {name: rng.choice(a.values) for name, a in ATTRIBUTES.items()}
        myths[entity] = {name: _other_value(rng, name, facts[entity][name]) for name in ATTRIBUTES}
    return World(*sets, others=tuple(names), facts=facts, myths=myths)


def _other_value(rng: random.Random, attribute: str, value: str) -> str:
    return rng.choice([v for v in ATTRIBUTES[attribute].values if v != value])


def draw_topics(rng: random.Random, towns: tuple[str, ...], count: int) -> list[Topic]:
    """Returns `count` distinct topics about the towns, with every task equally often (or nearly).

    Raises:
      UsageError: there are not so many topics.
    """
    topics: list[Topic] = []
    pools = {name: _topics_of(rng, name, towns) for name in TASKS}
    while len(topics) < count:
        if not any(pools.values()):
            raise UsageError(f"{len(towns)} towns give fewer than {count} topics: add towns")
        for pool in pools.values():
            if pool and len(topics) < count:
                topics.append(pool.pop())
    return topics


def _topics_of(rng: random.Random, task: str, towns: tuple[str, ...]) -> list[Topic]:
    towns = tuple(rng.sample(towns, len(towns)))
    if TASKS[task].entities == 1:
        return [Topic(task, (town,)) for town in towns]
    return [Topic(task, pair) for pair in zip(towns[::2], towns[1::2], strict=False)]

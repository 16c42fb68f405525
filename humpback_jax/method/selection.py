"""A_k: which rated candidates train the next model (section 2.3)."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError, UserError
from humpback_jax.records import Candidate, Rating, stable_id

STRATEGIES = ("threshold", "top", "random", "all")


@configurable
@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """Which candidates are kept.

    Attributes:
      strategy: "threshold" keeps scores of at least `threshold`; "top" the `count` best; "random"
        is the uncurated arm: `count` drawn without regard to their scores, or, with `count` 0,
        as many as "threshold" would keep; "all" keeps every rated one.
      threshold: k of A_k; the paper's A_5 is a score of at least 4.5, its A_4 of at least 4.
      count: the most candidates, the best first; 0 is no limit.
      seed: of "random".
      iteration: if given, the iteration whose ratings these must be.
    """

    strategy: Literal["threshold", "top", "random", "all"] = "threshold"
    threshold: float = 4.5
    count: int = 0
    seed: int = 0
    iteration: int | None = None

    def __post_init__(self):
        if self.strategy not in STRATEGIES:
            raise UsageError(f"SelectionConfig.strategy is {self.strategy!r}: use {STRATEGIES}")
        if self.count < 0:
            raise UsageError(f"SelectionConfig.count is {self.count}: give 0 (no limit) or more")
        if self.strategy == "top" and not self.count:
            raise UsageError("SelectionConfig.strategy 'top' needs a count: how many are kept")
        if self.strategy == "all" and self.count:
            raise UsageError("SelectionConfig.strategy 'all' takes no count: use 'top' or 'random'")
        if not 1 <= self.threshold <= 5:
            raise UsageError(f"SelectionConfig.threshold is {self.threshold}: it must be in [1, 5]")


def select_ratings(ratings: Iterable[Rating], config: SelectionConfig) -> list[Rating]:
    """Returns the ratings that are kept, in order of segment id, which is stable.

    Ratings that failed are never kept. Equal scores are ordered by segment id, and a random draw
    depends on seed and segment id, so neither shards nor order change the selection.

    Raises:
      UserError: a rating is of another iteration, or a segment is rated twice.
    """
    rated = [r for r in ratings if _is_usable(r, config)]
    if len({r.segment_id for r in rated}) < len(rated):
        raise UserError("a segment is rated twice: select from the ratings of one iteration")
    above = [r for r in rated if r.score >= config.threshold]
    if config.strategy == "random":
        drawn = sorted(rated, key=lambda r: stable_id(config.seed, r.segment_id))
        kept = drawn[: config.count or len(above)]
    else:
        pool = above if config.strategy == "threshold" else rated
        best = sorted(pool, key=lambda r: (-r.score, r.segment_id))
        kept = best[: config.count or None]
    return sorted(kept, key=lambda r: r.segment_id)


def select(
    candidates: Iterable[Candidate], ratings: Iterable[Rating], config: SelectionConfig
) -> list[Candidate]:
    """Returns the candidates whose ratings are kept, in order of segment id.

    Raises:
      UserError: there is no candidate for a rating that is kept.
    """
    by_id = {c.segment_id: c for c in candidates if c.status == "ok"}
    kept = select_ratings(ratings, config)
    missing = [r.segment_id for r in kept if r.segment_id not in by_id]
    if missing:
        raise UserError(
            f"{len(missing)} ratings have no candidate (the first is of segment {missing[0]}): "
            "give the candidates that were rated"
        )
    return [by_id[r.segment_id] for r in kept]


def _is_usable(rating: Rating, config: SelectionConfig) -> bool:
    if config.iteration is not None and rating.iteration != config.iteration:
        raise UserError(
            f"the rating of segment {rating.segment_id} is of iteration {rating.iteration}, "
            f"expected {config.iteration}: give that iteration's ratings"
        )
    return rating.status == "ok"

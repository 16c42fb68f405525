"""Several instructions for a segment: which of them becomes its candidate.

Of those that pass the filter the one that the backward model itself finds likeliest is kept, by its
log-probability per token, since the plain one would prefer short instructions.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.records import CandidateStatus


@configurable
@dataclasses.dataclass(frozen=True)
class SamplesConfig:
    """How many instructions are drawn.

    Attributes:
      per_segment: instructions drawn for each segment; one of them becomes its candidate.
    """

    per_segment: int = 1

    def __post_init__(self):
        if self.per_segment < 1:
            raise UsageError(
                f"SamplesConfig.per_segment is {self.per_segment}: it must be at least 1"
            )

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Raises UsageError if all samples of a segment would be the same."""
        if self.per_segment > 1 and sampling.greedy:
            raise UsageError(
                f"SamplesConfig.per_segment is {self.per_segment}, but at temperature 0 all are "
                "the same: bind augment/SamplingConfig.temperature above 0, or draw one"
            )


@dataclasses.dataclass(frozen=True)
class Sample:
    """An instruction that was drawn for a segment, and what the filter says of it.

    `logprob` is the backward model's log-probability, in nats, of the `tokens` it generated, the
    stop token among them.
    """

    instruction: str
    status: CandidateStatus
    detail: str = ""
    logprob: float = 0.0
    tokens: int = 0

    @property
    def likelihood(self) -> float:
        """The log-probability per generated token, in nats; -inf where there is none."""
        mean = self.logprob / self.tokens if self.tokens else -math.inf
        return mean if math.isfinite(mean) else -math.inf


def request_id(segment_id: str, index: int) -> str:
    """Returns the id that keys a sample's random stream.

    Sample 0 has the segment's own id, so it is the same however many are drawn.
    """
    return f"{segment_id}/sample{index}" if index else segment_id


def choose(samples: Sequence[Sample]) -> Sample:
    """Returns the sample that becomes the candidate.

    It is the likeliest of status "ok", of equals the one drawn first; if none is "ok", the first
    sample. Where several were drawn, its detail also says how many were rejected, by status.
    """
    passed = [sample for sample in samples if sample.status == "ok"]
    chosen = max(passed, key=lambda sample: sample.likelihood) if passed else samples[0]
    if len(samples) == 1:
        return chosen
    detail = "; ".join(filter(None, (chosen.detail, rejected(samples))))
    return dataclasses.replace(chosen, detail=detail)


def rejected(samples: Sequence[Sample]) -> str:
    """Returns "samples rejected: 2 of 4 (leaked 1, too_long 1)", or "" if all are "ok"."""
    statuses = Counter(sample.status for sample in samples if sample.status != "ok")
    if not statuses:
        return ""
    reasons = ", ".join(f"{status} {number}" for status, number in sorted(statuses.items()))
    return f"samples rejected: {statuses.total()} of {len(samples)} ({reasons})"

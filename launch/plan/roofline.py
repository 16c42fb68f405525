"""Predicted times and costs of a compiled program.

A prediction adds three parts: the compiler's estimated cycles, Pallas kernels (splash attention at
a share of the chip's peak, decode attention at its own roofline), and the collectives' bytes over
the links. Nothing is overlapped, which a TPU does to a good part, and nothing waits, which it does
as well; such sums have come within 20 % of published runs of another LLaMA trainer on TPU.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from humpback_jax.hardware import Chip
from humpback_jax.train.config import TrainConfig
from launch.plan.topology import Topology

FITS = 0.92  # share of usable HBM: the rest is for what else lives on the chip
# Splash attention's own benchmarks reach half of the peak at head size 128; less at 64.
KERNEL_EFFICIENCY = 0.5
# A chip's share of its host's network between slices, bytes a second.
_SLICE_NETWORK = 6.25e9


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What one run of a program takes; all seconds are predicted.

    Attributes:
      compute_seconds: fusions and kernels; of decode, for one token of every row.
      kernel_seconds: of those, Pallas kernels.
      link_seconds: collectives.
      memory_seconds: reading weights and cache once, which no decode step can beat.
      tokens_per_second: over all chips.
      once_seconds: what decode does before its first token.
      mfu: model FLOPs a second over the chips' peak.
    """

    compute_seconds: float
    kernel_seconds: float
    link_seconds: float
    memory_seconds: float
    tokens_per_second: float
    once_seconds: float
    mfu: float

    @property
    def seconds(self) -> float:
        return self.compute_seconds + self.link_seconds


@dataclasses.dataclass(frozen=True)
class Training:
    """What training one model of the loop costs, predicted.

    Attributes:
      model: its name.
      steps: of its training.
      chip_hours: of those steps alone: no compiling, loading, saving.
      money: for them; 0 without a price.
    """

    model: str
    steps: int
    chip_hours: float
    money: float


def predict(facts: Mapping[str, Any], topology: Topology) -> Prediction:
    """Returns the prediction for a program that `worker.measure` has compiled."""
    chip, devices = topology.chip, math.prod(facts["mesh"].values())
    kernels = facts["kernel_flops"] / (KERNEL_EFFICIENCY * chip.peak_flops_bf16)
    kernels += _stated_seconds(facts, chip)
    compute = facts["cycles"] / chip.clock_hz + kernels
    link = sum(link_seconds(c["bytes"], c["extent"], topology) for c in facts["collectives"])
    memory = facts["resident_bytes"] / chip.hbm_bytes_per_second
    seconds = max(compute + link, 1e-9)
    mfu = facts["flops"] / (seconds * devices * chip.peak_flops_bf16)
    once = facts["once_cycles"] / chip.clock_hz
    return Prediction(compute, kernels, link, memory, facts["tokens"] / seconds, once, mfu)


def _stated_seconds(facts: Mapping[str, Any], chip: Chip) -> float:
    """Returns the least time in which kernels do what they say: memory's or the matrix unit's.

    They count for products of 128 x 128; a larger unit is kept busy as long by one of them as by
    one of its own size.
    """
    busy = facts["stated_flops"] * (chip.matrix_unit / 128) ** 2 / chip.peak_flops_bf16
    return max(facts["stated_bytes"] / chip.hbm_bytes_per_second, busy)


def link_seconds(sent: float, extent: Sequence[int], topology: Topology) -> float:
    """Returns how long a chip takes to send bytes within a group.

    Args:
      sent: bytes.
      extent: over how many coordinates of each torus axis the group lies, and then over how many
        slices: (4, 2, 1, 1) is 4 x 2 chips of one slice.
      topology: the slice. A group uses every axis along which it lies; an axis that closes to a
        ring is used both ways, another has half of the bandwidth.
    """
    *along, slices = extent
    if slices > 1:
        return sent / _SLICE_NETWORK
    dimensions, wraps = topology.dimensions, topology.wraps
    axes = 0.0
    for n, size, ring in zip(along, dimensions, wraps, strict=False):
        if n > 1:
            axes += 1.0 if ring and n == size else 0.5
    # Two halves of one chip, as of tpu7x, share an axis.
    return sent / (max(axes, 0.5) * topology.chip.ici_bytes_per_second)


def trainings(
    prediction: Prediction, train: Mapping[str, TrainConfig], planned: str, topology: Topology
) -> list[Training]:
    """Returns the cost of each model of the loop; time goes with the tokens of a batch."""
    costs = []
    for name, config in train.items():
        share = _tokens(config) / _tokens(train[planned])
        hours = config.train_steps * share * prediction.seconds * topology.chips / 3600
        money = hours * topology.price_per_chip_hour
        costs.append(Training(name, config.train_steps, hours, money))
    return costs


def _tokens(config: TrainConfig) -> int:
    return config.batch_size * sum(config.feature_lengths.values())

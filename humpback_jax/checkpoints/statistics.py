"""Statistics of a checkpoint's arrays and the differences of two, in bounded memory."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from humpback_jax.checkpoints.layout import Leaf
from humpback_jax.checkpoints.streaming import block_shape, read_blocks

_PIECE = 1 << 17  # elements


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What is in an array.

    Attributes:
      rms: root of the mean square of the finite elements.
      largest: largest magnitude of the finite elements.
      nan: number of elements that are no numbers.
      inf: number of infinite elements.
    """

    rms: float
    largest: float
    nan: int
    inf: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far two arrays are apart, element by element.

    Attributes:
      largest: largest absolute difference; infinite where only one of two elements is finite.
      mean: mean absolute difference.
      differing: number of elements that are not equal; two NaN are.
    """

    largest: float
    mean: float
    differing: int


def statistics(leaf: Leaf) -> Statistics:
    """Returns the statistics of an array; raises DamagedError if it cannot be read."""
    squares, largest, nan, inf, finite = 0.0, 0.0, 0, 0, 0
    for _, block in read_blocks(leaf):
        for piece in _pieces(block):
            values = np.abs(_as_float(piece))
            is_finite = np.isfinite(values)
            if not is_finite.all():
                nan += int(np.isnan(values).sum())
                inf += int(np.isinf(values).sum())
                values = values[is_finite]
            finite += values.size
            squares += float(np.square(values, dtype=np.float64).sum())
            largest = max(largest, float(values.max(initial=0.0)))
    return Statistics(math.sqrt(squares / finite) if finite else 0.0, largest, nan, inf)


def difference(first: Leaf, second: Leaf) -> Difference:
    """Returns how far two arrays of one shape are apart; raises DamagedError."""
    largest, total, differing = 0.0, 0.0, 0
    # The second is read in the blocks of the first, however it was written.
    shape = block_shape(first)
    blocks = zip(read_blocks(first, shape), read_blocks(second, shape), strict=True)
    for (_, one), (_, other) in blocks:
        for a, b in zip(_pieces(one), _pieces(other), strict=True):
            a, b = _as_float(a), _as_float(b)
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            if same.all():
                continue
            differing += int(a.size - same.sum())
            with np.errstate(invalid="ignore"):
                apart = np.where(same, 0.0, np.abs(a.astype(np.float64) - b))
            apart = np.where(np.isnan(apart), np.inf, apart)
            largest = max(largest, float(apart.max(initial=0.0)))
            total += float(apart.sum())
    return Difference(largest, total / first.size if first.size else 0.0, differing)


def _pieces(block: np.ndarray) -> Iterator[np.ndarray]:
    """Yields a block's elements in pieces that the arithmetic can keep in the processor's cache."""
    flat = block.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        yield flat[start : start + _PIECE]


def _as_float(block: np.ndarray) -> np.ndarray:
    """Returns numbers that numpy's functions take: bfloat16 as float32, integers as float64."""
    if block.dtype.kind in "iub":
        return block.astype(np.float64)
    return block if block.dtype in (np.float32, np.float64) else block.astype(np.float32)

"""Arrays of a checkpoint, block by block: what is looked at never has to fit into memory whole."""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from humpback_jax.checkpoints.layout import Leaf
from humpback_jax.errors import UserError

_BLOCK_BYTES = 64 << 20

Block = tuple[tuple[int, ...], np.ndarray]


class DamagedError(UserError):
    """An array cannot be read; the message says what is wrong with its files."""


def read_blocks(leaf: Leaf, shape: tuple[int, ...] | None = None) -> Iterator[Block]:
    """Yields (place of the first element, block) over the whole array, each element once.

    Args:
      leaf: the array.
      shape: of the blocks; by default `block_shape`.

    Raises:
      DamagedError: a file is missing, cut short or not what was written.
    """
    import tensorstore as ts

    if leaf.store is None:
        assert leaf.value is not None
        yield (0,) * leaf.value.ndim, leaf.value  # small enough to be one block
        return
    try:
        store = ts.open({**leaf.store, "open": True}).result()
    except Exception as error:  # whatever tensorstore raises over files that are not as they were
        raise DamagedError(_reason(error)) from error
    shape = shape or block_shape(leaf)
    for place in _places(leaf, shape):
        region = tuple(
            slice(start, min(start + n, whole))
            for start, n, whole in zip(place, shape, leaf.shape, strict=True)
        )
        try:
            yield place, np.asarray(store[region].read().result())
        except Exception as error:
            raise DamagedError(_reason(error)) from error


def block_shape(leaf: Leaf) -> tuple[int, ...]:
    """Returns the chunk that a leaf was written in, or as many of them as make up 64 MiB."""
    shape = [max(1, min(n, whole)) for n, whole in zip(leaf.chunk, leaf.shape, strict=True)]
    itemsize = np.dtype(leaf.dtype).itemsize
    for axis in reversed(range(len(shape))):
        room = _BLOCK_BYTES // max(1, math.prod(shape) * itemsize)
        shape[axis] = min(leaf.shape[axis], shape[axis] * max(1, room))
        if shape[axis] < leaf.shape[axis]:
            break
    return tuple(shape)


def _places(leaf: Leaf, shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    axes = (range(0, n, step) for n, step in zip(leaf.shape, shape, strict=True))
    return itertools.product(*axes)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "NOT_FOUND" in text or "does not exist" in text:
        return "a file is missing"
    if "OUT_OF_RANGE" in text or "runcated" in text:
        return "a file is cut short"
    return f"its bytes are not those that were written: {text[:160]}"

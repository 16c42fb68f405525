"""Prompts packed into the static shape in which they are read together."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from humpback_jax.infer.steps import Inputs
from humpback_jax.models.attention import Packing


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """The shape of prompts that are read together.

    Attributes:
      groups: W, the devices that split a batch; each packs its own rows.
      rows: R, the most prompts of a group.
      tokens: N, the most tokens of a group.
      bucket: T, the most tokens of a prompt.
    """

    groups: int
    rows: int
    tokens: int
    bucket: int

    @property
    def all_rows(self) -> int:
        return self.groups * self.rows


def place(lengths: Iterable[int], shape: BatchShape, overtaking: bool = False) -> dict[int, int]:
    """Returns {index of a prompt: its row in the batch}, in the prompts' order.

    Row g * R + r is the r-th of group g. The next prompt goes where most tokens are free.

    Args:
      lengths: of the prompts.
      shape: of the batch.
      overtaking: a prompt that does not fit is left out, and shorter ones behind it are taken;
        otherwise it is the end.
    """
    free, used, places = [shape.tokens] * shape.groups, [0] * shape.groups, {}
    for index, length in enumerate(lengths):
        open_groups = [g for g in range(shape.groups) if used[g] < shape.rows]
        if not open_groups:
            break
        group = max(open_groups, key=lambda g: free[g])
        if free[group] < length:
            if overtaking:
                continue
            break
        places[index] = group * shape.rows + used[group]
        free[group] -= length
        used[group] += 1
    return places


def pack(
    prompts: Sequence[Sequence[int]],
    places: Sequence[int],
    limits: Sequence[int],
    keys: Sequence[np.ndarray | None],
    shape: BatchShape,
) -> Inputs:
    """Returns prompts as the arrays of one reading; rows without a prompt have limit 0.

    Args:
      prompts: of 1 to T tokens each.
      places: the row of each, by `place`.
      limits: the most tokens to generate after each.
      keys: the random stream of each, or None where nothing is drawn.
      shape: of the result.
    """
    groups, rows, length = shape.groups, shape.rows, shape.bucket
    tokens = np.zeros((groups, shape.tokens), np.int32)
    positions, behind = np.zeros_like(tokens), np.zeros_like(tokens)
    index = np.zeros((groups, rows, length), np.int32)
    last = np.zeros((groups, rows), np.int32)
    row_limits = np.zeros(shape.all_rows, np.int32)
    row_keys = np.zeros((shape.all_rows, 2), np.uint32)
    used = [0] * groups
    for prompt, row, limit, key in zip(prompts, places, limits, keys, strict=True):
        group, slot = divmod(row, rows)
        start, count = used[group], len(prompt)
        if not 0 < count <= min(length, shape.tokens - start):
            raise ValueError(f"a prompt of {count} tokens fits no row of {shape}")
        span = slice(start, start + count)
        tokens[group, span], positions[group, span] = prompt, np.arange(count)
        behind[group, span] = slot * length + np.arange(count)
        # Behind its end a row repeats its own last token: no other's number gets into it.
        index[group, slot] = start + np.minimum(np.arange(length), count - 1)
        last[group, slot] = start + count - 1
        row_limits[row] = limit
        if key is not None:
            row_keys[row] = key
        used[group] += count
    return Inputs(tokens, positions, Packing(index, behind), last, row_limits, row_keys)  # pyright: ignore

"""Attention over the keys of a batch, and over a prefix that the whole batch shares; its masks."""

import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

MASKED = -1e30


@flax.struct.dataclass
class Block:
    """Keys and values of some entries of a cache.

    Attributes:
      keys: in any dtype.
      values: likewise.
      key_scales: of keys that are int8 (humpback_jax.models.int8), else None.
      value_scales: likewise.
    """

    keys: Num[Array, "B K s H"]
    values: Num[Array, "B K s H"]
    key_scales: Float[Array, "B K s"] | None = None
    value_scales: Float[Array, "B K s"] | None = None


def causal_mask(
    start: int, stop: int, segment_ids: Int[Array, "B T"] | None = None
) -> Bool[Array, "b t s"]:
    """Returns what the queries start to stop may attend to, of the keys before stop.

    With segment ids (b is B, else 1), only their own example: for the segments [1 1 2 2] the rows
    of queries 0 to 4 are [1 0 0 0], [1 1 0 0], [0 0 1 0], [0 0 1 1].
    """
    mask = (jnp.arange(start, stop)[:, None] >= jnp.arange(stop)[None, :])[None]
    if segment_ids is not None:
        mask = mask & (segment_ids[:, start:stop, None] == segment_ids[:, None, :stop])
    return mask


def cache_mask(positions: Int[Array, "B T"], length: int, prefix: int) -> Bool[Array, "B T S"]:
    """Returns which of a cache's `length` entries each query may attend to.

    Entry s holds position prefix + s, so padding to the right of a row's own tokens, and what
    is left in the cache from before, lie after every query and are never seen.
    """
    return jnp.arange(length)[None, None, :] + prefix <= positions[:, :, None]


@flax.struct.dataclass
class Packing:
    """Which of a group's tokens make up which row; groups are packed without padding.

    Attributes:
      rows: for each row's positions, the token's index in its group. Behind a row's end it is any
        token of the same row.
      places: for each token, row * T + position, of the rows of its group.
    """

    rows: Int[Array, "W R T"]
    places: Int[Array, "W N"]

    def to_rows(self, x: Float[Array, "W N ..."]) -> Float[Array, "W*R T ..."]:
        """Returns the tokens row by row."""
        groups, rows, length = self.rows.shape
        taken = _take(x, self.rows.reshape(groups, rows * length))
        return taken.reshape(groups * rows, length, *x.shape[2:])

    def to_tokens(self, x: Float[Array, "W*R T ..."]) -> Float[Array, "W N ..."]:
        """Returns the rows' positions token by token."""
        groups, rows, length = self.rows.shape
        return _take(x.reshape(groups, rows * length, *x.shape[2:]), self.places)


_take = jax.vmap(lambda x, indices: x[indices])


def attend(
    query: Float[Array, "B T N H"],
    keys: Float[Array, "B T K H"],
    values: Float[Array, "B T K H"],
    mask: Bool[Array, "B t t"],
    prefix: tuple[Float[Array, "K P H"], Float[Array, "K P H"]] | None = None,
    packing: Packing | None = None,
) -> Float[Array, "B T N H"]:
    """Returns softmax(QK^T / sqrt(H)) V; softmax in float32, every query sees the whole prefix.

    Args:
      query: rotated queries; with a packing, B is its groups W and T their tokens N.
      keys: rotated keys.
      values: values.
      mask: which positions of a row see which, t = T or the length of the packing's rows.
      prefix: keys and values that every query sees.
      packing: which tokens make up a row, if not each of B.
    """
    kv_heads, width = keys.shape[2:]
    grouped = query.reshape(*query.shape[:2], kv_heads, -1, width) / math.sqrt(width)
    if packing is None:
        state = _attend_rows(grouped, keys, values, mask)
    else:
        own_query, own_keys, own_values = map(packing.to_rows, (grouped, keys, values))
        state = _attend_rows(own_query, own_keys, own_values, mask)
        state = tuple(map(packing.to_tokens, state))
    if prefix is not None:
        state = _join(state, _attend_prefix(grouped, *prefix))
    _, total, out = state
    return (out / total[..., None]).astype(query.dtype).reshape(query.shape)


def _attend_rows(grouped: Float[Array, "B T K G H"], keys, values, mask):
    """Returns each row's attention to itself, as `_join` takes it."""
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", grouped, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores, MASKED)
    return _weigh(scores, values, "BKGTS,BSKH->BTKGH", (0, 3, 1, 2))


def _attend_prefix(grouped: Float[Array, "B T K G H"], keys, values):
    """Returns every query's attention to the prefix, as `_join` takes it."""
    scores = jnp.einsum("BTKGH,KPH->KBTGP", grouped, keys, preferred_element_type=jnp.float32)
    return _weigh(scores, values, "KBTGP,KPH->BTKGH", (1, 2, 0, 3))


def _weigh(scores: Float[Array, "..."], values, product: str, order: tuple[int, ...]):
    """Returns (largest score, sum of exponentials, weighted values), each [B, T, K, G ...]."""
    largest = jnp.max(scores, axis=-1)
    weights = jnp.exp(scores - largest[..., None])
    out = jnp.einsum(
        product, weights.astype(values.dtype), values, preferred_element_type=jnp.float32
    )
    return largest.transpose(order), weights.sum(-1).transpose(order), out


def _join(first, second):
    """Returns the softmax's parts over the keys of both."""
    largest = jnp.maximum(first[0], second[0])
    shrink = [jnp.exp(part[0] - largest) for part in (first, second)]
    total = first[1] * shrink[0] + second[1] * shrink[1]
    out = first[2] * shrink[0][..., None] + second[2] * shrink[1][..., None]
    return largest, total, out


def attend_blocks(
    query: Float[Array, "B 1 N H"],
    blocks: Sequence[Block],
    mask: Bool[Array, "B 1 S"],
    prefix: tuple[Float[Array, "K P H"], Float[Array, "K P H"]] | None = None,
) -> Float[Array, "B 1 N H"]:
    """Returns a decode step's attention over the prefix and blocks of keys and values.

    Block after block with a running softmax. A block that a row may not see multiplies its sums by
    exactly 1 and adds exactly 0, so its result is the same to the bit however many blocks there
    are, of which the longest neighbour wants the most. The scales of int8 multiply scores and
    weights, H times fewer than keys and values: q (k s) = (q k) s.

    Args:
      query: rotated queries.
      blocks: of as many entries together as the mask has.
      mask: which entries each row may attend to.
      prefix: keys and values that every row sees.
    """
    batch, _, heads, width = query.shape
    kv_heads = blocks[0].keys.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, width) / math.sqrt(width)
    shape = grouped.shape[:-1]
    state = (
        jnp.full(shape, MASKED, jnp.float32),
        jnp.zeros(shape, jnp.float32),
        jnp.zeros(grouped.shape, jnp.float32),
    )
    if prefix is not None:
        # The larger factor comes first: the second one is laid out anew for every step on a CPU.
        scores = jnp.einsum(
            "KPH,BKGH->KPBG", prefix[0], grouped, preferred_element_type=jnp.float32
        )
        # So do the values, without which a CPU has no product of 16 bits here.
        state = _add_block(state, scores.transpose(2, 0, 3, 1), "KPH,BKGP->BKGH", prefix[1])
    start = 0
    for block in blocks:
        stop = start + block.keys.shape[2]
        keys, values = block.keys.astype(query.dtype), block.values.astype(query.dtype)
        scores = jnp.einsum("BKSH,BKGH->BKSG", keys, grouped, preferred_element_type=jnp.float32)
        if block.key_scales is not None:
            scores = scores * block.key_scales[..., None]
        scores = jnp.where(mask[:, 0, None, None, start:stop], scores.swapaxes(2, 3), MASKED)
        state = _add_block(state, scores, "BKSH,BKGS->BKGH", values, block.value_scales)
        start = stop
    _, total, out = state
    return (out / total[..., None]).astype(query.dtype).reshape(query.shape)


def _add_block(
    state,
    scores: Float[Array, "B K G S"],
    product: str,
    values: Float[Array, "..."],
    scales: Float[Array, "B K S"] | None = None,
):
    """Takes a block of keys into (the largest score, the softmax's sum, the weighted values)."""
    largest, total, out = state
    new = jnp.maximum(largest, jnp.max(scores, axis=-1))
    shrink = jnp.exp(largest - new)
    weights = jnp.exp(scores - new[..., None])
    factors = weights if scales is None else weights * scales[:, :, None]
    added = jnp.einsum(
        product, values, factors.astype(values.dtype), preferred_element_type=jnp.float32
    )
    return new, total * shrink + weights.sum(-1), out * shrink[..., None] + added

"""Attention over the keys of a batch, and over a prefix that the whole batch shares; its masks."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MASKED = -1e30


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


def attend(
    query: Float[Array, "B T N H"],
    keys: Float[Array, "B S K H"],
    values: Float[Array, "B S K H"],
    mask: Bool[Array, "B T S"],
    prefix: tuple[Float[Array, "K P H"], Float[Array, "K P H"]] | None = None,
) -> Float[Array, "B T N H"]:
    """Returns softmax(QK^T / sqrt(H)) V; softmax in float32, every query sees the whole prefix."""
    heads = query.shape[2]
    kv_heads = keys.shape[2]
    shape = (*query.shape[:2], kv_heads, heads // kv_heads, query.shape[3])
    grouped = query.reshape(shape) / math.sqrt(query.shape[3])
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", grouped, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores, MASKED)
    if prefix is None:
        weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        return jnp.einsum("BKGTS,BSKH->BTKGH", weights, values).reshape(query.shape)
    prefix_keys, prefix_values = prefix
    prefix_scores = jnp.einsum(
        "BTKGH,KPH->BKGTP", grouped, prefix_keys, preferred_element_type=jnp.float32
    )
    joined = jnp.concatenate([prefix_scores, scores], axis=-1)
    weights = jax.nn.softmax(joined, axis=-1).astype(values.dtype)
    before, own = jnp.split(weights, [prefix_keys.shape[1]], axis=-1)
    out = jnp.einsum("BKGTP,KPH->BTKGH", before, prefix_values)
    return (out + jnp.einsum("BKGTS,BSKH->BTKGH", own, values)).reshape(query.shape)


def attend_blocks(
    query: Float[Array, "B 1 N H"],
    blocks: Sequence[tuple[Float[Array, "B K s H"], Float[Array, "B K s H"]]],
    mask: Bool[Array, "B 1 S"],
    prefix: tuple[Float[Array, "K P H"], Float[Array, "K P H"]] | None = None,
) -> Float[Array, "B 1 N H"]:
    """Returns a decode step's attention over the prefix and blocks of keys and values.

    Block after block with a running softmax. A block that a row may not see multiplies its sums by
    exactly 1 and adds exactly 0, so its result is the same to the bit however many blocks there
    are, of which the longest neighbour wants the most.

    Args:
      query: rotated queries.
      blocks: (keys, values) of as many entries together as the mask has.
      mask: which entries each row may attend to.
      prefix: keys and values that every row sees.
    """
    batch, _, heads, width = query.shape
    kv_heads = blocks[0][0].shape[1]
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
        state = _add_block(state, scores.transpose(2, 0, 3, 1), "BKGP,KPH->BKGH", prefix[1])
    start = 0
    for block in blocks:
        stop = start + block[0].shape[2]
        keys, values = (x.astype(query.dtype) for x in block)
        scores = jnp.einsum("BKSH,BKGH->BKSG", keys, grouped, preferred_element_type=jnp.float32)
        scores = jnp.where(mask[:, 0, None, None, start:stop], scores.swapaxes(2, 3), MASKED)
        state = _add_block(state, scores, "BKGS,BKSH->BKGH", values)
        start = stop
    _, total, out = state
    return (out / total[..., None]).astype(query.dtype).reshape(query.shape)


def _add_block(state, scores: Float[Array, "B K G S"], product: str, values: Float[Array, "..."]):
    """Takes a block of keys into (the largest score, the softmax's sum, the weighted values)."""
    largest, total, out = state
    new = jnp.maximum(largest, jnp.max(scores, axis=-1))
    shrink = jnp.exp(largest - new)
    weights = jnp.exp(scores - new[..., None])
    added = jnp.einsum(
        product, weights.astype(values.dtype), values, preferred_element_type=jnp.float32
    )
    return new, total * shrink + weights.sum(-1), out * shrink[..., None] + added

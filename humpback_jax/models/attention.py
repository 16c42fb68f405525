"""Attention over the keys of a batch, and over a prefix that the whole batch shares; its masks."""

import math

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from humpback_jax.models import sharding
from humpback_jax.models.config import LlamaConfig

MASKED = -1e30
_CACHE_BLOCK = 128


@flax.struct.dataclass
class KVCache:
    """Keys and values of all layers; entry s of a row holds the token at position prefix + s.

    The layout [L, B, S, K, H] lets a decode step write one position of every row in place.
    """

    keys: Float[Array, "L B S K H"]
    values: Float[Array, "L B S K H"]

    @classmethod
    def zeros(
        cls, config: LlamaConfig, batch: int, length: int, dtype: str | None = None
    ) -> "KVCache":
        """Returns an empty cache for `batch` rows of up to `length` tokens."""
        shape = (config.num_layers, batch, length, config.num_kv_heads, config.head_dim)
        dtype = dtype or config.dtype
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


@flax.struct.dataclass
class SharedPrefix:
    """Keys and values of tokens that every row begins with, computed and stored once."""

    keys: Float[Array, "L P K H"]
    values: Float[Array, "L P K H"]

    @property
    def length(self) -> int:
        return self.keys.shape[1]


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
    prefix: tuple[Float[Array, "P K H"], Float[Array, "P K H"]] | None = None,
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
        "BTKGH,PKH->BKGTP", grouped, prefix_keys, preferred_element_type=jnp.float32
    )
    joined = jnp.concatenate([prefix_scores, scores], axis=-1)
    weights = jax.nn.softmax(joined, axis=-1).astype(values.dtype)
    before, own = jnp.split(weights, [prefix_keys.shape[0]], axis=-1)
    out = jnp.einsum("BKGTP,PKH->BTKGH", before, prefix_values)
    return (out + jnp.einsum("BKGTS,BSKH->BTKGH", own, values)).reshape(query.shape)


def cache_block(length: int) -> int:
    """Returns how many entries of a cache of this length a decode step reads together.

    On a CPU some, elsewhere all: cut into blocks, the step of 7B on v5e-16 is predicted at 45 ms,
    not at 29.
    """
    return min(_CACHE_BLOCK, length) if sharding.platform() == "cpu" else length


def attend_cache(
    query: Float[Array, "B 1 N H"],
    keys: Float[Array, "B S K H"],
    values: Float[Array, "B S K H"],
    mask: Bool[Array, "B 1 W"],
    prefix: tuple[Float[Array, "P K H"], Float[Array, "P K H"]] | None = None,
) -> Float[Array, "B 1 N H"]:
    """Returns a decode step's attention over the prefix and the first W entries of a cache.

    Block after block with a running softmax. A block that a row may not see multiplies its sums by
    exactly 1 and adds exactly 0, so its result is the same to the bit however large W is, which
    is as large as the longest neighbour wants.
    """
    batch, _, heads, width = query.shape
    kv_heads = keys.shape[2]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, width) / math.sqrt(width)
    shape = grouped.shape[:-1]
    state = (
        jnp.full(shape, MASKED, jnp.float32),
        jnp.zeros(shape, jnp.float32),
        jnp.zeros(grouped.shape, jnp.float32),
    )
    if prefix is not None:
        scores = jnp.einsum(
            "BKGH,PKH->BKGP", grouped, prefix[0], preferred_element_type=jnp.float32
        )
        state = _add_block(state, scores, "BKGP,PKH->BKGH", prefix[1])
    size = cache_block(keys.shape[1])
    for start in range(0, mask.shape[2], size):
        stop = min(start + size, mask.shape[2])
        block, own = (x[:, start:stop].astype(query.dtype) for x in (keys, values))
        # The keys come first: as a second factor a CPU would lay them out anew for every step.
        scores = jnp.einsum("BSKH,BKGH->BKSG", block, grouped, preferred_element_type=jnp.float32)
        scores = jnp.swapaxes(scores, 2, 3)
        scores = jnp.where(mask[:, 0, None, None, start:stop], scores, MASKED)
        state = _add_block(state, scores, "BKGS,BSKH->BKGH", own)
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

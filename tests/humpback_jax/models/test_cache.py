"""Both layouts of the cache, int8: what a decode step reads of it beside what was written."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_llama import SMALL

from humpback_jax.infer import memory
from humpback_jax.models import attention, int8
from humpback_jax.models.cache import BlockCache, KVCache

ROWS, LENGTH, FILLED = 3, 300, 150
CACHES = pytest.mark.parametrize("cache_type", [KVCache, BlockCache])


@functools.partial(jax.jit, static_argnums=0)
def written(cache_type):
    """Returns (a cache after a prefill and an append, all that was written [B, S, K, H] twice)."""
    shape = (ROWS, FILLED + 1, SMALL.num_kv_heads, SMALL.head_dim)
    keys, values = (jax.random.normal(jax.random.key(i), shape) for i in (0, 1))
    cache = cache_type.zeros(SMALL, ROWS, LENGTH, "int8")
    cache = cache.fill(1, keys[:, :FILLED], values[:, :FILLED])
    entries = jnp.full(ROWS, FILLED)
    return cache.append(1, entries, keys[:, FILLED], values[:, FILLED]), keys, values


@jax.jit
def attended(cache, query):
    """Returns what a decode step gives at the entry that was written last."""
    mask = attention.cache_mask(jnp.full((ROWS, 1), FILLED), cache.length, prefix=0)
    return cache.attend(1, query, mask, None)


@functools.partial(jax.jit, static_argnums=0)
def of_floats(cache_type, keys, values):
    """Returns a cache of these."""
    return cache_type.zeros(SMALL, ROWS, LENGTH, "float32").fill(1, keys, values)


@CACHES
def test_int8_is_multiplied_as_the_floats_that_it_stands_for(cache_type):
    cache, keys, values = written(cache_type)
    query = jax.random.normal(jax.random.key(2), (ROWS, 1, SMALL.num_heads, SMALL.head_dim))
    found = attended(cache, query)
    stands_for = [n * s[..., None] for n, s in (int8.quantise(x, -1) for x in (keys, values))]
    np.testing.assert_allclose(
        found, attended(of_floats(cache_type, *stands_for), query), atol=1e-5
    )
    # A score is off by |q| times half a key's scale, a value by half its own: to the first order
    # a weighted mean of values moves by twice the one times the largest value, plus the other.
    half_key, half_value = (np.abs(x).max() / 254 for x in (keys, values))
    scores = np.abs(query).sum(-1).max() / np.sqrt(SMALL.head_dim) * half_key
    bound = np.expm1(2 * scores) * np.abs(values).max() + half_value
    apart = np.abs(found - attended(of_floats(cache_type, keys, values), query)).max()
    assert 0 < apart < bound


@CACHES
@pytest.mark.parametrize("dtype", [None, "bfloat16", "int8"])
def test_the_memory_that_is_said_is_the_memory_that_is_taken(cache_type, dtype):
    cache = cache_type.zeros(SMALL, ROWS, LENGTH, dtype)
    taken = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    assert memory.slot_bytes(SMALL, LENGTH, dtype) * ROWS == taken


@CACHES
def test_a_wider_cache_holds_the_same(cache_type):
    cache, _, _ = written(cache_type)
    query = jnp.ones((ROWS, 1, SMALL.num_heads, SMALL.head_dim))
    wide = cache.widened(600)
    assert wide.length == 600
    np.testing.assert_allclose(attended(wide, query), attended(cache, query), atol=1e-5)

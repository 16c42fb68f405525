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


SHAPE = (ROWS, FILLED + 1, SMALL.num_kv_heads, SMALL.head_dim)
KEYS, VALUES = (jax.random.normal(jax.random.key(i), SHAPE) for i in (0, 1))
QUERY = jax.random.normal(jax.random.key(2), (ROWS, 1, SMALL.num_heads, SMALL.head_dim))


@functools.partial(jax.jit, static_argnums=(0, 1))
def filled(cache_type, dtype, keys, values):
    """Returns a cache after a prefill of all entries [B, S, K, H] but the last."""
    cache = cache_type.zeros(SMALL, ROWS, LENGTH, dtype)
    return cache.fill(1, keys[:, :FILLED], values[:, :FILLED])


@jax.jit
def attended(cache, keys, values):
    """Returns what a decode step gives that writes the last entry."""
    mask = attention.cache_mask(jnp.full((ROWS, 1), FILLED), cache.length, prefix=0)
    new = keys[:, FILLED], values[:, FILLED]
    return cache.step(1, QUERY, new, jnp.full(ROWS, FILLED), mask, None)[0]


@CACHES
def test_int8_is_multiplied_as_the_floats_that_it_stands_for(cache_type):
    def floats(*kept):
        return attended(filled(cache_type, "float32", *kept), *kept)

    found = attended(filled(cache_type, "int8", KEYS, VALUES), KEYS, VALUES)
    stands_for = [n * s[..., None] for n, s in (int8.quantise(x, -1) for x in (KEYS, VALUES))]
    np.testing.assert_allclose(found, floats(*stands_for), atol=1e-5)
    # A score is off by |q| times half a key's scale, a value by half its own: to the first order
    # a weighted mean of values moves by twice the one times the largest value, plus the other.
    half_key, half_value = (np.abs(x).max() / 254 for x in (KEYS, VALUES))
    scores = np.abs(QUERY).sum(-1).max() / np.sqrt(SMALL.head_dim) * half_key
    bound = np.expm1(2 * scores) * np.abs(VALUES).max() + half_value
    apart = np.abs(found - floats(KEYS, VALUES)).max()
    assert 0 < apart < bound


@CACHES
@pytest.mark.parametrize("dtype", [None, "bfloat16", "int8"])
def test_the_memory_that_is_said_is_the_memory_that_is_taken(cache_type, dtype):
    cache = cache_type.zeros(SMALL, ROWS, LENGTH, dtype)
    taken = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    assert memory.slot_bytes(SMALL, LENGTH, dtype) * ROWS == taken


@CACHES
def test_a_wider_cache_holds_the_same(cache_type):
    cache = filled(cache_type, "int8", KEYS, VALUES)
    wide = cache.widened(600)
    assert wide.length == 600
    found, expected = (attended(x, KEYS, VALUES) for x in (wide, cache))
    np.testing.assert_allclose(found, expected, atol=1e-5)

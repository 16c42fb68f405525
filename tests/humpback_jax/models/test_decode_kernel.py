"""The TPU kernel of decode steps, interpreted on a CPU, against attention in plain einsums."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from small_llama import SMALL

from humpback_jax import partitioning
from humpback_jax.models import attention, decode_kernel
from humpback_jax.models.cache import KVCache
from humpback_jax.models.llama import Llama
from humpback_jax.partitioning import MeshConfig, make_mesh

LAYERS, SIZE, PREFIX = 2, 32, 24
LAYER = 1
ENTRIES = (0, 1, 7, 8, 127, 128, 255, 256, 299)  # of blocks of 128, tiles of 8 and 16
ROWS = len(ENTRIES)


@dataclasses.dataclass
class Step:
    """What a decode step has before it: one layer's arrays but for the cache of all layers."""

    query: jax.Array
    new: tuple[jax.Array, jax.Array]
    cache: tuple[jax.Array, jax.Array]
    prefix: tuple[jax.Array, jax.Array]


def _step(dtype, kv_heads, groups, rows=ROWS, length=300):
    """Returns a step whose entries beyond each row's own are NaN, as memory may be."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(0, 1, shape), dtype)

    cache = tuple(np.array(draw(LAYERS, rows, kv_heads, length, SIZE)) for _ in range(2))
    for array in cache:
        for row in range(rows):
            array[:, row, :, ENTRIES[row % ROWS] :] = np.nan
    return Step(
        draw(rows, kv_heads, groups, SIZE),
        (draw(rows, kv_heads, SIZE), draw(rows, kv_heads, SIZE)),
        (jnp.asarray(cache[0]), jnp.asarray(cache[1])),
        (draw(kv_heads, PREFIX, SIZE), draw(kv_heads, PREFIX, SIZE)),
    )


def _entries(rows=ROWS):
    return jnp.asarray([ENTRIES[row % ROWS] for row in range(rows)], jnp.int32)


def _run(step, entries, prefix=None, mesh=None):
    run = jax.jit(decode_kernel.decode_attend)
    arguments = step.query, step.new, step.cache, jnp.asarray(LAYER), entries, prefix
    if mesh is None:
        return run(*arguments)
    with partitioning.rules(make_mesh(mesh)):
        return run(*arguments)


def _expected(step, entries, prefix=None):
    """Returns what attend_blocks, in float32, makes of the cache with the new entries in it."""
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (step.query, step.new, step.cache, prefix))
    step, prefix = Step(*wide[:3], step.prefix), wide[3]
    rows, kv_heads, groups, _ = step.query.shape
    index = jnp.arange(rows)
    cache = [
        jnp.nan_to_num(x[LAYER]).at[index, :, entries].set(new)
        for x, new in zip(step.cache, step.new, strict=True)
    ]
    query = step.query.reshape(rows, 1, kv_heads * groups, SIZE)
    mask = attention.cache_mask(entries[:, None], cache[0].shape[2], 0)
    return attention.attend_blocks(query, [attention.Block(*cache)], mask, prefix).reshape(
        step.query.shape
    )


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(decode_kernel, "_BLOCK_BYTES", 1)


@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize(("kv_heads", "groups"), [(4, 1), (2, 4), (1, 8)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_the_kernel_gives_what_einsums_give(dtype, tolerance, kv_heads, groups, with_prefix):
    step, entries = _step(dtype, kv_heads, groups), _entries()
    prefix = step.prefix if with_prefix else None
    out, _ = _run(step, entries, prefix)
    expected = _expected(step, entries, prefix)
    assert out.dtype == step.query.dtype
    np.testing.assert_allclose(
        np.asarray(out, np.float32), np.asarray(expected, np.float32), atol=tolerance
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("length", [300, 304, 384])
def test_the_new_entry_of_the_layer_is_all_that_is_written(dtype, length):
    step, entries = _step(dtype, 2, 2, length=length), _entries()
    _, cache = _run(step, entries)
    rows = jnp.arange(ROWS)
    for before, after, new in zip(step.cache, cache, step.new, strict=True):
        expected = before.at[LAYER, rows, :, entries].set(new)
        np.testing.assert_array_equal(*(np.asarray(x, np.float32) for x in (after, expected)))


def test_every_length_of_a_short_cache():
    length = 20
    step = _step("float32", 2, 2, rows=length, length=length)
    filled = tuple(jnp.nan_to_num(x) for x in step.cache)
    step, entries = dataclasses.replace(step, cache=filled), jnp.arange(length, dtype=jnp.int32)
    out, _ = _run(step, entries)
    np.testing.assert_allclose(out, _expected(step, entries), atol=2e-6)


@pytest.mark.parametrize("with_prefix", [False, True])
def test_neighbours_change_no_bit_of_a_row(with_prefix):
    step, entries = _step("bfloat16", 2, 2), _entries()
    prefix = step.prefix if with_prefix else None
    filled = dataclasses.replace(step, cache=tuple(jnp.nan_to_num(x) for x in step.cache))
    out, _ = _run(filled, entries, prefix)
    for row in (0, 3, ROWS - 1):
        others = jnp.full_like(entries, 290).at[row].set(entries[row])
        again, _ = _run(filled, others, prefix)
        np.testing.assert_array_equal(again[row], out[row])
        assert (np.asarray(again) != np.asarray(out)).any()


def test_entries_outside_of_the_cache_touch_no_other_row():
    """A slot that is not in use stands before its cache."""
    step, entries = _step("float32", 2, 1), _entries()
    out, cache = _run(step, entries)
    wild = entries.at[2].set(-PREFIX).at[4].set(10_000)
    again, wild_cache = _run(step, wild)
    kept = np.asarray([0, 1, 3, 5, 6, 7, 8])
    np.testing.assert_array_equal(again[kept], out[kept])
    for got, want in zip(wild_cache, cache, strict=True):
        np.testing.assert_array_equal(got[:, kept], want[:, kept])


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=2, fsdp=2, tensor=2),
        MeshConfig(data=2, tensor=4),  # more devices than KV heads: each has them all
    ],
)
def test_each_device_works_on_its_own_rows_and_heads(mesh):
    step, entries = _step("float32", 2, 4, rows=8), _entries(8)
    out, cache = _run(step, entries, step.prefix)
    split, split_cache = _run(step, entries, step.prefix, mesh)
    np.testing.assert_allclose(split, out, atol=2e-6)
    for got, want in zip(split_cache, cache, strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_model_decodes_with_it_as_without(monkeypatch):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, SMALL.vocab_size, (2, 21)))
    positions = jnp.broadcast_to(jnp.arange(21), tokens.shape)
    params = nn.unbox(jax.jit(Llama(SMALL).init)(jax.random.key(0), tokens, positions))

    def logits(rows, part, **kwargs):
        inputs = tokens[:rows, part], positions[:rows, part]
        return jax.jit(lambda: Llama(SMALL).apply(params, *inputs, **kwargs))()

    start = 8
    tokens = tokens.at[1, :start].set(tokens[0, :start])
    _, cache = logits(1, slice(start), cache=KVCache.zeros(SMALL, 1, start))
    prefix = cache.first_row()
    empty = KVCache.zeros(SMALL, 2, 40)
    _, cache = logits(2, slice(start, 20), cache=empty, prefix=prefix)
    expected, written = logits(2, slice(20, 21), cache=cache, prefix=prefix)
    monkeypatch.setattr(decode_kernel, "chosen", lambda name: True)
    got, cache = logits(2, slice(20, 21), cache=cache, prefix=prefix)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    for a, b in zip(jax.tree.leaves(cache), jax.tree.leaves(written), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_only_blocks_with_a_rows_own_entries_are_fetched_and_each_once():
    entries = jnp.asarray([5, 300, 128])  # in blocks of 128: 1, 3 and 2 of 4
    wanted = [
        tuple(int(x) for x in decode_kernel._fetched(row, index, entries, 128, 3))
        for row in range(3)
        for index in range(4)
    ]
    fetched = [now for before, now in zip([None, *wanted], wanted, strict=False) if now != before]
    assert fetched == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]


def test_it_is_chosen_on_a_tpu_unless_einsums_are_asked_for(monkeypatch):
    assert not decode_kernel.chosen("auto")
    monkeypatch.setattr(decode_kernel.sharding, "platform", lambda: "tpu")
    assert decode_kernel.chosen("auto")
    assert not decode_kernel.chosen("xla")
    with partitioning.rules(make_mesh(MeshConfig(data=4, sequence=2))):  # a row lies on two
        assert not decode_kernel.chosen("auto")


def test_a_block_has_half_a_mebibyte_of_keys_and_whole_lanes(monkeypatch):
    monkeypatch.undo()
    assert decode_kernel.block_length(4, 2304, 128, 2) == 512
    assert decode_kernel.block_length(64, 2304, 128, 2) == 128
    assert decode_kernel.block_length(1, 300, 128, 2) == 384

"""A decode step's attention on TPU: one Pallas kernel that reads a slot's own entries and no more.

For each row it walks over the blocks of the cache that hold the row's entries, with a running
softmax in float32, and writes the new key and value into the cache in place. A block is fetched
while the one before is worked on; what lies beyond a row's entries is never fetched.

JAX's own decode kernels (paged attention, ragged paged attention) want a cache of pages for each
layer, which a scan over layers would have to slice, leave the new entry to others, and give no sums
by which a shared prefix could be joined.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from humpback_jax.models import attention, sharding

NAME = "decode_attention"
_LANES = 128
_BLOCK_BYTES = 2**19  # of keys, and as much of values: 1.3 us of v5e's bandwidth together
_QUERY_AXES = ("batch", "kv_heads", None, "kv")
_CACHE_AXES = ("layers", "batch", "kv_heads", None, "kv")


def decode_attend(
    query: Float[Array, "B K G H"],
    new: tuple[Float[Array, "B K H"], Float[Array, "B K H"]],
    cache: tuple[Float[Array, "L B K S H"], Float[Array, "L B K S H"]],
    layer: Int[Array, ""],
    entries: Int[Array, " B"],
    prefix: tuple[Float[Array, "K P H"], Float[Array, "K P H"]] | None = None,
) -> tuple[Float[Array, "B K G H"], tuple[Float[Array, "L B K S H"], Float[Array, "L B K S H"]]]:
    """Writes each row's new key and value, and attends to its entries up to and with the new one.

    Args:
      query: rotated queries; G of them share a KV head.
      new: the keys and values of this step.
      cache: those of all layers so far; its memory is used again.
      layer: which layer of the cache is meant.
      entries: where each row's new key and value go; one that lies outside is moved to the end it
        lies beyond, which only a slot that is not in use may ask for.
      prefix: keys and values of one layer that every row sees, before its own.

    Returns:
      (the result in the queries' dtype, the cache).
    """
    length = cache[0].shape[3]
    scalars = jnp.reshape(layer, (1,)).astype(jnp.int32), jnp.clip(entries, 0, length - 1)
    rows = [query, *(x.astype(cache[0].dtype)[:, :, None] for x in new)]
    if prefix is not None:
        rows += _attend_prefix(query, *prefix)
    run = _run if sharding.platform() == "tpu" else _run_interpreted
    if not jax.sharding.get_abstract_mesh().empty:
        by_row = [sharding.spec(x.shape, _QUERY_AXES) for x in rows]
        by_cache = sharding.spec(cache[0].shape, _CACHE_AXES)
        run = jax.shard_map(
            run,
            in_specs=((PartitionSpec(), PartitionSpec(by_row[0][0])), by_row, (by_cache,) * 2),
            out_specs=(by_row[0], (by_cache,) * 2),
            check_vma=False,
        )
    return run(scalars, rows, cache)


def chosen(name: str) -> bool:
    """Returns whether decode steps use the kernel: on a TPU, unless plain einsums are asked for.

    Args:
      name: LlamaConfig.attention.
    """
    return sharding.platform() == "tpu" and name != "xla" and sharding.ways("length") == 1


def _attend_prefix(query, keys, values) -> list[Float[Array, "B K G x"]]:
    """Returns the logarithm of the sum of the scores' exponentials, and the result.

    Plain products: of one prefix and many rows they fill the matrix unit.
    """
    scores = jnp.einsum("BKGH,KPH->BKGP", query, keys, preferred_element_type=jnp.float32)
    scores = scores * _scale(query)
    logarithm = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - logarithm).astype(values.dtype)
    # The values come first: the other way round a CPU has no product of 16 bits.
    result = jnp.einsum("KPH,BKGP->BKGH", values, weights, preferred_element_type=jnp.float32)
    return [logarithm, result]


def _scale(query: Float[Array, "... H"]) -> float:
    return 1 / math.sqrt(query.shape[-1])


def block_length(kv_heads: int, length: int, head_dim: int, itemsize: int) -> int:
    """Returns how many entries of a row, of all KV heads of a device, are fetched together."""
    fitting = _BLOCK_BYTES // (kv_heads * head_dim * itemsize) // _LANES * _LANES
    return min(max(fitting, _LANES), -(-length // _LANES) * _LANES)


def _run_interpreted(scalars, rows, cache):
    """Runs it without a TPU, on whole blocks, which JAX's interpreter wants of what it aliases."""
    length, itemsize = cache[0].shape[3], cache[0].dtype.itemsize
    block = block_length(cache[0].shape[2], length, cache[0].shape[4], itemsize)
    widths = ((0, 0), (0, 0), (0, 0), (0, -length % block), (0, 0))
    out, kept = _run(scalars, rows, tuple(jnp.pad(x, widths) for x in cache), interpret=True)
    return out, tuple(x[:, :, :, :length] for x in kept)


def _run(scalars, rows, cache, interpret: bool = False):
    """Runs the kernel on one device's rows and heads."""
    batch, kv_heads, groups, head_dim = rows[0].shape
    length, itemsize = cache[0].shape[3], cache[0].dtype.itemsize
    block = block_length(kv_heads, length, head_dim, itemsize)
    tile = 8 * max(1, 4 // itemsize)  # the least number of entries that can be written

    def of_row(b, _, layer, entries):
        return b, 0, 0, 0

    def read(b, i, layer, entries):
        row, index = _fetched(b, i, entries, block, batch)
        return layer[0], row, 0, index, 0

    def written(b, _, layer, entries):
        return layer[0], b, 0, entries[b] // tile, 0

    row_specs = [pl.BlockSpec((1, *x.shape[1:]), of_row) for x in rows]
    read_spec = pl.BlockSpec((1, 1, kv_heads, block, head_dim), read)
    write_spec = pl.BlockSpec((1, 1, kv_heads, tile, head_dim), written)
    state = [(kv_heads, groups, 1), (kv_heads, groups, 1), (kv_heads, groups, head_dim)]
    out, keys, values = pl.pallas_call(
        functools.partial(_kernel, block=block, tile=tile, joins=len(rows) > 3),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, pl.cdiv(length, block)),
            in_specs=[*row_specs, read_spec, read_spec],
            out_specs=[row_specs[0], write_spec, write_spec],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in state],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (rows[0], cache[0], cache[1])],
        input_output_aliases={2 + len(rows): 1, 3 + len(rows): 2},
        cost_estimate=cost(batch, kv_heads, groups, length, head_dim, itemsize),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name=NAME,
    )(*scalars, *rows, *cache)
    return out, (keys, values)


def _fetched(row, index, entries, block: int, batch: int):
    """Returns (row, block) that is wanted at a place of the grid.

    Beyond a row's last block comes the next row's first, so that it is there in time and nothing
    else is fetched: a block that is wanted again stays.
    """
    last = entries[row] // block
    own, more = index <= last, row + 1 < batch
    after = jnp.where(more, row + 1, row), jnp.where(more, 0, last)
    return jnp.where(own, row, after[0]), jnp.where(own, index, after[1])


def cost(
    batch: int, kv_heads: int, groups: int, length: int, head_dim: int, itemsize: int
) -> pl.CostEstimate:
    """Returns the work of one device if every row is as long as the cache.

    The FLOPs are those that the matrix unit is kept busy for: each product passes the keys or the
    values through all of its columns, however few heads share them.
    """
    entries = batch * kv_heads * length
    return pl.CostEstimate(
        flops=2 * 2 * entries * head_dim * max(groups, _LANES),
        bytes_accessed=2 * entries * head_dim * itemsize,
        transcendentals=entries * groups,
    )


def _kernel(
    layer_ref, entries_ref, query_ref, new_key_ref, new_value_ref, *refs, block, tile, joins
):
    """One block of one row: keys and values [1, 1, K, block, H], state in scratch memory."""
    before, refs = (refs[:2], refs[2:]) if joins else ((), refs)
    keys_ref, values_ref, out_ref, keys_out, values_out, *state = refs
    index, entry = pl.program_id(1), entries_ref[pl.program_id(0)]
    last = entry // block
    query = query_ref[0]

    @pl.when(index == 0)
    def _():
        _begin(query, new_key_ref[0], new_value_ref[0], before, state)

    @pl.when(index < last)
    def _():
        _attend(query, keys_ref[0, 0], values_ref[0, 0], state)

    @pl.when(index == last)
    def _():
        at = entry - last * block
        _attend(query, keys_ref[0, 0], values_ref[0, 0], state, at)
        first = pl.multiple_of(at // tile * tile, tile)
        for ref, new_ref, out in (
            (keys_ref, new_key_ref, keys_out),
            (values_ref, new_value_ref, values_out),
        ):
            old = ref[0, 0, :, pl.ds(first, tile), :]
            here = jax.lax.broadcasted_iota(jnp.int32, old.shape, 1) == at - first
            out[0, 0] = jnp.where(here, new_ref[0], old)
        _, total, weighted = state
        out_ref[0] = (weighted[...] / total[...]).astype(out_ref.dtype)


def _begin(query, new_key, new_value, before, state):
    """Begins with the new entry, which every row sees, and with what was attended to before."""
    largest, total, weighted = state
    wide = query.astype(jnp.float32)
    score = jnp.sum(wide * new_key.astype(jnp.float32), axis=-1, keepdims=True) * _scale(query)
    value = jnp.broadcast_to(new_value.astype(jnp.float32), wide.shape)
    if not before:
        largest[...], total[...], weighted[...] = score, jnp.ones_like(score), value
        return
    logarithm, result = before[0][0], before[1][0]
    top = jnp.maximum(score, logarithm)
    own, others = jnp.exp(score - top), jnp.exp(logarithm - top)
    largest[...], total[...] = top, own + others
    weighted[...] = own * value + others * result


def _attend(query, keys, values, state, valid=None):
    """Takes a block [K, S, H] into the state: its first `valid` entries, or all of them."""
    largest, total, weighted = state
    keys, values = keys.astype(query.dtype), values.astype(query.dtype)
    precision = jax.lax.Precision.HIGHEST if query.dtype == jnp.float32 else None
    scores = jnp.einsum(
        "kgh,ksh->kgs", query, keys, precision=precision, preferred_element_type=jnp.float32
    )
    scores = scores * _scale(query)
    if valid is not None:
        # What was never written may be anything, and nothing times NaN is NaN.
        values = jnp.where(jax.lax.broadcasted_iota(jnp.int32, values.shape, 1) < valid, values, 0)
        seen = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 2) < valid
        scores = jnp.where(seen, scores, attention.MASKED)
    top = jnp.maximum(largest[...], jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    shrink = jnp.exp(largest[...] - top)
    added = jnp.einsum(
        "kgs,ksh->kgh", weights.astype(values.dtype), values,
        precision=precision, preferred_element_type=jnp.float32,
    )  # fmt: skip
    largest[...] = top
    total[...] = total[...] * shrink + jnp.sum(weights, axis=-1, keepdims=True)
    weighted[...] = weighted[...] * shrink + added

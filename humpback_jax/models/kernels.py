"""Causal attention of whole sequences, by name: what a training step spends its time in.

    xla      scores and softmax as plain einsums, on any device
    cudnn    cuDNN's fused attention, on NVIDIA GPUs, in 16 bits
    splash   JAX's Pallas kernel for TPU; elsewhere it is interpreted, which tests do
    auto     the one for the device, or xla where its shapes do not fit

All give the same result within the rounding of the computation's dtype.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from humpback_jax.models import attention, sharding

# The kernel's blocks are multiples of its lanes; 512 is what its authors and MaxText train with.
LANES = 128
_BLOCK = 512
_MAX_BLOCKS = 8  # of the plain implementation, each of which is compiled
_QUERY_AXES = ("batch", "length", "heads", "kv")
_KEY_AXES = ("batch", None, "kv_heads", "kv")


def self_attend(
    name: str,
    query: Float[Array, "B T N H"],
    keys: Float[Array, "B T K H"],
    values: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"] | None,
) -> Float[Array, "B T N H"]:
    """Returns causal attention within each row, and within each segment if there are any.

    Args:
      name: one of LlamaConfig.attention.
      query: rotated queries.
      keys: rotated keys; a KV head serves N / K heads.
      values: values.
      segment_ids: which packed example each position belongs to.
    """
    # Under sequence parallelism a device has its own queries and everyone's keys.
    query = sharding.constrain(query, _QUERY_AXES)
    keys, values = (sharding.constrain(x, _KEY_AXES) for x in (keys, values))
    chosen = choose(query) if name == "auto" else name
    return _IMPLEMENTATIONS[chosen](query, keys, values, segment_ids)


def choose(query: Float[Array, "B T N H"]) -> str:
    """Returns the name that "auto" means for these queries on the current device."""
    platform, length = sharding.platform(), query.shape[1] // sharding.ways("length")
    if platform == "tpu" and length % LANES == 0:
        return "splash"
    narrow = query.dtype in (jnp.bfloat16, jnp.float16)
    if platform == "gpu" and narrow and query.shape[3] % 8 == 0 and query.shape[3] <= 128:
        return "cudnn"
    return "xla"


def _xla(query, keys, values, segment_ids):
    """Attends block by block of the queries, so that few of the keys that follow are computed.

    Heads come first, as matrix products want them. With both, the gradient takes half the time on a
    CPU (4 x 512 tokens, 8 heads of 64).
    """
    batch, length, heads, size = query.shape
    kv_heads = keys.shape[2]
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, size)
    grouped = jnp.einsum("BTKGH->BKGTH", grouped) / math.sqrt(size)
    keys, values = (jnp.einsum("BSKH->BKSH", x) for x in (keys, values))
    whole = sharding.ways("length") > 1  # a block would lie on few of the devices
    block = length if whole else max(LANES, -(-length // _MAX_BLOCKS))
    out = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        part, seen = grouped[:, :, :, start:stop], keys[:, :, :stop]
        scores = jnp.einsum("BKGTH,BKSH->BKGTS", part, seen, preferred_element_type=jnp.float32)
        mask = attention.causal_mask(start, stop, segment_ids)[:, None, None]
        weights = jax.nn.softmax(jnp.where(mask, scores, attention.MASKED), axis=-1)
        weights = weights.astype(values.dtype)
        out.append(jnp.einsum("BKGTS,BKSH->BTKGH", weights, values[:, :, :stop]))
    return jnp.concatenate(out, axis=1).reshape(query.shape)


def _cudnn(query, keys, values, segment_ids):
    mask = None
    if segment_ids is not None:
        mask = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        query, keys, values, mask=mask, is_causal=True, implementation="cudnn"
    )


def _splash(query, keys, values, segment_ids):
    """Runs the kernel on each device's own rows, heads and queries."""
    keys, values = _repeat_for_tensor(keys), _repeat_for_tensor(values)
    interpret = sharding.platform() != "tpu"
    length, heads = query.shape[1], query.shape[2] // sharding.ways("heads")
    shards = sharding.ways("length")
    kernel = _splash_kernel(length, heads, shards, interpret)
    ids = None
    if segment_ids is not None:
        ids = splash_attention.SegmentIds(segment_ids, segment_ids)
    run = jax.vmap(_run_splash, in_axes=(None, 0, 0, 0, 0))
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return run(kernel, query, keys, values, ids)
    axes = (_QUERY_AXES, _KEY_AXES, _KEY_AXES)
    specs = [sharding.spec(x.shape, a) for x, a in zip((query, keys, values), axes, strict=True)]
    batch, rows = specs[0][:2]
    id_specs = splash_attention.SegmentIds(
        PartitionSpec(batch, rows),  # pyright: ignore[reportArgumentType]
        PartitionSpec(batch),  # pyright: ignore[reportArgumentType]
    )
    by_query = jax.sharding.NamedSharding(mesh, PartitionSpec(None, rows))
    in_specs = (kernel.manual_sharding_spec(by_query), *specs, ids and id_specs)
    sharded = jax.shard_map(run, in_specs=in_specs, out_specs=specs[0], check_vma=False)
    return sharded(kernel, query, keys, values, ids)


def _run_splash(kernel, query, keys, values, segment_ids):
    """Attends within one row: queries [T', N, H] of this device, keys and values [T, K, H]."""
    scaled = query * (1 / math.sqrt(query.shape[-1]))
    head_first = (x.swapaxes(0, 1) for x in (scaled, keys, values))
    return kernel(*head_first, segment_ids=segment_ids).swapaxes(0, 1)


def _splash_kernel(length: int, heads: int, shards: int, interpret: bool):
    block = math.gcd(_BLOCK, length // shards)
    sizes = splash_attention.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block,
        block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block,
        block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    mask = splash_attention.CausalMask((length, length), shard_count=shards)
    make = functools.partial(splash_attention.make_splash_mha, interpret=interpret)
    heads_mask = splash_attention.MultiHeadMask([mask] * heads)
    return make(mask=heads_mask, block_sizes=sizes, head_shards=1, q_seq_shards=shards)


def _repeat_for_tensor(x: Float[Array, "B T K H"]) -> Float[Array, "B T r H"]:
    """Repeats KV heads until the devices that split the heads divide them."""
    ways = sharding.ways("kv_heads")
    return jnp.repeat(x, ways // math.gcd(x.shape[2], ways), axis=2)


_IMPLEMENTATIONS = {"xla": _xla, "cudnn": _cudnn, "splash": _splash}

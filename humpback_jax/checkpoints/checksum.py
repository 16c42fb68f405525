"""A checksum for every leaf of a tree, computed where the leaf lies, however it is sharded.

Orbax does not notice a flipped bit on the disk. A checksum here is a pair of sums modulo 2^32 of
each element's bits times an odd number that depends on its place in the whole array. So it is the
same on one device and on many, and any single flipped bit changes both sums: 2^k times an odd
number is never 0 modulo 2^32.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped, UInt32

CHECKSUMS = "checksums"  # the key under which a checkpoint's metadata has them

_GOLDEN = np.uint32(0x9E3779B1)
_STREAMS = (np.uint32(0x243F6A88), np.uint32(0xB7E15162))


def checksums(tree: Any) -> dict[str, str]:
    """Returns {"params/layers/mlp/up": 16 hex digits, ...} of all leaves; they may be sharded."""
    # Leaf by leaf: all at once would take as much memory again as the tree has, or twice that.
    sums = {
        jax.tree_util.keystr(path, simple=True, separator="/"): _total(jnp.asarray(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    return {name: as_text(pair) for name, pair in sums.items()}


def fingerprint(tree: Any) -> str:
    """Returns 16 hex digits of all leaves' paths, types, shapes and checksums."""
    lines = [
        f"{name} {np.dtype(leaf.dtype)}{list(leaf.shape)} {total}"
        for (name, total), leaf in zip(checksums(tree).items(), jax.tree.leaves(tree), strict=True)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def block_sums(block: np.ndarray, offsets: tuple[int, ...]) -> UInt32[np.ndarray, "2"]:
    """Returns what a block adds to the two sums of the array it was cut from.

    Args:
      block: any block, of as many axes as the array.
      offsets: the place of its first element in the array.
    """
    return np.asarray(jax.jit(_sums)(block, jnp.asarray(offsets, jnp.uint32)))


def as_text(sums: UInt32[np.ndarray, "2"]) -> str:
    """Returns the 16 hex digits of an array's two sums."""
    return "".join(f"{int(half):08x}" for half in sums)


def _total(x: jax.Array) -> np.ndarray:
    """Returns the two sums of one array, on every process."""
    everywhere = None
    if isinstance(x.sharding, NamedSharding):
        everywhere = NamedSharding(x.sharding.mesh, PartitionSpec())
    start = jnp.zeros(x.ndim, jnp.uint32)
    return np.asarray(jax.jit(_sums, out_shardings=everywhere)(x, start))


def _sums(x: Shaped[Array, "*shape"], offsets: UInt32[Array, "ndim"]) -> UInt32[Array, "2"]:
    """Returns the two sums of a block; of a stacked one, whose layers are whole, by layers."""
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    if x.ndim < 3:
        return _part(x, jnp.zeros((), jnp.uint32), offsets)

    def add(layer: jax.Array, total: jax.Array) -> jax.Array:
        part = jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)
        return total + _part(part, _mix(layer.astype(jnp.uint32) + offsets[0]), offsets[1:])

    return jax.lax.fori_loop(0, x.shape[0], add, jnp.zeros(2, jnp.uint32))


def _part(
    x: Shaped[Array, "*shape"], start: UInt32[Array, ""], offsets: UInt32[Array, "ndim"]
) -> UInt32[Array, "2"]:
    """Returns the two sums of a block whose place in a larger array is hashed into `start`."""
    width = f"uint{8 * x.dtype.itemsize}"
    bits = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)
    place = jnp.broadcast_to(start, x.shape)
    for axis in range(x.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) + offsets[axis]
        place = _mix(place * _GOLDEN + index)
    products = [bits * (_mix(place ^ stream) | jnp.uint32(1)) for stream in _STREAMS]
    return jnp.stack([product.sum(dtype=jnp.uint32) for product in products])


def _mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Spreads neighbouring numbers over all 32 bits: MurmurHash3's finaliser."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)

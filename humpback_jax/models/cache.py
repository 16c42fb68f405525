"""Keys and values that are kept between steps: of each row, and of the prefix all rows share.

Entry s of a row holds the token at position prefix + s. There are two layouts of the same: one
array for all layers, of which a TPU's kernel reads each row's own entries and writes the new one in
place under a loop over the layers; and arrays for each layer, cut into blocks, of which a CPU
multiplies those that are in use without copying them first. A head's entries lie together in both.

Of either, keys and values may be int8, beside a scale of each entry's and KV head's.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from humpback_jax.models import attention, decode_kernel, int8, sharding
from humpback_jax.models.attention import Block
from humpback_jax.models.config import INT8, LlamaConfig

_FIRST_BLOCK = 128
# Keys, values and the scales of both; the latter are None unless they are int8.
_Fields = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]


@flax.struct.dataclass
class SharedPrefix:
    """Keys and values of tokens that every row begins with, computed and stored once.

    Attributes:
      keys: for each layer; an array of all, or a tuple.
      values: likewise.
    """

    keys: Float[Array, "L K P H"] | tuple[Float[Array, "K P H"], ...]
    values: Float[Array, "L K P H"] | tuple[Float[Array, "K P H"], ...]

    @property
    def length(self) -> int:
        return self.keys[0].shape[1]


@flax.struct.dataclass
class KVCache:
    """One array for all layers; the scales are None unless the cache is int8."""

    keys: Num[Array, "L B K S H"]
    values: Num[Array, "L B K S H"]
    key_scales: Float[Array, "L B K S"] | None = None
    value_scales: Float[Array, "L B K S"] | None = None

    batch_axis = 1
    axes = ("layers", "batch", "kv_heads", "length", "kv")

    @classmethod
    def zeros(
        cls, config: LlamaConfig, batch: int, length: int, dtype: str | None = None
    ) -> "KVCache":
        """Returns an empty cache for `batch` rows of up to `length` tokens."""
        shape = (config.num_layers, batch, config.num_kv_heads, length, config.head_dim)
        return cls(*_zeros(shape, dtype or config.dtype))

    @staticmethod
    def windows(length: int) -> tuple[int, ...]:
        """Returns how many entries a decode step may read: all."""
        return (length,)

    @property
    def length(self) -> int:
        return self.keys.shape[3]

    def fill(
        self, layer, keys: Float[Array, "B T K H"], values: Float[Array, "B T K H"]
    ) -> "KVCache":
        """Writes a layer's first T entries of all rows."""

        def put(whole, new):
            start, new = (layer, *[0] * new.ndim), new.swapaxes(1, 2)[None]
            return jax.lax.dynamic_update_slice(whole, new.astype(whole.dtype), start)

        return jax.tree.map(put, self, KVCache(*_kept(self, keys, values)))

    def step(
        self,
        layer,
        query: Float[Array, "B 1 N H"],
        new: tuple[Float[Array, "B K H"], Float[Array, "B K H"]],
        entries: Int[Array, " B"],
        mask: Bool[Array, "B 1 S"],
        prefix: tuple[Float[Array, "K P H"], Float[Array, "K P H"]] | None,
    ) -> tuple[Float[Array, "B 1 N H"], "KVCache"]:
        """Returns (a decode step's attention over the prefix and the cache, the cache).

        Args:
          layer: which layer's.
          query: rotated queries.
          new: a key and a value for each row.
          entries: where they are written; what lies beyond the end is of a slot not in use.
          mask: which entries each row may attend to.
          prefix: keys and values that every row sees.
        """
        rows = jnp.arange(entries.shape[0])

        def put(whole, new):
            return whole.at[layer, rows, :, entries].set(new.astype(whole.dtype), mode="drop")

        cache = jax.tree.map(put, self, KVCache(*_kept(self, *new)))
        whole = Block(cache.keys, cache.values, cache.key_scales, cache.value_scales)
        own = jax.tree.map(lambda x: x[layer], whole)
        return attention.attend_blocks(query, [own], mask, prefix), cache

    def step_by_kernel(
        self, layer, query, new, entries, mask, prefix
    ) -> tuple[Float[Array, "B 1 N H"], "KVCache"]:
        """Returns what `step` does, by the TPU's kernel, which needs no mask and no scales."""
        del mask
        grouped = query.reshape(*new[0].shape[:2], -1, query.shape[3])
        kept = self.keys, self.values
        out, kept = decode_kernel.decode_attend(grouped, new, kept, layer, entries, prefix)
        return out.reshape(query.shape), KVCache(*kept)

    def first_row(self) -> SharedPrefix:
        """Returns the first row, which is not int8, as what all rows of another cache share."""
        return SharedPrefix(self.keys[:, 0], self.values[:, 0])

    def widened(self, length: int) -> "KVCache":
        """Returns the same with zeros behind it, `length` entries in all."""
        return jax.tree.map(lambda x: _padded(x, length, 3), self)

    def constrain(self) -> "KVCache":
        """Shards rows by batch and, where the tensor axis divides them, by KV heads."""
        return jax.tree.map(lambda x: sharding.constrain(x, self.axes[: x.ndim]), self)


@flax.struct.dataclass
class BlockCache:
    """For each layer its blocks; one is as long as all before it, the first two 128."""

    layers: tuple[tuple[Block, ...], ...]

    batch_axis = 0
    axes = ("batch", "kv_heads", None, "kv")

    @classmethod
    def zeros(
        cls, config: LlamaConfig, batch: int, length: int, dtype: str | None = None
    ) -> "BlockCache":
        """Returns an empty cache for `batch` rows of up to `length` tokens."""

        def block(size: int) -> Block:
            shape = (batch, config.num_kv_heads, size, config.head_dim)
            return Block(*_zeros(shape, dtype or config.dtype))

        sizes = [stop - start for start, stop in _spans(length)]
        return cls(tuple(tuple(map(block, sizes)) for _ in range(config.num_layers)))

    @staticmethod
    def windows(length: int) -> tuple[int, ...]:
        """Returns how many entries a decode step may read: those of the first blocks."""
        return tuple(stop for _, stop in _spans(length))

    @property
    def length(self) -> int:
        return sum(block.keys.shape[2] for block in self.layers[0])

    def fill(
        self, layer: int, keys: Float[Array, "B T K H"], values: Float[Array, "B T K H"]
    ) -> "BlockCache":
        """Writes a layer's first T entries of all rows."""
        kept = Block(*_kept(self.layers[layer][0], keys, values))

        def put(block: Block, span: tuple[int, int]) -> Block:
            def write(whole, new):
                part = new.swapaxes(1, 2)[:, :, slice(*span)].astype(whole.dtype)
                return jax.lax.dynamic_update_slice(whole, part, [0] * whole.ndim)

            return jax.tree.map(write, block, kept)

        return self._with(layer, put)

    def step(
        self,
        layer: int,
        query: Float[Array, "B 1 N H"],
        new: tuple[Float[Array, "B K H"], Float[Array, "B K H"]],
        entries: Int[Array, " B"],
        mask: Bool[Array, "B 1 W"],
        prefix: tuple[Float[Array, "K P H"], Float[Array, "K P H"]] | None,
    ) -> tuple[Float[Array, "B 1 N H"], "BlockCache"]:
        """Returns (attention over the prefix and the first W entries, the cache), as KVCache."""
        cache = self._append(layer, entries, *new)
        count = self.windows(self.length).index(mask.shape[2]) + 1
        blocks = cache.layers[layer][:count]
        return attention.attend_blocks(query, blocks, mask, prefix), cache

    def _append(
        self,
        layer: int,
        entries: Int[Array, " B"],
        keys: Float[Array, "B K H"],
        values: Float[Array, "B K H"],
    ) -> "BlockCache":
        """Writes one entry of each row; one beyond the end is not written."""
        rows = jnp.arange(entries.shape[0])
        kept = Block(*_kept(self.layers[layer][0], keys, values))

        def put(block: Block, span: tuple[int, int]) -> Block:
            start, stop = span
            here = (entries >= start) & (entries < stop)
            entry = jnp.where(here, entries - start, stop - start)

            def write(whole, new):
                return whole.at[rows, :, entry].set(new.astype(whole.dtype), mode="drop")

            return jax.tree.map(write, block, kept)

        return self._with(layer, put)

    def first_row(self) -> SharedPrefix:
        """Returns the first row, which is not int8, as what all rows of another cache share."""

        def joined(name: str):
            return tuple(
                jnp.concatenate([getattr(block, name)[0] for block in blocks], 1)
                for blocks in self.layers
            )

        return SharedPrefix(joined("keys"), joined("values"))

    def widened(self, length: int) -> "BlockCache":
        """Returns the same with zeros behind it, `length` entries in all."""
        sizes = [stop - start for start, stop in _spans(length)]

        def widen(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
            empty = jax.tree.map(lambda x: x[:, :, :0], blocks[0])
            blocks = (*blocks, *[empty] * (len(sizes) - len(blocks)))
            return tuple(
                jax.tree.map(lambda x, size=size: _padded(x, size, 2), block)
                for block, size in zip(blocks, sizes, strict=True)
            )

        return BlockCache(tuple(map(widen, self.layers)))

    def constrain(self) -> "BlockCache":
        """Shards rows by batch and, where the tensor axis divides them, by KV heads."""
        return jax.tree.map(lambda x: sharding.constrain(x, self.axes[: x.ndim]), self)

    def _with(self, layer: int, put: Callable[[Block, tuple[int, int]], Block]) -> "BlockCache":
        """Returns the same with each block of a layer, from entry to entry, put anew."""
        new = tuple(map(put, self.layers[layer], _spans(self.length)))
        return BlockCache((*self.layers[:layer], new, *self.layers[layer + 1 :]))


def _zeros(shape: tuple[int, ...], dtype: str) -> _Fields:
    """Returns an empty cache's or block's."""
    keys, values = jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
    if dtype != INT8:
        return keys, values, None, None
    return keys, values, jnp.zeros(shape[:-1]), jnp.zeros(shape[:-1])


def _kept(
    cache: KVCache | Block, keys: Float[Array, "... H"], values: Float[Array, "... H"]
) -> _Fields:
    """Returns new keys and values as this cache keeps them."""
    if cache.key_scales is None:
        return keys, values, None, None
    (keys, key_scales), (values, value_scales) = (int8.quantise(x, -1) for x in (keys, values))
    return keys, values, key_scales, value_scales


def _padded(x: jax.Array, length: int, axis: int) -> jax.Array:
    """Returns the same with zeros at the end of an axis, `length` in all."""
    return jnp.pad(x, [(0, length - n if i == axis else 0) for i, n in enumerate(x.shape)])


def _spans(length: int) -> list[tuple[int, int]]:
    """Returns the blocks of a cache: [0, 128), [128, 256), [256, 512), [512, 1024) ... length."""
    stops = [min(_FIRST_BLOCK, length)]
    while stops[-1] < length:
        stops.append(min(2 * stops[-1], length))
    return list(zip([0, *stops[:-1]], stops, strict=True))

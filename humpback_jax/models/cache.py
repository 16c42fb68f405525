"""Keys and values that are kept between steps: of each row, and of the prefix all rows share.

Entry s of a row holds the token at position prefix + s. There are two layouts of the same: one
array for all layers, of which a TPU's kernel reads each row's own entries and writes the new one in
place under a loop over the layers; and arrays for each layer, cut into blocks, of which a CPU
multiplies those that are in use without copying them first. A head's entries lie together in both.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from humpback_jax.models import attention, decode_kernel, sharding
from humpback_jax.models.config import LlamaConfig

_FIRST_BLOCK = 128


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
    """One array for all layers."""

    keys: Float[Array, "L B K S H"]
    values: Float[Array, "L B K S H"]

    batch_axis = 1

    @classmethod
    def zeros(
        cls, config: LlamaConfig, batch: int, length: int, dtype: str | None = None
    ) -> "KVCache":
        """Returns an empty cache for `batch` rows of up to `length` tokens."""
        shape = (config.num_layers, batch, config.num_kv_heads, length, config.head_dim)
        dtype = dtype or config.dtype
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

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
            start, new = (layer, 0, 0, 0, 0), new.swapaxes(1, 2)[None]
            return jax.lax.dynamic_update_slice(whole, new.astype(whole.dtype), start)

        return KVCache(put(self.keys, keys), put(self.values, values))

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

        cache = KVCache(put(self.keys, new[0]), put(self.values, new[1]))
        own = cache.keys[layer], cache.values[layer]
        return attention.attend_blocks(query, [own], mask, prefix), cache

    def step_by_kernel(
        self, layer, query, new, entries, mask, prefix
    ) -> tuple[Float[Array, "B 1 N H"], "KVCache"]:
        """Returns what `step` does, by the TPU's kernel, which needs no mask."""
        del mask
        grouped = query.reshape(*new[0].shape[:2], -1, query.shape[3])
        kept = self.keys, self.values
        out, kept = decode_kernel.decode_attend(grouped, new, kept, layer, entries, prefix)
        return out.reshape(query.shape), KVCache(*kept)

    def first_row(self) -> SharedPrefix:
        """Returns the first row as what all rows of another cache share."""
        return SharedPrefix(self.keys[:, 0], self.values[:, 0])

    def widened(self, length: int) -> "KVCache":
        """Returns the same with zeros behind it, `length` entries in all."""
        widths = ((0, 0), (0, 0), (0, 0), (0, length - self.length), (0, 0))
        return jax.tree.map(lambda x: jnp.pad(x, widths), self)

    def constrain(self) -> "KVCache":
        """Shards rows by batch and, where the tensor axis divides them, by KV heads."""
        axes = ("layers", "batch", "kv_heads", "length", "kv")
        return jax.tree.map(lambda x: sharding.constrain(x, axes), self)


@flax.struct.dataclass
class BlockCache:
    """Arrays for each layer and block; a block is as long as all before it, the first two 128."""

    keys: tuple[tuple[Float[Array, "B K s H"], ...], ...]
    values: tuple[tuple[Float[Array, "B K s H"], ...], ...]

    batch_axis = 0

    @classmethod
    def zeros(
        cls, config: LlamaConfig, batch: int, length: int, dtype: str | None = None
    ) -> "BlockCache":
        """Returns an empty cache for `batch` rows of up to `length` tokens."""
        heads, size = config.num_kv_heads, config.head_dim

        def layer() -> tuple[jax.Array, ...]:
            return tuple(
                jnp.zeros((batch, heads, stop - start, size), dtype or config.dtype)
                for start, stop in _spans(length)
            )

        layers = range(config.num_layers)
        return cls(tuple(layer() for _ in layers), tuple(layer() for _ in layers))

    @staticmethod
    def windows(length: int) -> tuple[int, ...]:
        """Returns how many entries a decode step may read: those of the first blocks."""
        return tuple(stop for _, stop in _spans(length))

    @property
    def length(self) -> int:
        return sum(block.shape[2] for block in self.keys[0])

    def fill(
        self, layer: int, keys: Float[Array, "B T K H"], values: Float[Array, "B T K H"]
    ) -> "BlockCache":
        """Writes a layer's first T entries of all rows."""

        def put(blocks, new):
            new, parts = new.swapaxes(1, 2), []
            for block, (start, stop) in zip(blocks, _spans(self.length), strict=True):
                part = new[:, :, start:stop].astype(block.dtype)
                parts.append(jax.lax.dynamic_update_slice(block, part, (0, 0, 0, 0)))
            return tuple(parts)

        return self._with(layer, put(self.keys[layer], keys), put(self.values[layer], values))

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
        blocks = list(zip(cache.keys[layer][:count], cache.values[layer][:count], strict=True))
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

        def put(blocks, new):
            parts = []
            for block, (start, stop) in zip(blocks, _spans(self.length), strict=True):
                here = (entries >= start) & (entries < stop)
                entry = jnp.where(here, entries - start, stop - start)
                parts.append(block.at[rows, :, entry].set(new.astype(block.dtype), mode="drop"))
            return tuple(parts)

        return self._with(layer, put(self.keys[layer], keys), put(self.values[layer], values))

    def first_row(self) -> SharedPrefix:
        """Returns the first row as what all rows of another cache share."""

        def joined(layers):
            return tuple(jnp.concatenate([block[0] for block in blocks], 1) for blocks in layers)

        return SharedPrefix(joined(self.keys), joined(self.values))

    def widened(self, length: int) -> "BlockCache":
        """Returns the same with zeros behind it, `length` entries in all."""

        def pad(block, size: int):
            return jnp.pad(block, ((0, 0), (0, 0), (0, size - block.shape[2]), (0, 0)))

        def widen(blocks):
            sizes = [stop - start for start, stop in _spans(length)]
            new = [blocks[0][:, :, :0]] * (len(sizes) - len(blocks))
            return tuple(map(pad, (*blocks, *new), sizes))

        return BlockCache(tuple(map(widen, self.keys)), tuple(map(widen, self.values)))

    def constrain(self) -> "BlockCache":
        """Shards rows by batch and, where the tensor axis divides them, by KV heads."""
        axes = ("batch", "kv_heads", None, "kv")
        return jax.tree.map(lambda x: sharding.constrain(x, axes), self)

    def _with(self, layer: int, keys, values) -> "BlockCache":
        def changed(layers, new):
            return (*layers[:layer], new, *layers[layer + 1 :])

        return BlockCache(changed(self.keys, keys), changed(self.values, values))


def _spans(length: int) -> list[tuple[int, int]]:
    """Returns the blocks of a cache: [0, 128), [128, 256), [256, 512), [512, 1024) ... length."""
    stops = [min(_FIRST_BLOCK, length)]
    while stops[-1] < length:
        stops.append(min(2 * stops[-1], length))
    return list(zip([0, *stops[:-1]], stops, strict=True))

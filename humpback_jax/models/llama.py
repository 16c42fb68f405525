"""LLaMA in Flax Linen, its layers scanned, its parameters named by logical axes.

Parameters, with a leading L axis inside `layers`:

    embedding [V, D]        norm/scale [D]        output [D, V], unless tied to the embedding
    layers/attention_norm/scale [D]              layers/mlp_norm/scale [D]
    layers/attention/{query [D, N, H], key [D, K, H], value [D, K, H], out [N, H, D]}
    layers/mlp/{gate [D, F], up [D, F], down [F, D]}

and with LlamaConfig.qkv_bias, LlamaConfig.qk_norm:

    layers/attention/{query_bias [N, H], key_bias [K, H], value_bias [K, H]}
    layers/attention/{query_norm/scale [H], key_norm/scale [H]}
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from humpback_jax.models import attention, kernels, rope, sharding
from humpback_jax.models.attention import KVCache, SharedPrefix
from humpback_jax.models.config import LlamaConfig

ACTIVATION = ("batch", "length", "activation_embed")
LAYER_INPUT = "layer_input"
_FEW_LAYERS = 16


def _kernel(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    initializer: nn.initializers.Initializer | None = None,
) -> Any:
    """Declares a weight with its logical axes and returns it in the computation's dtype."""
    config: LlamaConfig = module.config  # pyright: ignore[reportAttributeAccessIssue]
    initializer = initializer or nn.initializers.normal(config.initializer_range)
    boxed = nn.with_logical_partitioning(initializer, axes)
    return jnp.asarray(module.param(name, boxed, shape, config.param_dtype), config.dtype)


def _product(
    x: Float[Array, "B T *inputs"], kernel: Float[Array, "..."], inputs: int = 1
) -> Float[Array, "B T *outputs"]:
    """Returns x times a weight, over the last `inputs` axes of x."""
    if sharding.platform() != "cpu" or sharding.ways("batch", "length", "heads") > 1:
        return jnp.tensordot(x, kernel, inputs)
    # On one CPU, plain matrices forward and backward take 6 % off a step of 33 million parameters.
    size = math.prod(kernel.shape[:inputs])
    flat = x.reshape(-1, size) @ kernel.reshape(size, -1)
    return flat.reshape(*x.shape[:2], *kernel.shape[inputs:])


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, computed in float32."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        initializer = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
        scale = self.param("scale", initializer, (x.shape[-1],), self.config.param_dtype)
        wide = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(variance + self.config.norm_eps)
        return (normed * jnp.asarray(scale, jnp.float32)).astype(self.config.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, x, cos_sin, mask, layer, cache: KVCache | None, prefix: SharedPrefix | None):
        """Returns (output [B, T, D], the cache with this layer's new keys and values)."""
        c = self.config
        query = self._project(x, "query", c.num_heads, "heads", c.qkv_bias)
        keys = self._project(x, "key", c.num_kv_heads, "kv_heads", c.qkv_bias)
        values = self._project(x, "value", c.num_kv_heads, "kv_heads", c.qkv_bias)
        if c.qk_norm:
            query = RMSNorm(c, name="query_norm")(query)
            keys = RMSNorm(c, name="key_norm")(keys)
        query, keys = rope.rotate(query, cos_sin), rope.rotate(keys, cos_sin)
        out_shape = (c.num_heads, c.head_dim, c.embed_dim)
        w_out = _kernel(self, "out", out_shape, ("heads", "kv", "embed"))
        if cache is None and prefix is None:
            attended = kernels.self_attend(c.attention, query, keys, values, mask["segment_ids"])
        else:
            query = sharding.constrain(query, ("batch", "length", "heads", "kv"))
            shared = None if prefix is None else (prefix.keys[layer], prefix.values[layer])
            if cache is not None:
                cache, keys, values = _update(cache, layer, keys, values, mask)
            decodes = cache is not None and query.shape[1] == 1
            attend = attention.attend_cache if decodes else attention.attend
            attended = attend(query, keys, values, mask["attend"], shared)
        return _product(attended, w_out, 2), cache

    def _project(self, x, name: str, heads: int, axis: str, biased: bool):
        """Returns x [B, T, D] as `heads` vectors of H for each position."""
        c = self.config
        kernel = _kernel(self, name, (c.embed_dim, heads, c.head_dim), ("embed", axis, "kv"))
        projected = _product(x, kernel)
        if not biased:
            return projected
        shape, zeros = (heads, c.head_dim), nn.initializers.zeros
        return projected + _kernel(self, f"{name}_bias", shape, (axis, "kv"), zeros)


def _update(cache: KVCache, layer, keys, values, mask) -> tuple[KVCache, Any, Any]:
    """Writes new keys and values [B, T, K, H] of one layer at their rows' entries.

    Several positions are a prefill, which begins at entry 0; a single one is a decode step.
    """
    written = tuple(x.astype(cache.keys.dtype) for x in (keys, values))
    if keys.shape[1] > 1:
        start = (layer, 0, 0, 0, 0)
        new_keys = jax.lax.dynamic_update_slice(cache.keys, written[0][None], start)
        new_values = jax.lax.dynamic_update_slice(cache.values, written[1][None], start)
        return KVCache(new_keys, new_values), keys, values
    rows = jnp.arange(keys.shape[0])
    new_keys = cache.keys.at[layer, rows, mask["entries"]].set(written[0][:, 0], mode="drop")
    new_values = cache.values.at[layer, rows, mask["entries"]].set(written[1][:, 0], mode="drop")
    return KVCache(new_keys, new_values), new_keys[layer], new_values[layer]


class Mlp(nn.Module):
    """The gated feed-forward layer: down(silu(gate(x)) * up(x))."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        wide = (self.config.embed_dim, self.config.mlp_dim)
        gate = _kernel(self, "gate", wide, ("embed", "mlp"))
        up = _kernel(self, "up", wide, ("embed", "mlp"))
        down = _kernel(self, "down", wide[::-1], ("mlp", "embed"))
        hidden = nn.silu(_product(x, gate)) * _product(x, up)
        hidden = sharding.constrain(hidden, ("batch", "length", "mlp"))
        return _product(hidden, down)


class Layer(nn.Module):
    """One decoder layer, in the form that nn.scan wants: (carry, layer index, ...) -> carry."""

    config: LlamaConfig
    deterministic: bool

    @nn.compact
    def __call__(self, carry, layer, cos_sin, mask, prefix):
        x, cache = carry
        x = checkpoint_name(sharding.constrain(x, ACTIVATION), LAYER_INPUT)
        dropout = nn.Dropout(self.config.dropout_rate, deterministic=self.deterministic)
        normed = RMSNorm(self.config, name="attention_norm")(x)
        attended, cache = Attention(self.config, name="attention")(
            normed, cos_sin, mask, layer, cache, prefix
        )
        x = x + dropout(attended)
        normed = RMSNorm(self.config, name="mlp_norm")(x)
        x = x + dropout(Mlp(self.config, name="mlp")(normed))
        return (x, cache), None


def _remat_policy(name: str) -> Any:
    """Returns what the forward pass keeps for the backward pass under LlamaConfig.remat."""
    policies = jax.checkpoint_policies
    if name == "offload":
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[LAYER_INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return {
        "dots": policies.dots_saveable,
        "minimal": policies.dots_with_no_batch_dims_saveable,
        "full": policies.nothing_saveable,
    }[name]


def _scanned_layer(config: LlamaConfig, cached: bool) -> Any:
    """Returns the class of all L layers as one scan, rematerialised as the config says.

    On a CPU the loop over few layers is unrolled: it would copy what each layer keeps for the
    backward pass, 6 % of a step of 33 million parameters.
    """
    layer = Layer
    few = config.num_layers <= _FEW_LAYERS and not cached
    if config.remat != "none":
        layer = nn.remat(Layer, prevent_cse=False, policy=_remat_policy(config.remat))
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),  # pyright: ignore
        length=config.num_layers,
        unroll=config.num_layers if few and sharding.platform() == "cpu" else 1,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


class Llama(nn.Module):
    """A LLaMA language model.

    Without a cache it scores whole sequences, packed ones too. With a cache, T > 1 is a prefill
    of rows that begin at the cache's first entry, T = 1 a decode step at each row's position.
    """

    config: LlamaConfig

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"] | None = None,
        *,
        cache: KVCache | None = None,
        prefix: SharedPrefix | None = None,
        window: int | None = None,
        select: Int[Array, " B"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B T V"], KVCache | None]:
        """Returns (logits in float32, the updated cache).

        Args:
          tokens: token ids.
          positions: position of each token in its own sequence, counted from 0 with the prefix.
          segment_ids: which packed example each token belongs to; nothing attends across.
          cache: keys and values so far.
          prefix: shared tokens before every row; positions then begin at its length.
          window: how many entries of the cache a decode step reads; by default all.
          select: if given, the one index into T whose logits are wanted; the result has T = 1.
          deterministic: False in training, with an rng named "dropout".
        """
        c = self.config
        initializer = nn.with_logical_partitioning(
            nn.initializers.normal(c.initializer_range), ("vocab", "embed")
        )
        shape = (c.vocab_size, c.embed_dim)
        table = self.param("embedding", initializer, shape, c.param_dtype)
        x = jnp.asarray(table, c.dtype)[tokens]
        x = nn.Dropout(c.dropout_rate, deterministic=deterministic)(x)
        x = sharding.constrain(x, ACTIVATION)
        mask = _masks(positions, segment_ids, cache, prefix, window)
        layers = _scanned_layer(c, cache is not None)(c, deterministic, name="layers")
        (x, cache), _ = layers(
            (x, cache), jnp.arange(c.num_layers), rope.angles(positions, c), mask, prefix
        )
        x = RMSNorm(c, name="norm")(x)
        if select is not None:
            x = jnp.take_along_axis(x, select[:, None, None], axis=1)
        if c.tie_embeddings:
            output = jnp.asarray(table, c.dtype).T
        else:
            output = _kernel(self, "output", shape[::-1], ("embed", "vocab"))
        logits = jnp.einsum("BTD,DV->BTV", x, output, preferred_element_type=jnp.float32)
        return sharding.constrain(logits, ("batch", "length", "vocab")), cache


def _masks(positions, segment_ids, cache, prefix, window) -> dict[str, Bool[Array, "..."]]:
    """Returns who attends to whom, and the cache entry that a decode step writes.

    Whole sequences give their segments alone: the implementation of attention makes the mask.
    """
    if cache is None and prefix is None:
        return {"segment_ids": segment_ids}
    if cache is None:
        return {"attend": attention.causal_mask(0, positions.shape[1], segment_ids)}
    prefix_length = prefix.length if prefix is not None else 0
    # A prefill attends to its own tokens, of which the cache may round what it keeps.
    length = positions.shape[1]
    read = length if length > 1 else window or cache.keys.shape[2]
    attend = attention.cache_mask(positions, read, prefix_length)
    return {"attend": attend, "entries": positions[:, 0] - prefix_length}

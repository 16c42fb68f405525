"""LLaMA in Flax Linen, its layers scanned, its parameters named by logical axes.

Parameters, with a leading L axis inside `layers`:

    embedding [V, D]        norm/scale [D]        output [D, V], unless tied to the embedding
    layers/attention_norm/scale [D]              layers/mlp_norm/scale [D]
    layers/attention/{query [D, N, H], key [D, K, H], value [D, K, H], out [N, H, D]}
    layers/mlp/{gate [D, F], up [D, F], down [F, D]}
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from humpback_jax.models import attention, rope
from humpback_jax.models.attention import KVCache, SharedPrefix
from humpback_jax.models.config import LlamaConfig

ACTIVATION = ("batch", "length", "activation_embed")


def _kernel(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Any:
    """Declares a weight with its logical axes and returns it in the computation's dtype."""
    config: LlamaConfig = module.config  # pyright: ignore[reportAttributeAccessIssue]
    initializer = nn.initializers.normal(config.initializer_range)
    boxed = nn.with_logical_partitioning(initializer, axes)
    return jnp.asarray(module.param(name, boxed, shape, config.param_dtype), config.dtype)


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
        q_shape, kv_shape = (c.embed_dim, c.num_heads, c.head_dim), (c.embed_dim, c.num_kv_heads)
        kv_shape = (*kv_shape, c.head_dim)
        kv_axes = ("embed", "kv_heads", "kv")
        w_query = _kernel(self, "query", q_shape, ("embed", "heads", "kv"))
        w_key = _kernel(self, "key", kv_shape, kv_axes)
        w_value = _kernel(self, "value", kv_shape, kv_axes)
        out_shape = (c.num_heads, c.head_dim, c.embed_dim)
        w_out = _kernel(self, "out", out_shape, ("heads", "kv", "embed"))
        query = rope.rotate(jnp.einsum("BTD,DNH->BTNH", x, w_query), cos_sin)
        keys = rope.rotate(jnp.einsum("BTD,DKH->BTKH", x, w_key), cos_sin)
        values = jnp.einsum("BTD,DKH->BTKH", x, w_value)
        query = nn.with_logical_constraint(query, ("batch", "length", "heads", "kv"))
        shared = None
        if cache is not None:
            cache, keys, values = _update(cache, layer, keys, values, mask)
        if prefix is not None:
            shared = (prefix.keys[layer], prefix.values[layer])
        attended = attention.attend(query, keys, values, mask["attend"], shared)
        return jnp.einsum("BTNH,NHD->BTD", attended, w_out), cache


def _update(cache: KVCache, layer, keys, values, mask) -> tuple[KVCache, Any, Any]:
    """Writes new keys and values [B, T, K, H] of one layer at their rows' entries.

    Several positions are a prefill, which begins at entry 0; a single one is a decode step.
    """
    if keys.shape[1] > 1:
        start = (layer, 0, 0, 0, 0)
        new_keys = jax.lax.dynamic_update_slice(cache.keys, keys[None], start)
        new_values = jax.lax.dynamic_update_slice(cache.values, values[None], start)
    else:
        rows = jnp.arange(keys.shape[0])
        new_keys = cache.keys.at[layer, rows, mask["entries"]].set(keys[:, 0], mode="drop")
        new_values = cache.values.at[layer, rows, mask["entries"]].set(values[:, 0], mode="drop")
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
        hidden = nn.silu(jnp.einsum("BTD,DF->BTF", x, gate)) * jnp.einsum("BTD,DF->BTF", x, up)
        hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
        return jnp.einsum("BTF,FD->BTD", hidden, down)


class Layer(nn.Module):
    """One decoder layer, in the form that nn.scan wants: (carry, layer index, ...) -> carry."""

    config: LlamaConfig
    deterministic: bool

    @nn.compact
    def __call__(self, carry, layer, cos_sin, mask, prefix):
        x, cache = carry
        x = nn.with_logical_constraint(x, ACTIVATION)
        dropout = nn.Dropout(self.config.dropout_rate, deterministic=self.deterministic)
        normed = RMSNorm(self.config, name="attention_norm")(x)
        attended, cache = Attention(self.config, name="attention")(
            normed, cos_sin, mask, layer, cache, prefix
        )
        x = x + dropout(attended)
        normed = RMSNorm(self.config, name="mlp_norm")(x)
        x = x + dropout(Mlp(self.config, name="mlp")(normed))
        return (x, cache), None


def _scanned_layer(config: LlamaConfig) -> Any:
    """Returns the class of all L layers as one scan, rematerialised as the config says."""
    layer = Layer
    if config.remat != "none":
        policies = jax.checkpoint_policies
        policy = policies.nothing_saveable
        if config.remat == "minimal":
            policy = policies.checkpoint_dots_with_no_batch_dims
        layer = nn.remat(Layer, prevent_cse=False, policy=policy)
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),  # pyright: ignore
        length=config.num_layers,
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
        x = nn.with_logical_constraint(x, ACTIVATION)
        mask = _masks(positions, segment_ids, cache, prefix)
        layers = _scanned_layer(c)(c, deterministic, name="layers")
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
        return nn.with_logical_constraint(logits, ("batch", "length", "vocab")), cache


def _masks(positions, segment_ids, cache, prefix) -> dict[str, Bool[Array, "..."]]:
    """Returns who attends to whom, and the cache entry that a decode step writes."""
    prefix_length = prefix.length if prefix is not None else 0
    if cache is None:
        return {"attend": attention.causal_mask(positions, segment_ids)}
    attend = attention.cache_mask(positions, cache.keys.shape[2], prefix_length)
    return {"attend": attend, "entries": positions[:, 0] - prefix_length}

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

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from humpback_jax.models import attention, decode_kernel, kernels, rope, sharding
from humpback_jax.models.attention import Packing
from humpback_jax.models.cache import BlockCache, KVCache, SharedPrefix
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.dense import TRAINED, Form, dense, outputs_first, weight

ACTIVATION = ("batch", "length", "activation_embed")
# A decode step's rows are few: over devices that share a weight by D, they move, not the weight.
DECODED = ("decode_batch", "length", "decode_embed")
LAYER_INPUT = "layer_input"
_FEW_LAYERS = 16

Cache = KVCache | BlockCache


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
    form: Form

    @nn.compact
    def __call__(self, x, cos_sin, mask, layer, cache: Cache | None, prefix: SharedPrefix | None):
        """Returns (output [B, T, D], the cache with this layer's new keys and values)."""
        c = self.config
        query = self._project(x, "query", c.num_heads, "heads")
        keys = self._project(x, "key", c.num_kv_heads, "kv_heads")
        values = self._project(x, "value", c.num_kv_heads, "kv_heads")
        if c.qk_norm:
            query = RMSNorm(c, name="query_norm")(query)
            keys = RMSNorm(c, name="key_norm")(keys)
        query, keys = rope.rotate(query, cos_sin), rope.rotate(keys, cos_sin)
        if "segment_ids" in mask:
            attended = kernels.self_attend(c.attention, query, keys, values, mask["segment_ids"])
        else:
            query = sharding.constrain(query, ("batch", "length", "heads", "kv"))
            keys, values = (
                sharding.constrain(x, ("batch", None, "kv_heads", "kv")) for x in (keys, values)
            )
            shared = None if prefix is None else (prefix.keys[layer], prefix.values[layer])
            if cache is not None and "entries" in mask:
                new = keys[:, 0], values[:, 0]
                step = cache.step
                if isinstance(cache, KVCache) and cache.key_scales is None:
                    step = cache.step_by_kernel if decode_kernel.chosen(c.attention) else step
                attended, cache = step(layer, query, new, mask["entries"], mask["attend"], shared)
            else:
                packing = mask["packing"]
                attended = attention.attend(query, keys, values, mask["attend"], shared, packing)
                if cache is not None:
                    own = (
                        (keys, values) if packing is None else map(packing.to_rows, (keys, values))
                    )
                    cache = cache.fill(layer, *own)
            attended = sharding.constrain(attended, (_axes(mask)[0], "length", "heads", "kv"))
        return dense(self, "out", attended, (c.embed_dim,), ("heads", "kv", "embed")), cache

    def _project(self, x, name: str, heads: int, axis: str):
        """Returns x [B, T, D] as `heads` vectors of H for each position."""
        shape = (heads, self.config.head_dim)
        projected = dense(self, name, x, shape, ("embed", axis, "kv"))
        if not self.config.qkv_bias:
            return projected
        return projected + weight(self, f"{name}_bias", shape, (axis, "kv"), nn.initializers.zeros)


class Mlp(nn.Module):
    """The gated feed-forward layer: down(silu(gate(x)) * up(x))."""

    config: LlamaConfig
    form: Form
    axes: tuple[str, str, str] = ACTIVATION

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        wide = (self.config.mlp_dim,), ("embed", "mlp")

        def summed(y: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
            """Of a decode step over fsdp, each device adds up and finishes the rows of its own."""
            if self.axes != DECODED:
                return y
            return sharding.constrain(y, ("batch", "length", "mlp"))

        hidden = nn.silu(summed(dense(self, "gate", x, *wide))) * summed(
            dense(self, "up", x, *wide)
        )
        hidden = sharding.constrain(hidden, (self.axes[0], "length", "mlp"))
        return dense(self, "down", hidden, (self.config.embed_dim,), ("mlp", "embed"))


class Layer(nn.Module):
    """One decoder layer, in the form that nn.scan wants: (carry, layer index, ...) -> carry."""

    config: LlamaConfig
    form: Form
    deterministic: bool

    @nn.compact
    def __call__(self, carry, layer, cos_sin, mask, prefix):
        x, cache = carry
        axes = _axes(mask)
        x = checkpoint_name(sharding.constrain(x, axes), LAYER_INPUT)
        dropout = nn.Dropout(self.config.dropout_rate, deterministic=self.deterministic)
        normed = RMSNorm(self.config, name="attention_norm")(x)
        attended, cache = Attention(self.config, self.form, name="attention")(
            normed, cos_sin, mask, layer, cache, prefix
        )
        x = x + dropout(attended)
        normed = RMSNorm(self.config, name="mlp_norm")(x)
        x = x + dropout(Mlp(self.config, self.form, axes, name="mlp")(normed))
        return (x, cache), None


def _axes(mask: dict[str, Any]) -> tuple[str, str, str]:
    """Returns how the residual stream lies: a decode step's otherwise than whole sequences."""
    return DECODED if "entries" in mask else ACTIVATION


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

    Attributes:
      config: the shape.
      form: of the parameters. With `per_layer` the cache is a BlockCache, else a KVCache.
    """

    config: LlamaConfig
    form: Form = TRAINED

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segment_ids: Int[Array, "B T"] | None = None,
        *,
        cache: Cache | None = None,
        prefix: SharedPrefix | None = None,
        window: int | None = None,
        packing: Packing | None = None,
        select: Int[Array, "B R"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B T V"], Cache | None]:
        """Returns (logits in float32, the updated cache).

        Args:
          tokens: token ids.
          positions: position of each token in its own sequence, counted from 0 with the prefix.
          segment_ids: which packed example each token belongs to; nothing attends across.
          cache: keys and values so far.
          prefix: shared tokens before every row; positions then begin at its length.
          window: how many entries of the cache a decode step reads; by default all.
          packing: which of the T tokens make up which row; without it each of B is one.
          select: if given, the indices into T whose logits are wanted; the result has T = R.
          deterministic: False in training, with an rng named "dropout".
        """
        c = self.config
        table = weight(self, "embedding", (c.vocab_size, c.embed_dim), ("vocab", "embed"))
        x = table[tokens]
        x = nn.Dropout(c.dropout_rate, deterministic=deterministic)(x)
        mask = _masks(positions, segment_ids, cache, prefix, window, packing)
        x = sharding.constrain(x, _axes(mask))
        x, cache = self._layers(x, cache, rope.angles(positions, c), mask, prefix, deterministic)
        x = RMSNorm(c, name="norm")(x)
        if select is not None:
            x = jnp.take_along_axis(x, select[:, :, None], axis=1)
        if c.tie_embeddings and self.form.per_layer:
            logits = outputs_first(x, table, out_dtype=jnp.float32)
        elif c.tie_embeddings:
            logits = jnp.einsum("BTD,VD->BTV", x, table, preferred_element_type=jnp.float32)
        else:
            logits = dense(self, "output", x, (c.vocab_size,), ("embed", "vocab"), jnp.float32)
        return sharding.constrain(logits, ("batch", "length", "vocab")), cache

    def _layers(self, x, cache, cos_sin, mask, prefix, deterministic: bool):
        """Returns (the last layer's output, the updated cache)."""
        c = self.config
        if self.form.per_layer:
            for i in range(c.num_layers):
                layer = Layer(c, self.form, deterministic, name=f"layers_{i}")
                (x, cache), _ = layer((x, cache), i, cos_sin, mask, prefix)
            return x, cache
        layers = _scanned_layer(c, cache is not None)(c, self.form, deterministic, name="layers")
        (x, cache), _ = layers((x, cache), jnp.arange(c.num_layers), cos_sin, mask, prefix)
        return x, cache


def _masks(positions, segment_ids, cache, prefix, window, packing) -> dict[str, Any]:
    """Returns who attends to whom, and the cache entry that a decode step writes.

    Whole sequences give their segments alone: the implementation of attention makes the mask.
    """
    if cache is None and prefix is None and packing is None:
        return {"segment_ids": segment_ids}
    if packing is not None:
        length = packing.rows.shape[2]
        return {"attend": attention.causal_mask(0, length), "packing": packing}
    if cache is None or positions.shape[1] > 1:
        # A prefill attends to its own tokens, of which the cache may round what it keeps.
        mask = attention.causal_mask(0, positions.shape[1], segment_ids)
        return {"attend": mask, "packing": None}
    prefix_length = prefix.length if prefix is not None else 0
    attend = attention.cache_mask(positions, window or cache.length, prefix_length)
    return {"attend": attend, "entries": positions[:, 0] - prefix_length}

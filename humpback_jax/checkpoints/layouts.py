"""Where each of our parameters lies in the files of Hugging Face and of Meta.

Matrices are stored [out, in] there and [in, heads, head size] here, one layer at a time there and
stacked over L here. Rotary positions are half-split here and at Hugging Face; Meta rotates
neighbours, so its queries and keys are interleaved: [N, H/2, 2, D] there is [D, N, 2, H/2] here.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from humpback_jax.checkpoints.stored import Index, Tensor
from humpback_jax.models.config import LlamaConfig


@dataclasses.dataclass(frozen=True)
class Place:
    """One of our parameters (of a layer, if stacked) as a tensor of foreign files.

    Attributes:
      name: of the tensor; "{}" stands for the layer's number.
      shape: as it is stored.
      split: the same with heads and their halves as axes of their own.
      axes: the split tensor, transposed by these, is ours but for axes that ours has as one.
    """

    name: str
    shape: tuple[int, ...]
    split: tuple[int, ...]
    axes: tuple[int, ...]

    def read(self, tensor: Tensor, index: Index, out: np.ndarray) -> None:
        """Copies ours[index] out of the stored tensor into `out`, which is contiguous."""
        ours = self._split_index(index, out.ndim)
        view = out.reshape([s.stop - s.start for s in ours]).transpose(np.argsort(self.axes))
        theirs = tuple(ours[axis] for axis in np.argsort(self.axes))
        tensor.reshape(self.split).read(theirs, view)

    def _split_index(self, index: Index, rank: int) -> Index:
        """Returns a slice for each axis of the transposed split tensor.

        An axis of ours that is two of theirs (the halves of a head) is always whole: heads are
        never sharded within.
        """
        sizes = [self.split[axis] for axis in self.axes]
        merged = sizes[rank - 1 :]
        if len(merged) == 1:
            return index
        last = index[-1]
        assert (last.start, last.stop) == (0, math.prod(merged)), "a head is never split"
        return (*index[:-1], *(slice(0, size) for size in merged))

    def to_stored(self, ours: np.ndarray) -> np.ndarray:
        """Returns our parameter (of one layer) as it is stored, contiguous."""
        split = ours.reshape([self.split[axis] for axis in self.axes])
        return np.ascontiguousarray(split.transpose(np.argsort(self.axes)).reshape(self.shape))


def _same(name: str, *shape: int) -> Place:
    """A tensor that lies there as it does here; heads may be merged in the file."""
    return Place(name, (math.prod(shape),), shape, tuple(range(len(shape))))


def _turned(name: str, rows: Sequence[int], columns: Sequence[int], axes: Sequence[int]) -> Place:
    """A matrix [rows, columns], each of which may be several axes here."""
    return Place(name, (math.prod(rows), math.prod(columns)), (*rows, *columns), tuple(axes))


def huggingface(config: LlamaConfig) -> dict[str, Place]:
    """Returns the place of each of our parameters, by its name, in Hugging Face's files."""
    D, N, K, H = config.embed_dim, config.num_heads, config.num_kv_heads, config.head_dim
    F, V = config.mlp_dim, config.vocab_size
    layer, attention = "model.layers.{}.", "model.layers.{}.self_attn."
    places = {
        "embedding": _turned("model.embed_tokens.weight", [V], [D], (0, 1)),
        "norm/scale": _same("model.norm.weight", D),
        "layers/attention_norm/scale": _same(layer + "input_layernorm.weight", D),
        "layers/attention/query": _turned(attention + "q_proj.weight", [N, H], [D], (2, 0, 1)),
        "layers/attention/key": _turned(attention + "k_proj.weight", [K, H], [D], (2, 0, 1)),
        "layers/attention/value": _turned(attention + "v_proj.weight", [K, H], [D], (2, 0, 1)),
        "layers/attention/out": _turned(attention + "o_proj.weight", [D], [N, H], (1, 2, 0)),
        "layers/mlp_norm/scale": _same(layer + "post_attention_layernorm.weight", D),
        "layers/mlp/gate": _turned(layer + "mlp.gate_proj.weight", [F], [D], (1, 0)),
        "layers/mlp/up": _turned(layer + "mlp.up_proj.weight", [F], [D], (1, 0)),
        "layers/mlp/down": _turned(layer + "mlp.down_proj.weight", [D], [F], (1, 0)),
    }
    if not config.tie_embeddings:
        places["output"] = _turned("lm_head.weight", [V], [D], (1, 0))
    if config.qkv_bias:
        places["layers/attention/query_bias"] = _same(attention + "q_proj.bias", N, H)
        places["layers/attention/key_bias"] = _same(attention + "k_proj.bias", K, H)
        places["layers/attention/value_bias"] = _same(attention + "v_proj.bias", K, H)
    if config.qk_norm:
        places["layers/attention/query_norm/scale"] = _same(attention + "q_norm.weight", H)
        places["layers/attention/key_norm/scale"] = _same(attention + "k_norm.weight", H)
    return places


def meta(config: LlamaConfig) -> dict[str, Place]:
    """Returns the place of each of our parameters, by its name, in Meta's files."""
    D, N, K, H = config.embed_dim, config.num_heads, config.num_kv_heads, config.head_dim
    F, V, half = config.mlp_dim, config.vocab_size, config.head_dim // 2
    attention, mlp = "layers.{}.attention.", "layers.{}.feed_forward."
    places = {
        "embedding": _turned("tok_embeddings.weight", [V], [D], (0, 1)),
        "norm/scale": _same("norm.weight", D),
        "layers/attention_norm/scale": _same("layers.{}.attention_norm.weight", D),
        "layers/attention/query": _turned(attention + "wq.weight", [N, half, 2], [D], (3, 0, 2, 1)),
        "layers/attention/key": _turned(attention + "wk.weight", [K, half, 2], [D], (3, 0, 2, 1)),
        "layers/attention/value": _turned(attention + "wv.weight", [K, H], [D], (2, 0, 1)),
        "layers/attention/out": _turned(attention + "wo.weight", [D], [N, H], (1, 2, 0)),
        "layers/mlp_norm/scale": _same("layers.{}.ffn_norm.weight", D),
        "layers/mlp/gate": _turned(mlp + "w1.weight", [F], [D], (1, 0)),
        "layers/mlp/up": _turned(mlp + "w3.weight", [F], [D], (1, 0)),
        "layers/mlp/down": _turned(mlp + "w2.weight", [D], [F], (1, 0)),
    }
    if not config.tie_embeddings:
        places["output"] = _turned("output.weight", [V], [D], (1, 0))
    return places

"""The shape of a LLaMA, validated."""

import dataclasses

from humpback_jax.errors import UsageError

REMAT_POLICIES = ("none", "minimal", "dots", "offload", "full")
ATTENTIONS = ("auto", "xla", "cudnn", "splash")


DTYPES = ("float32", "bfloat16", "float16")
INT8 = "int8"  # how weights and cache may be kept beside these (humpback_jax.models.int8)
_AT_LEAST_ONE = (
    "vocab_size",
    "embed_dim",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "mlp_dim",
    "max_length",
)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """LLaMA 3's stretching of the rotary wavelengths (Hugging Face's rope_type "llama3")."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """A decoder of the LLaMA family; no field of the shape has a default, for none is honest.

    Attributes:
      vocab_size: V.
      embed_dim: D.
      num_layers: L.
      num_heads: N.
      num_kv_heads: K; K divides N (K < N is grouped-query attention).
      head_dim: H, even.
      mlp_dim: F.
      max_length: the longest sequence the model was made for, in tokens.
      rope_theta: base of the rotary wavelengths.
      norm_eps: epsilon of RMSNorm.
      tie_embeddings: the output projection is the embedding table.
      rope_scaling: LLaMA 3.1's scaling, or None.
      qkv_bias: queries, keys and values have biases, as in Qwen2.
      qk_norm: each head's queries and keys pass RMSNorm before they are rotated, as in Qwen3.
      dtype: of the computation; softmax, norms and logits are float32 always.
      param_dtype: of the parameters.
      dropout_rate: on the embedding and on both branches of each layer, in training only.
      initializer_range: standard deviation of the initial weights.
      remat: what the backward pass finds kept, the rest it computes again: "none" keeps all;
        "dots" every matrix product; "minimal" those with weights, not attention's; "full" nothing
        but each layer's input; "offload" nothing but that input either, and that in host memory.
      attention: what computes attention without a cache: "xla", "cudnn" (GPU) or "splash" (TPU);
        "auto" chooses by the device. With a cache, a TPU's decode steps have a kernel of their own
        unless it is "xla".
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    max_length: int
    rope_theta: float
    norm_eps: float
    tie_embeddings: bool
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"
    dropout_rate: float = 0.0
    initializer_range: float = 0.02
    remat: str = "none"
    attention: str = "auto"

    def __post_init__(self):
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise UsageError(
                    f"LlamaConfig.{name} is {getattr(self, name)}: it must be at least 1"
                )
        if self.num_heads % self.num_kv_heads:
            raise UsageError(
                f"LlamaConfig.num_kv_heads = {self.num_kv_heads} does not divide num_heads = "
                f"{self.num_heads}: every KV head must serve the same number of heads"
            )
        if self.head_dim % 2:
            raise UsageError(f"LlamaConfig.head_dim = {self.head_dim} is odd: RoPE rotates pairs")
        for name, known in (("remat", REMAT_POLICIES), ("attention", ATTENTIONS)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"LlamaConfig.{name} = {getattr(self, name)!r}: choose one of {known}"
                )
        if not 0 <= self.dropout_rate < 1:
            raise UsageError(f"LlamaConfig.dropout_rate = {self.dropout_rate} is not in [0, 1)")
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in DTYPES:
                raise UsageError(
                    f"LlamaConfig.{name} = {getattr(self, name)!r}: choose one of {DTYPES}"
                )

    @property
    def num_parameters(self) -> int:
        """The number of parameters, tied embeddings counted once."""
        heads, size = self.num_heads + 2 * self.num_kv_heads, self.head_dim
        attention = self.embed_dim * size * (heads + self.num_heads)
        attention += heads * size * self.qkv_bias + 2 * size * self.qk_norm
        layer = attention + 3 * self.embed_dim * self.mlp_dim + 2 * self.embed_dim
        tables = 1 if self.tie_embeddings else 2
        return tables * self.vocab_size * self.embed_dim + self.num_layers * layer + self.embed_dim

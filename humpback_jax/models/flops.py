"""How many floating-point operations the mathematics of a model takes: what MFU is counted in."""

from humpback_jax.models.config import LlamaConfig


def matmul_parameters(config: LlamaConfig) -> int:
    """Returns the number of weights that every token is multiplied with.

    The output projection is among them, tied or not; the embedding's look-up is no product.
    """
    heads = 2 * config.num_heads + 2 * config.num_kv_heads
    attention = config.embed_dim * config.head_dim * heads
    layer = attention + 3 * config.embed_dim * config.mlp_dim
    return config.num_layers * layer + config.vocab_size * config.embed_dim


def forward_flops(config: LlamaConfig, batch: int, length: int) -> float:
    """Returns the FLOPs of reading `batch` rows of `length` tokens from nothing.

    Two for each weight and token; attention's two products count half, since a query sees on
    average half of the keys.
    """
    width = config.num_heads * config.head_dim
    attention = 2.0 * config.num_layers * batch * length**2 * width
    return 2.0 * matmul_parameters(config) * batch * length + attention


def train_flops(config: LlamaConfig, batch: int, length: int) -> float:
    """Returns the FLOPs of one training step: forward, and twice that backward.

    Six for each weight and token and half of the attention's products; what rematerialisation
    computes again does not count.

    Args:
      config: of the model.
      batch: rows of the step, over all devices.
      length: tokens of a row, padding included.
    """
    return 3.0 * forward_flops(config, batch, length)


def decode_flops(config: LlamaConfig, batch: int, length: int) -> float:
    """Returns the FLOPs of one more token for each of `batch` rows that hold `length` tokens."""
    width = config.num_heads * config.head_dim
    attention = 4.0 * config.num_layers * batch * length * width
    return 2.0 * matmul_parameters(config) * batch + attention

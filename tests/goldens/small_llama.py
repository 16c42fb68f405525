"""The shape of a LLaMA of two layers, which tests of training and sharding vary."""

from humpback_jax.models.config import LlamaConfig

SMALL = LlamaConfig(
    vocab_size=64,
    embed_dim=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=48,
    max_length=64,
    rope_theta=10000.0,
    norm_eps=1e-5,
    tie_embeddings=False,
)

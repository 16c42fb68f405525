import jax
import jax.numpy as jnp
import pytest

from humpback_jax.models import flops
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.init import abstract_params
from humpback_jax.models.llama import Llama

LLAMA_7B = LlamaConfig(
    vocab_size=32000, embed_dim=4096, num_layers=32, num_heads=32, num_kv_heads=32,
    head_dim=128, mlp_dim=11008, max_length=2048, rope_theta=1e4, norm_eps=1e-6,
    tie_embeddings=False,
)  # fmt: skip
TINY = LlamaConfig(
    vocab_size=64, embed_dim=32, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=8,
    mlp_dim=48, max_length=64, rope_theta=1e4, norm_eps=1e-6, tie_embeddings=True,
)  # fmt: skip


def test_training_is_six_for_each_weight_and_token_and_half_of_attention():
    """7B: 6,607,077,376 weights but the embedding and the norms; 32 layers of width 4096."""
    weights = LLAMA_7B.num_parameters - 32000 * 4096 - (2 * 32 + 1) * 4096
    assert flops.matmul_parameters(LLAMA_7B) == weights == 6_607_077_376
    expected = 6 * weights * 32 * 2048 + 6 * 32 * 32 * 2048**2 * 4096
    assert flops.train_flops(LLAMA_7B, 32, 2048) == expected
    assert expected == pytest.approx(2.704e15, rel=1e-3)


def test_forward_agrees_with_what_xla_counts():
    """XLA counts attention whole and the elementwise work as well, so it lies a little above."""
    batch, length = 2, 16
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    model = Llama(TINY)
    lowered = jax.jit(lambda p, t: model.apply({"params": p}, t, t)[0]).lower(
        abstract_params(TINY), tokens
    )
    counted = lowered.compile().cost_analysis()["flops"]
    whole = flops.forward_flops(TINY, batch, length) + 2 * batch * length**2 * 32
    assert whole <= counted < 1.35 * whole


def test_a_decode_step_reads_the_weights_once_for_each_row():
    step = flops.decode_flops(TINY, batch=3, length=10)
    assert step == 2 * flops.matmul_parameters(TINY) * 3 + 4 * 3 * 10 * 32

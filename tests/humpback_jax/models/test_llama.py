import dataclasses

import jax
import jax.numpy as jnp
import llama_variants
import numpy as np
import pytest

from humpback_jax.checkpoints import huggingface
from humpback_jax.models.attention import cache_mask, causal_mask
from humpback_jax.models.cache import KVCache
from humpback_jax.models.init import abstract_params, flatten
from humpback_jax.models.llama import Llama

TOKENS = jnp.asarray(llama_variants.TOKENS)
POSITIONS = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)


@pytest.fixture
def model(tmp_path, request):
    name = getattr(request, "param", "grouped_tied")
    llama_variants.write_folder(name, tmp_path)
    return huggingface.read_model(tmp_path)


def _logits(config, params, *args, **kwargs):
    with jax.default_matmul_precision("highest"):
        return jax.jit(Llama(config).apply)({"params": params}, *args, **kwargs)


def test_prefill_and_decode_equal_one_pass(model):
    full, _ = _logits(model.config, model.params, TOKENS, POSITIONS)
    cache = KVCache.zeros(model.config, 2, 50)
    first, cache = _logits(
        model.config, model.params, TOKENS[:, :40], POSITIONS[:, :40], cache=cache
    )
    np.testing.assert_allclose(first, full[:, :40], atol=2e-5)
    for t in range(40, 48):
        step = slice(t, t + 1)
        logits, cache = _logits(
            model.config, model.params, TOKENS[:, step], POSITIONS[:, step], cache=cache
        )
        np.testing.assert_allclose(logits[:, 0], full[:, t], atol=2e-5)


def test_a_shared_prefix_equals_the_whole_sequence(model):
    tokens = TOKENS.at[1, :16].set(TOKENS[0, :16])
    full, _ = _logits(model.config, model.params, tokens, POSITIONS)
    cache = KVCache.zeros(model.config, 1, 16)
    _, cache = _logits(model.config, model.params, tokens[:1, :16], POSITIONS[:1, :16], cache=cache)
    prefix = cache.first_row()
    own = KVCache.zeros(model.config, 2, 32)
    logits, _ = _logits(
        model.config, model.params, tokens[:, 16:], POSITIONS[:, 16:], cache=own, prefix=prefix
    )
    np.testing.assert_allclose(logits, full[:, 16:], atol=2e-5)


def test_packed_examples_do_not_see_each_other(model):
    alone = [
        _logits(model.config, model.params, TOKENS[:, s], POSITIONS[:, :24])[0]
        for s in (slice(0, 24), slice(24, 48))
    ]
    positions = jnp.concatenate([POSITIONS[:, :24]] * 2, axis=1)
    segments = jnp.concatenate([jnp.ones((2, 24), int), jnp.full((2, 24), 2)], axis=1)
    packed, _ = _logits(model.config, model.params, TOKENS, positions, segments)
    np.testing.assert_allclose(packed, jnp.concatenate(alone, axis=1), atol=2e-5)


def test_select_gives_the_logits_of_one_position(model):
    full, _ = _logits(model.config, model.params, TOKENS, POSITIONS)
    one, _ = _logits(model.config, model.params, TOKENS, POSITIONS, select=jnp.array([[3], [40]]))
    np.testing.assert_allclose(one[:, 0], full[jnp.arange(2), jnp.array([3, 40])], atol=2e-5)


@pytest.mark.parametrize("remat", ["minimal", "full"])
def test_rematerialisation_changes_nothing(model, remat):
    def loss(config, params):
        logits, _ = _logits(config, params, TOKENS, POSITIONS)
        return jax.nn.logsumexp(logits, axis=-1).sum()

    config = dataclasses.replace(model.config, remat=remat)
    plain = jax.grad(lambda p: loss(model.config, p))(model.params)
    again = jax.grad(lambda p: loss(config, p))(model.params)
    for name, leaf in flatten(plain).items():
        np.testing.assert_allclose(flatten(again)[name], leaf, rtol=1e-4, atol=1e-3, err_msg=name)


def test_causal_mask_example():
    mask = causal_mask(0, 4, jnp.array([[1, 1, 2, 2]]))
    assert mask[0].astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_cache_mask_hides_what_lies_after_a_query():
    mask = cache_mask(jnp.array([[5], [7]]), 4, 5)
    assert mask[:, 0].astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


@pytest.mark.parametrize("model", llama_variants.VARIANTS, indirect=True)
def test_number_of_parameters(model):
    leaves = flatten(abstract_params(model.config)).values()
    assert sum(np.prod(leaf.shape) for leaf in leaves) == model.config.num_parameters

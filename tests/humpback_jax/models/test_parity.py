"""Our numbers are those of transformers, layer by layer, and would not be if anything were wrong.

The goldens are remade by `make parity`. Everything is float32 with exact matrix products.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import llama_variants
import numpy as np
import pytest
from flax import linen as nn

from humpback_jax.checkpoints import huggingface
from humpback_jax.models.init import flatten
from humpback_jax.models.llama import Llama

GOLDENS = pathlib.Path(llama_variants.__file__).parent
TOKENS = jnp.asarray(llama_variants.TOKENS)
POSITIONS = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)
KEPT = llama_variants.POSITIONS
ATOL = 1e-5


@pytest.fixture(scope="module")
def goldens():
    return dict(np.load(GOLDENS / "llama.npz"))


def _model(name, tmp_path):
    llama_variants.write_folder(name, tmp_path)
    model = huggingface.read_model(tmp_path)
    # A config of Qwen or of a LLaMA 3 may ask for another attention; the maths is what is tested.
    return dataclasses.replace(model.config, attention="xla"), model.params


def _logits(config, params):
    with jax.default_matmul_precision("highest"):
        logits, _ = Llama(config).apply({"params": params}, TOKENS, POSITIONS)
    return np.asarray(logits)[:, KEPT]


def _state(config, params, layers):
    """Returns the residual stream after the first `layers` layers: what the last norm is given."""
    seen = []

    def keep(call, arguments, keywords, context):
        if context.module.name == "norm":
            seen.append(arguments[0])
        return call(*arguments, **keywords)

    params = {**params, "layers": jax.tree.map(lambda x: x[:layers], params["layers"])}
    with nn.intercept_methods(keep):
        _logits(dataclasses.replace(config, num_layers=layers), params)
    return np.asarray(seen[0])[:, KEPT]


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("name", llama_variants.VARIANTS)
def test_states_and_logits_are_those_of_transformers(name, goldens, tmp_path):
    config, params = _model(name, tmp_path)
    states = goldens[f"{name}/states"]
    assert len(states) == config.num_layers
    for layer, state in enumerate(states):
        ours = _state(config, params, layer + 1)
        np.testing.assert_allclose(ours, state, atol=ATOL, rtol=0, err_msg=f"layer {layer}")
    np.testing.assert_allclose(
        _logits(config, params), goldens[f"{name}/logits"], atol=ATOL, rtol=0
    )


@pytest.mark.usefixtures("optimised")
def test_a_real_model_is_that_of_transformers(shared):
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("no stories260K in ../shared/models")
    model = huggingface.read_model(folder)
    with np.load(GOLDENS / "stories260K.npz") as golden:
        for layer, state in enumerate(golden["states"]):
            ours = _state(model.config, model.params, layer + 1)
            np.testing.assert_allclose(ours, state, atol=ATOL, rtol=0, err_msg=f"layer {layer}")
        # Its logits go up to 13; transformers' own float32 is 1.4e-5 away from its float64.
        logits = _logits(model.config, model.params)
        np.testing.assert_allclose(logits, golden["logits"], atol=2 * ATOL, rtol=0)


WRONG_CONSTANTS = {
    "llama3_rope": [{"rope_scaling": None}, {"rope_theta": 10000.0}],
    "plain": [{"norm_eps": 1e-5}],
    "qwen2": [{"rope_theta": 10000.0}],
}


@pytest.mark.parametrize(
    ("name", "wrong"), [(name, wrong) for name, some in WRONG_CONSTANTS.items() for wrong in some]
)
def test_a_wrong_constant_is_seen(name, wrong, goldens, tmp_path):
    config, params = _model(name, tmp_path)
    logits = _logits(dataclasses.replace(config, **wrong), params)
    assert np.abs(logits - goldens[f"{name}/logits"]).max() > 5 * ATOL


def _zero(params, *names):
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x * 0 if path[-1].key in names else x, params
    )


def _interleaved(params):
    """Returns queries and keys as Meta lays them out, where half-split ones are meant."""

    def turn(x):  # [L, D, heads, H]
        halves = x.reshape(*x.shape[:-1], 2, -1)
        return jnp.swapaxes(halves, -1, -2).reshape(x.shape)

    attention = params["layers"]["attention"]
    turned = {name: turn(attention[name]) for name in ("query", "key")}
    return {**params, "layers": {**params["layers"], "attention": attention | turned}}


@pytest.mark.parametrize("name", ["plain", "grouped_tied", "head_dim", "llama3_rope"])
def test_the_wrong_layout_of_rope_is_seen(name, goldens, tmp_path):
    config, params = _model(name, tmp_path)
    logits = _logits(config, _interleaved(params))
    assert np.abs(logits - goldens[f"{name}/logits"]).max() > 100 * ATOL


@pytest.mark.parametrize("bias", ["query_bias", "key_bias", "value_bias"])
def test_a_lost_bias_is_seen(bias, goldens, tmp_path):
    config, params = _model("qwen2", tmp_path)
    assert f"layers/attention/{bias}" in flatten(params)
    logits = _logits(config, _zero(params, bias))
    assert np.abs(logits - goldens["qwen2/logits"]).max() > 100 * ATOL


def test_lost_norms_of_queries_and_keys_are_seen(goldens, tmp_path):
    config, params = _model("qwen3", tmp_path)
    attention = params["layers"]["attention"]
    bare = {k: v for k, v in attention.items() if not k.endswith("norm")}
    assert len(bare) == len(attention) - 2
    params = {**params, "layers": {**params["layers"], "attention": bare}}
    logits = _logits(dataclasses.replace(config, qk_norm=False), params)
    assert np.abs(logits - goldens["qwen3/logits"]).max() > 100 * ATOL

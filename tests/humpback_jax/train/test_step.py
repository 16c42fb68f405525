import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from small_llama import SMALL

from humpback_jax.models.config import REMAT_POLICIES
from humpback_jax.models.init import boxed_params, flatten, init_params
from humpback_jax.partitioning import MeshConfig, make_mesh, rules
from humpback_jax.train import step as train_step
from humpback_jax.train.config import TrainConfig
from humpback_jax.train.optimizer import OptimizerConfig, make_optimizer

LLAMA = dataclasses.replace(SMALL, qkv_bias=True, qk_norm=True, initializer_range=0.2)
TRAIN = TrainConfig(
    train_steps=4, batch_size=8, feature_lengths={"inputs": 8, "targets": 8}, pack=True
)
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=1e-2, final_learning_rate=1e-2), 4)
# (data, fsdp, sequence, tensor)
MESHES = [
    (8, 1, 1, 1),
    (1, 8, 1, 1),
    (1, 1, 1, 4),
    (1, 1, 8, 1),
    (2, 2, 1, 2),
    (1, 2, 2, 2),
    (2, 1, 4, 1),
]


@pytest.fixture(scope="module")
def params():
    """Returns parameters whose biases are not zero."""
    drawn = jax.jit(lambda key: nn.unbox(init_params(LLAMA, key)))(jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.05 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), drawn)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    shape = (8, 16)
    lengths = rng.integers(2, 7, (8, 2))
    index = np.arange(16)
    segments = (index < lengths.sum(1, keepdims=True)).astype(np.int32)
    segments += segments * (index >= lengths[:, :1])
    return {
        "decoder_target_tokens": rng.integers(0, 64, shape).astype(np.int32),
        "decoder_input_tokens": rng.integers(0, 64, shape).astype(np.int32),
        "decoder_loss_weights": (rng.integers(0, 2, shape) * (segments > 0)).astype(np.int32),
        "decoder_segment_ids": segments,
        "decoder_positions": np.broadcast_to(index, shape).astype(np.int32),
    }


def _gradient(params, batch, llama=LLAMA, shape=None, **changes):
    """Returns (gradient, metrics) as numpy, computed on a mesh if one is given."""
    gradient = train_step.make_gradient(llama, dataclasses.replace(TRAIN, **changes))
    if shape is None:
        return jax.device_get(jax.jit(gradient)(params, batch, None))
    count = int(np.prod(shape))
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[:count])
    shardings = train_step.state_shardings(llama, OPTIMIZER, mesh).params
    with rules(mesh):
        return jax.device_get(jax.jit(gradient)(jax.device_put(params, shardings), batch, None))


def _assert_close(found, expected, rtol=2e-5):
    for name, want in flatten(expected[0]).items():
        np.testing.assert_allclose(
            flatten(found[0])[name], want, atol=rtol * np.abs(want).max(), err_msg=name
        )
    for name, want in expected[1].items():
        np.testing.assert_allclose(found[1][name], want, rtol=rtol, err_msg=name)


@pytest.fixture(scope="module")
def one_device(params, batch):
    gradient, metrics = _gradient(params, batch)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(gradient))
    return gradient, metrics


@pytest.mark.parametrize("shape", MESHES)
def test_every_mesh_gives_the_gradient_of_one_device(params, batch, one_device, shape):
    _assert_close(_gradient(params, batch, shape=shape), one_device)


@pytest.mark.parametrize("remat", [name for name in REMAT_POLICIES if name != "none"])
def test_what_is_computed_again_is_the_same(params, batch, one_device, remat):
    llama = dataclasses.replace(LLAMA, remat=remat)
    _assert_close(_gradient(params, batch, llama), one_device)


@pytest.mark.parametrize("normalizer", ["NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"])
@pytest.mark.parametrize(("parts", "shape"), [(2, None), (8, None), (2, (2, 2, 1, 2))])
def test_microbatches_add_up_to_the_batch(params, batch, parts, shape, normalizer):
    changes = {"loss_normalizing_factor": normalizer, "z_loss": 1e-3, "label_smoothing": 0.1}
    whole = _gradient(params, batch, **changes)
    _assert_close(_gradient(params, batch, shape=shape, microbatches=parts, **changes), whole)


def test_rows_of_one_example_need_no_segments(params, batch):
    """Padding comes last, so causality alone hides it from the targets."""
    alone = {**batch, "decoder_segment_ids": (batch["decoder_segment_ids"] > 0).astype(np.int32)}
    _assert_close(_gradient(params, alone, pack=False), _gradient(params, alone, pack=True))


def test_the_kernel_of_tpus_gives_the_same_step(params):
    """It is interpreted here, and wants long rows; the model can be made under its name too."""
    rng, shape = np.random.default_rng(1), (2, 128)
    row = {name: rng.integers(0, 64, shape).astype(np.int32) for name in train_step.FEATURES}
    row["decoder_segment_ids"] = np.sort(row["decoder_segment_ids"] % 3 + 1)
    row["decoder_loss_weights"] %= 2
    row["decoder_positions"] = np.broadcast_to(np.arange(128, dtype=np.int32), shape)
    splash = dataclasses.replace(LLAMA, attention="splash")
    assert jax.tree.structure(boxed_params(splash)) == jax.tree.structure(boxed_params(LLAMA))
    _assert_close(_gradient(params, row, splash), _gradient(params, row))


def test_16_bits_of_computation_keep_32_bits_of_parameters(params, batch, one_device):
    llama = dataclasses.replace(LLAMA, dtype="bfloat16")
    gradient, metrics = _gradient(params, batch, llama)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype("float32")}
    assert metrics["loss"] == pytest.approx(one_device[1]["loss"], rel=2e-2)
    assert metrics["loss"] != one_device[1]["loss"]


@pytest.mark.parametrize("shape", [(8, 1, 1, 1), (1, 2, 2, 2)])
def test_a_step_is_compiled_once(params, batch, shape):
    mesh = make_mesh(MeshConfig(*shape))
    llama = dataclasses.replace(LLAMA, dropout_rate=0.1)
    shardings = train_step.state_shardings(llama, OPTIMIZER, mesh)
    state = train_step.make_state(llama, params, OPTIMIZER, shardings)
    step_fn = train_step.make_train_step(llama, OPTIMIZER, mesh, TRAIN)
    for _ in range(3):
        state, _ = step_fn(state, batch)
    assert int(state.step) == 3
    assert step_fn.jitted._cache_size() == 1


def test_a_base_of_16_bits_is_trained_in_32(params):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    shardings = train_step.state_shardings(LLAMA, OPTIMIZER, mesh)
    state = train_step.make_state(LLAMA, half, OPTIMIZER, shardings)
    for leaf, want in zip(jax.tree.leaves(state.params), jax.tree.leaves(half), strict=True):
        np.testing.assert_array_equal(leaf, want.astype(jnp.float32))


def test_moments_lie_as_their_parameters_do():
    shardings = train_step.state_shardings(LLAMA, OPTIMIZER, make_mesh(MeshConfig(1, 4, 1, 2)))
    adam = next(
        part for part in jax.tree.leaves(shardings.opt_state, is_leaf=_is_adam) if _is_adam(part)
    )
    assert flatten(adam.mu) == flatten(adam.nu) == flatten(shardings.params)


def _is_adam(x):
    return hasattr(x, "mu")

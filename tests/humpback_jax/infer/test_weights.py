"""Int8 weights: what they stand for, where they lie and what they take."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from small_llama import SMALL

from humpback_jax import partitioning
from humpback_jax.checkpoints import foreign
from humpback_jax.infer import steps, weights
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.infer.weights import Weights
from humpback_jax.models.dense import QUANTISED, TRAINED, Form
from humpback_jax.models.init import abstract_params, boxed_params, flatten, init_params
from humpback_jax.models.llama import Llama

CONFIG = dataclasses.replace(SMALL, initializer_range=0.3)
PARAMS = nn.unbox(init_params(CONFIG, jax.random.key(0)))
TOKENS = jax.random.randint(jax.random.key(1), (2, 40), 3, 64)
FORMS = pytest.mark.parametrize("per_layer", [False, True], ids=["stacked", "per_layer"])


def plain(per_layer: bool) -> Weights:
    return weights.prepare(PARAMS) if per_layer else Weights(PARAMS, TRAINED)


def log_probs(found: Weights) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)
    run = jax.jit(Llama(CONFIG, found.form).apply)
    return jax.nn.log_softmax(run({"params": found.params}, TOKENS, positions)[0])


def changed(params, change):
    """Returns trained parameters with change(kernel, axes of its inputs) for each kernel."""

    def one(path, leaf):
        if path[-1].key not in QUANTISED:
            return leaf
        return change(leaf, (1, 2) if path[-1].key == "out" else (1,))

    return jax.tree_util.tree_map_with_path(one, params)


def rounded(kernel, axes):
    scale = np.abs(kernel).max(axes, keepdims=True) / 127
    return np.round(kernel / scale) * scale


@FORMS
def test_products_are_those_of_the_floats_that_int8_stands_for(per_layer):
    found = log_probs(weights.quantised(plain(per_layer)))
    expected = log_probs(Weights(changed(PARAMS, rounded), TRAINED))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_scores_move_as_by_noise_of_half_a_scale():
    """The largest change is below twice the largest that uniform noise of that size makes."""
    before = log_probs(plain(per_layer=False))

    def moved(params) -> float:
        return float(np.abs(log_probs(Weights(params, TRAINED)) - before).max())

    def noisy(seed: int):
        random = np.random.default_rng(seed)

        def change(kernel, axes):
            half = np.abs(kernel).max(axes, keepdims=True) / 254
            return kernel + random.uniform(-1, 1, kernel.shape).astype(np.float32) * half

        return changed(PARAMS, change)

    assert 0 < moved(changed(PARAMS, rounded)) < 2 * max(moved(noisy(seed)) for seed in range(6))


@FORMS
def test_the_model_declares_what_the_engine_makes(per_layer):
    made = weights.quantised(plain(per_layer))
    found = {name: (x.shape, x.dtype) for name, x in flatten(made.params).items()}
    declared = flatten(abstract_params(CONFIG, Form(per_layer, int8=True)))
    assert found == {name: (x.shape, x.dtype) for name, x in declared.items()}
    kernels = [x for name, x in flatten(made.params).items() if name.split("/")[-1] in QUANTISED]
    assert len(kernels) == (14 if per_layer else 7)
    assert {x.dtype.name for x in kernels} == {"int8"}


def test_each_device_holds_its_part():
    mesh = partitioning.make_mesh(partitioning.MeshConfig(2, 2, 1, 2))
    placed = jax.tree.map(lambda to: to.sharding, foreign.targets(CONFIG, mesh))
    made = weights.quantised(Weights(jax.device_put(PARAMS, placed), TRAINED))
    ruled = partitioning.tree_shardings(boxed_params(CONFIG, made.form), mesh)
    for (name, leaf), to in zip(flatten(made.params).items(), jax.tree.leaves(ruled), strict=True):
        assert leaf.sharding.is_equivalent_to(to, leaf.ndim), name
    up = flatten(made.params)["layers/mlp/up_scale"]
    assert up.addressable_shards[0].data.shape == (2, CONFIG.mlp_dim // 2)


def test_what_is_prepared_is_quantised_once():
    once = weights.prepare(PARAMS, "int8")
    assert weights.prepare(once) is once
    assert weights.prepare(once, "int8") is once
    later = weights.prepare(weights.prepare(PARAMS), "int8")
    assert later.form == once.form
    jax.tree.map(np.testing.assert_array_equal, later.params, once.params)


@FORMS
def test_a_decode_step_never_holds_the_weights_as_floats(per_layer):
    """Beside int8 weights the compiled loop needs the floats of one layer of eight, or less."""
    wide = dataclasses.replace(CONFIG, num_layers=8, embed_dim=256, mlp_dim=1024)
    form = Form(per_layer, int8=True)
    program = steps.Program(wide, None, SamplingConfig(max_new_tokens=4), (), None, form)
    params = abstract_params(wide, form)
    state = jax.eval_shape(lambda: steps.free_slots(program, 2, 16))
    cancelled, count = jax.ShapeDtypeStruct((2,), bool), jax.ShapeDtypeStruct((), jnp.int32)
    lowered = steps.decode.lower(program, params, None, state, cancelled, count, count, window=16)
    compiled = lowered.compile()
    layer = 4 * 3 * 256 * 1024
    assert compiled.memory_analysis().temp_size_in_bytes < 1.5 * layer
    assert not re.search(r"f32\[8,(256,1024|1024,256)\]", compiled.as_text())

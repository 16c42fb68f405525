"""Equal computations, equal bits; and which changes of mesh and shapes change the bits."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn
from small_llama import SMALL

from humpback_jax import partitioning
from humpback_jax.checkpoints import foreign
from humpback_jax.infer.computation import computation, deciding
from humpback_jax.infer.engine import Engine, EngineConfig, Request
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.models.init import init_params
from humpback_jax.partitioning import MeshConfig

CONFIG = dataclasses.replace(SMALL, embed_dim=64, num_heads=8, mlp_dim=128, initializer_range=0.3)
PARAMS = nn.unbox(init_params(CONFIG, jax.random.key(0)))
SHAPES = EngineConfig(slots=32, buckets=(16,))
SAMPLING = SamplingConfig(max_new_tokens=6, temperature=1.0, seed=7)


def _mesh(axes):
    return partitioning.make_mesh(axes, jax.devices()[: axes.data * axes.fsdp * axes.tensor])


def _requests():
    rng = np.random.default_rng(0)
    return [Request(f"r{i}", rng.integers(3, 64, n).tolist()) for i, n in enumerate(range(1, 17))]


def _results(mesh, shapes):
    params = PARAMS
    if mesh is not None:
        shardings = jax.tree.map(lambda to: to.sharding, foreign.targets(CONFIG, mesh))
        params = jax.device_put(PARAMS, shardings)
    engine = Engine(CONFIG, params, shapes, (2,), mesh)
    scores = engine.score_choices(_requests(), [4, 5, 6]).log_probs
    return engine.generate(_requests(), SAMPLING), scores.tolist()


@pytest.fixture(scope="module")
def one_device():
    return _results(None, SHAPES)


@pytest.mark.parametrize("axes", [MeshConfig(data=1), MeshConfig(data=2)])
def test_replicas_with_as_many_slots_each_are_one_computation_with_one_result(axes, one_device):
    mesh, shapes = _mesh(axes), dataclasses.replace(SHAPES, slots=SHAPES.slots * axes.data)
    assert computation(shapes, mesh) == computation(SHAPES, None)
    assert _results(mesh, shapes) == one_device


@pytest.mark.parametrize(
    ("axes", "changes", "named"),
    [
        (MeshConfig(data=1, tensor=2), {}, "mesh"),
        (MeshConfig(data=2), {}, "slots_per_device"),
        (None, {"slots": 1}, "slots_per_device"),
        (None, {"max_batch_tokens": 16}, "scored_per_device"),
    ],
)
def test_what_changes_last_bits_is_another_computation(axes, changes, named, one_device):
    mesh = None if axes is None else _mesh(axes)
    shapes = dataclasses.replace(SHAPES, **changes)
    assert computation(shapes, mesh)[named] != computation(SHAPES, None)[named]
    results, scores = _results(mesh, shapes)
    assert [r.token_ids for r in results] == [r.token_ids for r in one_device[0]]
    assert (results, scores) != one_device
    np.testing.assert_allclose(scores, one_device[1], atol=1e-4)


def test_what_changes_no_bit_is_in_neither(one_device):
    often = dataclasses.replace(SHAPES, steps_per_sync=1)
    assert computation(often, None) == computation(SHAPES, None)
    assert deciding(often) == deciding(SHAPES)
    assert _results(None, often) == one_device

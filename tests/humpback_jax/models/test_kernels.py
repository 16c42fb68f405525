import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback_jax import partitioning
from humpback_jax.errors import UsageError
from humpback_jax.models import kernels
from humpback_jax.models.config import LlamaConfig
from humpback_jax.partitioning import MeshConfig, make_mesh

# The kernel wants multiples of 128 positions on each device.
ROWS, LENGTH, HEADS, KV_HEADS, SIZE = 2, 256, 4, 2, 32
MESHES = [
    None,
    MeshConfig(data=1, fsdp=2, tensor=4),  # more devices than KV heads
    MeshConfig(data=2, sequence=2, tensor=2),
]


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    shapes = [(ROWS, LENGTH, heads, SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    return [jnp.asarray(rng.normal(0, 1, shape), jnp.float32) for shape in shapes]


@pytest.fixture(scope="module")
def segments():
    """Returns three examples and padding in each row."""
    bounds = np.asarray([[50, 170, 240], [10, 128, 256]])
    index = np.arange(LENGTH)
    ids = 1 + (index[None, :, None] >= bounds[:, None, :]).sum(-1)
    return jnp.asarray(np.where(ids > 3, 0, ids), jnp.int32)


def _output_and_gradients(name, arrays, segment_ids, mesh=None):
    def objective(query, keys, values):
        out = kernels.self_attend(name, query, keys, values, segment_ids)
        return (out * jnp.cos(jnp.arange(SIZE))).mean(), out

    run = jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2), has_aux=True))
    if mesh is None:
        return run(*arrays)
    with partitioning.rules(make_mesh(mesh)):
        return run(*arrays)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("packed", [False, True])
def test_splash_gives_what_xla_gives(arrays, segments, mesh, packed):
    ids = segments if packed else None
    (_, expected), gradients = _output_and_gradients("xla", arrays, ids)
    (_, out), found = _output_and_gradients("splash", arrays, ids, mesh)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    for got, want in zip(found, gradients, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6 * float(jnp.abs(want).max()) + 1e-9)


@pytest.mark.parametrize("name", ["xla", "splash"])
def test_nothing_is_seen_of_what_follows_or_of_other_segments(arrays, segments, name):
    (_, before), _ = _output_and_gradients(name, arrays, segments)
    own = np.asarray(segments) == 2
    start = [int(np.argmax(row)) for row in own]
    inside = np.arange(LENGTH)[None] < np.asarray(start)[:, None] + 20  # 20 positions of it
    query, keys, values = arrays
    other = jnp.asarray(~(own & inside))[..., None, None]
    (_, after), _ = _output_and_gradients(
        name, (query, keys + 3.0 * other, values - 5.0 * other), segments
    )
    np.testing.assert_array_equal(np.asarray(before)[own & inside], np.asarray(after)[own & inside])
    assert np.abs(np.asarray(before) - np.asarray(after))[~own].max() > 0.1


def test_cudnn_gives_what_xla_gives_on_a_gpu(arrays, segments):
    if jax.default_backend() != "gpu":
        pytest.skip("cuDNN needs an NVIDIA GPU, and there is none")
    half = [x.astype(jnp.bfloat16) for x in arrays]
    for ids in (None, segments):
        (_, expected), gradients = _output_and_gradients("xla", arrays, ids)
        (_, out), found = _output_and_gradients("cudnn", half, ids)
        np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=2e-2)
        for got, want in zip(found, gradients, strict=True):
            np.testing.assert_allclose(got.astype(jnp.float32), want, atol=2e-2)


@pytest.mark.parametrize(
    ("platform", "dtype", "shape", "name"),
    [
        ("cpu", jnp.float32, (1, 256, 4, 64), "xla"),
        ("tpu", jnp.float32, (1, 256, 4, 64), "splash"),
        ("tpu", jnp.float32, (1, 200, 4, 64), "xla"),
        ("gpu", jnp.bfloat16, (1, 200, 4, 64), "cudnn"),
        ("gpu", jnp.float32, (1, 256, 4, 64), "xla"),
        ("gpu", jnp.bfloat16, (1, 256, 4, 256), "xla"),
        ("gpu", jnp.bfloat16, (1, 256, 4, 20), "xla"),
    ],
)
def test_auto_is_what_the_device_can(monkeypatch, platform, dtype, shape, name):
    monkeypatch.setattr(kernels.sharding, "platform", lambda: platform)
    assert kernels.choose(jnp.zeros(shape, dtype)) == name


def test_a_name_that_is_not_known_is_refused():
    config = LlamaConfig(8, 8, 1, 1, 1, 8, 8, 8, 10000.0, 1e-5, True)
    with pytest.raises(UsageError, match="LlamaConfig.attention = 'flash'"):
        dataclasses.replace(config, attention="flash")

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec
from small_llama import SMALL

from humpback_jax import partitioning
from humpback_jax.errors import UsageError
from humpback_jax.models.init import boxed_params, flatten
from humpback_jax.partitioning import MeshConfig, make_mesh

CONFIG = dataclasses.replace(SMALL, num_heads=8, qkv_bias=True, qk_norm=True)

# Every parameter: how it is split over (fsdp, tensor) where both divide. K = 2 is what "tensor" may
# not divide: those of `replicated` then lie whole along their heads.
GOLDEN = {
    "embedding": ("tensor", "fsdp"),
    "layers/attention/key": (None, "fsdp", "tensor", None),
    "layers/attention/key_bias": (None, "tensor", None),
    "layers/attention/key_norm/scale": (None, None),
    "layers/attention/out": (None, "tensor", None, "fsdp"),
    "layers/attention/query": (None, "fsdp", "tensor", None),
    "layers/attention/query_bias": (None, "tensor", None),
    "layers/attention/query_norm/scale": (None, None),
    "layers/attention/value": (None, "fsdp", "tensor", None),
    "layers/attention/value_bias": (None, "tensor", None),
    "layers/attention_norm/scale": (None, None),
    "layers/mlp/down": (None, "tensor", "fsdp"),
    "layers/mlp/gate": (None, "fsdp", "tensor"),
    "layers/mlp/up": (None, "fsdp", "tensor"),
    "layers/mlp_norm/scale": (None, None),
    "norm/scale": (None,),
    "output": ("fsdp", "tensor"),
}
KV_REPLICATED = {
    "layers/attention/key_bias": (None, None, None),
    "layers/attention/value_bias": (None, None, None),
    "layers/attention/key": (None, "fsdp", None, None),
    "layers/attention/value": (None, "fsdp", None, None),
}


@pytest.mark.parametrize(
    ("shape", "changed"),
    [
        ((8, 1, 1, 1), {}),
        ((2, 2, 1, 2), {}),
        ((1, 4, 1, 2), {}),
        ((1, 2, 2, 2), {}),
        ((1, 1, 1, 8), KV_REPLICATED),
        ((2, 1, 1, 4), KV_REPLICATED),
    ],
)
def test_golden_shardings(shape, changed):
    mesh = make_mesh(MeshConfig(*shape))
    assert dict(mesh.shape) == dict(zip(partitioning.AXES, shape, strict=True))
    shardings = flatten(partitioning.tree_shardings(boxed_params(CONFIG), mesh))
    found = {name: tuple(sharding.spec) for name, sharding in shardings.items()}
    assert found == {**GOLDEN, **changed}


def test_the_shards_of_a_parameter_have_the_sizes_that_the_rules_say():
    mesh = make_mesh(MeshConfig(1, 4, 1, 2))
    boxed = boxed_params(CONFIG)
    shardings = flatten(partitioning.tree_shardings(boxed, mesh))
    up = jax.device_put(np.zeros((2, 32, 48), np.float32), shardings["layers/mlp/up"])
    assert {shard.data.shape for shard in up.addressable_shards} == {(2, 8, 24)}
    key = jax.device_put(np.zeros((2, 32, 2, 8), np.float32), shardings["layers/attention/key"])
    assert {shard.data.shape for shard in key.addressable_shards} == {(2, 8, 1, 8)}


def test_an_axis_that_does_not_divide_is_replicated():
    odd = dataclasses.replace(CONFIG, vocab_size=63, embed_dim=30, mlp_dim=47)
    mesh = make_mesh(MeshConfig(1, 4, 1, 2))
    shardings = flatten(partitioning.tree_shardings(boxed_params(odd), mesh))
    assert tuple(shardings["embedding"].spec) == (None, None)
    assert tuple(shardings["layers/mlp/down"].spec) == (None, None, None)
    assert tuple(shardings["layers/attention/query"].spec) == (None, None, "tensor", None)


def test_every_logical_axis_of_the_model_has_a_rule():
    leaves = jax.tree.leaves(
        boxed_params(CONFIG), is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    )
    names = {name for leaf in leaves for name in leaf.names}
    assert names <= dict(partitioning.RULES).keys()
    assert {"vocab", "embed", "mlp", "heads", "kv_heads"} <= names


def test_leaves_without_axes_are_replicated():
    mesh = make_mesh(MeshConfig(2, 2, 1, 2))
    tree = {"count": jax.ShapeDtypeStruct((8,), jnp.int32)}
    assert partitioning.tree_shardings(tree, mesh)["count"].spec == PartitionSpec()


def test_a_batch_is_split_over_data_and_fsdp():
    mesh = make_mesh(MeshConfig(2, 2, 1, 2))
    batch = jax.device_put(np.arange(8), partitioning.batch_sharding(mesh))
    rows = {tuple(shard.data.tolist()) for shard in batch.addressable_shards}
    assert rows == {(0, 1), (2, 3), (4, 5), (6, 7)}


def test_rules_make_a_constraint_mean_the_mesh():
    mesh = make_mesh(MeshConfig(1, 4, 1, 2))

    @jax.jit
    def constrained(x):
        return nn.with_logical_constraint(x, ("batch", "mlp"))

    with partitioning.rules(mesh):
        x = constrained(jnp.zeros((8, 8)))
    assert {shard.data.shape for shard in x.addressable_shards} == {(2, 4)}


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1, 1)),
        (MeshConfig(fsdp=4), (2, 4, 1, 1)),
        (MeshConfig(fsdp=2, tensor=4), (1, 2, 1, 4)),
        (MeshConfig(data=4, tensor=2), (4, 1, 1, 2)),
        (MeshConfig(fsdp=2, sequence=2), (2, 2, 2, 1)),
    ],
)
def test_data_takes_the_devices_that_are_left(config, shape):
    assert make_mesh(config).devices.shape == shape


def test_devices_may_be_given():
    mesh = make_mesh(MeshConfig(), jax.devices()[2:4])
    assert mesh.devices.ravel().tolist() == jax.devices()[2:4]


class _Device:
    """A device of a slice, as TPUs are."""

    platform = device_kind = "cpu"

    def __init__(self, index):
        self.id, self.slice_index, self.process_index = index, index % 2, index % 2


def test_slices_are_joined_along_data_alone():
    devices = [_Device(index) for index in range(8)]
    config = MeshConfig(data=2, fsdp=2, tensor=2, slices=2)
    arranged = partitioning._arrange(devices, (2, 2, 1, 2), config.slices)
    slices = np.vectorize(lambda device: device.slice_index)(arranged)
    assert slices.reshape(2, 4).tolist() == [[0] * 4, [1] * 4]
    assert make_mesh(config).devices.shape == (2, 2, 1, 2)  # devices that are in no slice
    with pytest.raises(UsageError, match="slices = 2 does not divide data = 1"):
        make_mesh(MeshConfig(data=1, fsdp=8, slices=2))


@pytest.mark.parametrize(
    "config",
    [MeshConfig(data=3), MeshConfig(fsdp=3), MeshConfig(tensor=16), MeshConfig(data=2, fsdp=2)],
)
def test_a_mesh_that_does_not_fit_is_one_sentence(config):
    with pytest.raises(UsageError) as caught:
        make_mesh(config)
    message = str(caught.value)
    assert "8 devices" in message
    assert f"tensor={config.tensor} does not divide" in message
    assert "\n" not in message


@pytest.mark.parametrize("axes", [{"data": 0}, {"data": -2}, {"fsdp": 0}, {"tensor": -1}])
def test_every_axis_takes_a_device(axes):
    with pytest.raises(UsageError, match="at least one device"):
        MeshConfig(**axes)

"""The device mesh and the one table that maps logical axes to it."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError
from humpback_jax.models.config import LlamaConfig

AXES = ("data", "fsdp", "sequence", "tensor")

# Logical axis -> mesh axes. Parameters are sharded over fsdp along D and over tensor along the
# axis that a matrix product splits; batches are split over data and fsdp together, and the
# positions of long rows over sequence. In a decode step the few rows are split over data alone and
# their D over fsdp, as the weights' D is, so that no weight moves.
RULES: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
    ("batch", ("data", "fsdp")),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
    ("kv", None),
    ("norm", None),
    ("layers", None),
    ("length", "sequence"),
    ("activation_embed", None),
    ("decode_batch", "data"),
    ("decode_embed", "fsdp"),
)


@configurable
@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis takes; -1, for `data` or `fsdp`, takes what is left.

    Attributes:
      data: replicas that split the batch.
      fsdp: devices that split the batch and the parameters as well.
      sequence: devices that split each row's positions, for rows too long for one device.
      tensor: devices that split heads, the feed-forward layer and the vocabulary.
      slices: TPU slices joined by the data-centre network alone; they divide `data`.
    """

    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1
    slices: int = 1

    def __post_init__(self):
        fixed, free = (self.sequence, self.tensor, self.slices), (self.data, self.fsdp)
        if min(fixed) < 1 or any(n < 1 and n != -1 for n in free) or free.count(-1) > 1:
            raise UsageError(
                f"{self} is no mesh: every axis takes at least one device, and -1 stands once"
            )


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh of axes (data, fsdp, sequence, tensor).

    Neighbours along `tensor`, which talk most, are neighbours in the machine; slices talk along
    `data` alone.

    Raises:
      UsageError: the device count is not the product of the axes.
    """
    devices = list(devices if devices is not None else jax.devices())
    shape = mesh_shape(config, len(devices))
    return Mesh(_arrange(devices, shape, config.slices), AXES)


def mesh_shape(config: MeshConfig, count: int) -> tuple[int, int, int, int]:
    """Returns the sizes of the axes (data, fsdp, sequence, tensor) on `count` devices.

    Raises:
      UsageError: the count is not the product of the axes.
    """
    given = config.data * config.fsdp * config.sequence * config.tensor
    rest = max(1, count // -given) if given < 0 else 1
    data, fsdp = (rest if n == -1 else n for n in (config.data, config.fsdp))
    shape = (data, fsdp, config.sequence, config.tensor)
    if math.prod(shape) != count:
        axes = " ".join(f"{name}={n}" for name, n in zip(AXES, shape, strict=True))
        raise UsageError(
            f"the mesh {axes} does not divide the {count} devices at hand: bind MeshConfig "
            "to a product that does"
        )
    if data % config.slices:
        raise UsageError(
            f"MeshConfig.slices = {config.slices} does not divide data = {data}: slices are "
            "replicas, so bind MeshConfig.data to a multiple"
        )
    return shape


def _arrange(devices: list[Any], shape: tuple[int, ...], slices: int) -> np.ndarray:
    """Returns the devices in the mesh's shape, by the machine's own network."""
    if slices > 1 and getattr(devices[0], "slice_index", None) is not None:
        within = (shape[0] // slices, *shape[1:])
        between = (slices, 1, 1, 1)
        return mesh_utils.create_hybrid_device_mesh(
            within, between, devices, allow_split_physical_axes=True
        )
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def check_model(config: LlamaConfig, mesh: Mesh) -> None:
    """Raises UsageError, before anything is allocated, if the mesh does not divide the model.

    KV heads and the vocabulary are the exceptions: where they do not divide, they are replicated.
    """
    dimensions = {
        ("num_heads", "tensor"): config.num_heads,
        ("mlp_dim", "tensor"): config.mlp_dim,
        ("embed_dim", "fsdp"): config.embed_dim,
    }
    for (name, axis), size in dimensions.items():
        if size % mesh.shape[axis]:
            raise UsageError(
                f"the mesh splits {name} = {size} over {axis} = {mesh.shape[axis]} devices, which "
                f"does not divide it: bind MeshConfig.{axis} to a divisor"
            )


def batch_ways(mesh: Mesh) -> int:
    """Returns over how many devices the rows of a batch are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


@contextlib.contextmanager
def rules(mesh: Mesh) -> Iterator[None]:
    """Makes the logical constraints inside the model mean this mesh while it is traced."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a training batch's arrays [B, T]."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "sequence"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def tree_shardings(abstract: Any, mesh: Mesh) -> Any:
    """Returns a NamedSharding for each leaf of a tree of boxed abstract arrays.

    Args:
      abstract: what `jax.eval_shape` gives for an init function; leaves that carry logical axes
        are `nn.LogicallyPartitioned`, others are replicated.
      mesh: the mesh.

    An axis that its mesh axis does not divide (two KV heads on four devices) is replicated.
    """
    return jax.tree.map(lambda leaf: _sharding(leaf, mesh), abstract, is_leaf=_is_boxed)


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _sharding(leaf: Any, mesh: Mesh) -> NamedSharding:
    if not _is_boxed(leaf):
        return replicated(mesh)
    table = dict(RULES)
    spec = []
    for size, name in zip(leaf.value.shape, leaf.names, strict=True):
        axis = table[name]
        devices = 1 if axis is None else np.prod([mesh.shape[a] for a in np.atleast_1d(axis)])
        spec.append(axis if size % devices == 0 else None)
    return NamedSharding(mesh, PartitionSpec(*spec))

"""The device mesh and the one table that maps logical axes to it."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError

# Logical axis -> mesh axes. Parameters are sharded over fsdp along D and over tensor along the
# axis that a matrix product splits; batches are split over data and fsdp together.
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
    ("length", None),
    ("activation_embed", None),
)


@configurable
@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis takes; -1, for `data` or `fsdp`, takes what is left.

    Attributes:
      data: replicas that split the batch.
      fsdp: devices that split the batch and the parameters as well.
      tensor: devices that split heads, the feed-forward layer and the vocabulary.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        rest = (self.data, self.fsdp).count(-1)
        if self.tensor < 1 or any(n < 1 and n != -1 for n in (self.data, self.fsdp)) or rest > 1:
            raise UsageError(
                f"{self} is no mesh: every axis takes at least one device, and -1 stands once"
            )


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh of axes (data, fsdp, tensor).

    Raises:
      UsageError: the device count is not the product of the axes.
    """
    devices = devices if devices is not None else jax.devices()
    given = config.data * config.fsdp * config.tensor
    rest = max(1, len(devices) // -given) if given < 0 else 1
    data, fsdp = (rest if n == -1 else n for n in (config.data, config.fsdp))
    if data * fsdp * config.tensor != len(devices):
        raise UsageError(
            f"the mesh data={config.data} fsdp={config.fsdp} tensor={config.tensor} does not "
            f"divide the {len(devices)} devices at hand: bind MeshConfig to a product that does"
        )
    shape = (data, fsdp, config.tensor)
    return Mesh(np.asarray(devices).reshape(shape), ("data", "fsdp", "tensor"))


@contextlib.contextmanager
def rules(mesh: Mesh) -> Iterator[None]:
    """Makes the logical constraints inside the model mean this mesh while it is traced."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


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

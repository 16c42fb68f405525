"""What the model asks of the mesh under which it is traced; without a mesh it asks nothing.

The axes are logical ones; `flax.linen.logical_axis_rules` says what they are on the mesh.
"""

import math

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec


def platform() -> str:
    """Returns "cpu", "gpu" or "tpu": that of the current mesh, which may be of another machine."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    name = device.platform if device is not None else jax.default_backend()
    return "gpu" if name in ("cuda", "rocm") else name


def ways(*axes: str) -> int:
    """Returns over how many devices the current mesh splits these logical axes."""
    mesh = jax.sharding.get_abstract_mesh()
    names = [name for axis in axes for name in _mesh_axes(axis)]
    return math.prod(mesh.shape[name] for name in names) if not mesh.empty else 1


def spec(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> PartitionSpec:
    """Returns how an array lies on the current mesh; an axis that does not divide is whole."""
    sizes = zip(shape, axes, strict=True)
    return PartitionSpec(
        *(_mesh_axes(a) or None if a and size % ways(a) == 0 else None for size, a in sizes)
    )


def constrain(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """Asks that an array of the computation lies as its logical axes say."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(x.shape, axes))


def _mesh_axes(axis: str) -> tuple[str, ...]:
    (names,) = nn.logical_to_mesh_axes((axis,)) or (None,)
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)

"""The products of activations with weights, in each of the forms that weights are kept in."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from humpback_jax.models import sharding
from humpback_jax.models.config import LlamaConfig

# The kernels, and how many of their leading axes are inputs as the parameters are trained.
INPUT_AXES = dict.fromkeys(("query", "key", "value", "gate", "up", "down", "output"), 1) | {
    "out": 2
}
# The output projection is the vocabulary's table like the embedding, which it often is: both stay.
QUANTISED = INPUT_AXES.keys() - {"output"}
_PART = 2**18  # numbers of an int8 kernel that are cast together: they stay in a core's cache


@dataclasses.dataclass(frozen=True)
class Form:
    """How weights are kept. The default is the form of training and of checkpoints.

    Attributes:
      per_layer: a subtree for each layer, `layers_0` and so on, with kernels [outputs, inputs]; a
        CPU copies a layer out of a stack at each step, and twice as fast multiplies few rows by
        kernels that lie so.
      int8: the QUANTISED kernels are int8; beside each, under its name and "_scale", is the float32
        scale of each of its outputs.
    """

    per_layer: bool = False
    int8: bool = False


TRAINED = Form()


def dense(
    module: nn.Module,
    name: str,
    x: Float[Array, "B T *inputs"],
    outputs: tuple[int, ...],
    axes: tuple[str, ...],
    out_dtype: Any = None,
) -> Float[Array, "B T *outputs"]:
    """Declares a kernel on a module that has `config` and `form`, and returns x times it.

    Args:
      module: the kernel's owner.
      name: the kernel's, of INPUT_AXES.
      x: activations.
      outputs: sizes of the result's last axes.
      axes: logical axes of inputs and outputs.
      out_dtype: of the result, by default the computation's.
    """
    form: Form = module.form  # pyright: ignore[reportAttributeAccessIssue]
    count = INPUT_AXES[name]
    shape, turned = _turned(form, count, (*x.shape[2:], *outputs), axes)
    if form.int8 and name in QUANTISED:
        kernel, scale = _int8_kernel(module, name, shape, turned, outputs, axes[count:])
        # Numbers up to 127 add up to more than float16 holds.
        wide = jnp.float32 if x.dtype == jnp.float16 else None
        multiply = _in_parts if form.per_layer else _inputs_first
        return (multiply(x, kernel, count, wide) * scale).astype(out_dtype or x.dtype)
    multiply = outputs_first if form.per_layer else _inputs_first
    return multiply(x, weight(module, name, shape, turned), count, out_dtype)


def _int8_kernel(module: nn.Module, name: str, shape, axes, outputs, output_axes) -> Any:
    """Declares (a kernel of int8, the scale of each of its outputs)."""
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, axes)
    ones = nn.with_logical_partitioning(nn.initializers.ones, output_axes)
    kernel = module.param(name, zeros, shape, jnp.int8)
    return kernel, module.param(f"{name}_scale", ones, outputs, jnp.float32)


def weight(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    initializer: nn.initializers.Initializer | None = None,
) -> Any:
    """Declares a weight with its logical axes and returns it in the computation's dtype."""
    config: LlamaConfig = module.config  # pyright: ignore[reportAttributeAccessIssue]
    initializer = initializer or nn.initializers.normal(config.initializer_range)
    boxed = nn.with_logical_partitioning(initializer, axes)
    return jnp.asarray(module.param(name, boxed, shape, config.param_dtype), config.dtype)


def _turned(form: Form, count: int, shape: tuple, axes: tuple) -> tuple[tuple, tuple]:
    """Returns a kernel's shape and axes in this form."""
    if not form.per_layer:
        return shape, axes
    return (*shape[count:], *shape[:count]), (*axes[count:], *axes[:count])


def _inputs_first(x, kernel, count: int, out_dtype):
    kernel = jnp.asarray(kernel, x.dtype)
    if sharding.platform() != "cpu" or sharding.ways("batch", "length", "heads") > 1:
        axes = (tuple(range(2, 2 + count)), tuple(range(count)))
        return jnp.tensordot(x, kernel, axes, preferred_element_type=out_dtype)
    # On one CPU, plain matrices forward and backward take 6 % off a step of 33 million parameters.
    size = math.prod(kernel.shape[:count])
    flat = jnp.matmul(
        x.reshape(-1, size), kernel.reshape(size, -1), preferred_element_type=out_dtype
    )
    return flat.reshape(*x.shape[:2], *kernel.shape[count:])


def _in_parts(x, kernel, count: int, out_dtype):
    """Returns what `outputs_first` does for an int8 kernel, which is cast part by part.

    In one piece, the compiler casts the kernels of all layers before it multiplies by the first.
    """
    outputs, inputs = kernel.shape[:-count], kernel.shape[-count:]

    def multiply(part):
        return outputs_first(x, jnp.asarray(part, x.dtype), count, out_dtype)

    if sharding.ways("heads", "embed") > 1:
        return multiply(kernel)  # each device has a part already
    rows = math.prod(outputs)
    wanted = min(rows, max(2, kernel.size // _PART))
    parts = next(n for n in range(wanted, rows + 1) if rows % n == 0)
    products = jax.lax.map(multiply, kernel.reshape(parts, rows // parts, *inputs))
    return jnp.moveaxis(products, 0, 2).reshape(*x.shape[:2], *outputs)


def outputs_first(
    x: Float[Array, "B T *inputs"],
    kernel: Float[Array, "..."],
    count: int = 1,
    out_dtype: Any = None,
) -> Float[Array, "B T *outputs"]:
    """Returns x times a kernel with `count` axes of inputs at its end.

    The kernel is the first factor, for a CPU reads that where it lies.
    """
    outputs, inputs = kernel.shape[:-count], math.prod(kernel.shape[-count:])
    flat = jax.lax.dot_general(
        kernel.reshape(-1, inputs), x.reshape(-1, inputs), (((1,), (1,)), ((), ())),
        preferred_element_type=out_dtype,
    )  # fmt: skip
    # Else the compiler turns the product around, to save the transposition.
    flat = jax.lax.optimization_barrier(flat)
    return flat.T.reshape(*x.shape[:2], *outputs)

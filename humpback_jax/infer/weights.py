"""The weights in the form in which the engine multiplies by them."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from humpback_jax.infer import layout
from humpback_jax.models import int8
from humpback_jax.models.config import INT8
from humpback_jax.models.dense import INPUT_AXES, QUANTISED, TRAINED, Form


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters and the form they are in."""

    params: Any
    form: Form


def prepare(params: Any, dtype: str | None = None) -> Weights:
    """Returns trained parameters in the best form for the devices they are on.

    On a CPU that is a copy, [outputs, inputs] for each layer; the caller's stay as they are. On a
    TPU they are laid out anew, and the given arrays are gone. What is prepared already is returned
    as it is, but quantised if that is asked for and not done.

    Args:
      params: trained parameters, or what this has returned.
      dtype: "int8" quantises the kernels.
    """
    weights = params if isinstance(params, Weights) else _in_form(params)
    if weights is params and (dtype != INT8 or weights.form.int8):
        return weights
    if dtype == INT8 and not weights.form.int8:
        weights = quantised(weights)
    return dataclasses.replace(weights, params=layout.lay_out(weights.params))


def _in_form(params: Any) -> Weights:
    leaf = jax.tree.leaves(params)[0]
    if next(iter(leaf.devices())).platform != "cpu":
        return Weights(params, TRAINED)
    return Weights(jax.jit(split_layers)(params), Form(per_layer=True))


def split_layers(params: Any) -> Any:
    """Returns stacked parameters as Form.per_layer has them."""
    count = jax.tree.leaves(params["layers"])[0].shape[0]
    rest = {name: leaf for name, leaf in params.items() if name != "layers"}
    layers = {
        f"layers_{i}": jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(count)
    }
    return jax.tree_util.tree_map_with_path(_outputs_first, {**rest, **layers})


def _outputs_first(path: Any, leaf: jax.Array) -> jax.Array:
    inputs = INPUT_AXES.get(path[-1].key, 0)
    return jnp.moveaxis(leaf, range(inputs), range(leaf.ndim - inputs, leaf.ndim))


def quantised(weights: Weights) -> Weights:
    """Returns weights with int8 kernels, made one after the other where they lie."""
    form = dataclasses.replace(weights.form, int8=True)
    return Weights(_quantised(weights.params, form, stacked=False), form)


def _quantised(tree: Mapping[str, Any], form: Form, stacked: bool) -> dict[str, Any]:
    found = {}
    for name, leaf in tree.items():
        if isinstance(leaf, Mapping):
            found[name] = _quantised(leaf, form, stacked or name == "layers")
        elif name in QUANTISED:
            count = INPUT_AXES[name]
            first = leaf.ndim - count if form.per_layer else int(stacked)
            pair = _quantise(leaf, tuple(range(first, first + count)))
            found[name], found[f"{name}_scale"] = pair
        else:
            found[name] = leaf
    return found


def _quantise(kernel: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns (int8, the scales of all but these axes), sharded as the kernel is."""
    shardings = None
    if isinstance(kernel.sharding, NamedSharding):
        spec = [*kernel.sharding.spec, *[None] * (kernel.ndim - len(kernel.sharding.spec))]
        kept = PartitionSpec(*(name for axis, name in enumerate(spec) if axis not in axes))
        shardings = kernel.sharding, NamedSharding(kernel.sharding.mesh, kept)
    return _compiled(axes, shardings)(kernel)


@functools.cache
def _compiled(axes: tuple[int, ...], shardings: Any):
    return jax.jit(functools.partial(int8.quantise, axes=axes), out_shardings=shardings)

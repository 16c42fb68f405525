"""The weights in the form in which the engine multiplies by them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from humpback_jax.infer import layout
from humpback_jax.models.dense import INPUT_AXES, TRAINED, Form


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters and the form they are in."""

    params: Any
    form: Form


def prepare(params: Any) -> Weights:
    """Returns trained parameters in the best form for the devices they are on.

    On a CPU that is a copy, [outputs, inputs] for each layer; the caller's stay as they are. On a
    TPU they are laid out anew, and the given arrays are gone. What is prepared already is returned
    as it is.
    """
    if isinstance(params, Weights):
        return params
    leaf = jax.tree.leaves(params)[0]
    if next(iter(leaf.devices())).platform != "cpu":
        return Weights(layout.lay_out(params), TRAINED)
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

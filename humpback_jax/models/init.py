"""Parameter trees: fresh, abstract, and with their logical axes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.dense import TRAINED, Form
from humpback_jax.models.llama import Llama


def init_params(config: LlamaConfig, key: jax.Array, form: Form = TRAINED) -> Any:
    """Returns fresh parameters, each boxed with its logical axes (nn.LogicallyPartitioned)."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    config = dataclasses.replace(config, attention="xla")  # kernels want longer rows than one
    return Llama(config, form).init(key, tokens, tokens)["params"]


def boxed_params(config: LlamaConfig, form: Form = TRAINED) -> Any:
    """Returns the tree of ShapeDtypeStructs with logical axes; allocates nothing."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0), form))


def abstract_params(config: LlamaConfig, form: Form = TRAINED) -> Any:
    """Returns the plain tree of ShapeDtypeStructs."""
    return nn.unbox(boxed_params(config, form))


def flatten(params: Any) -> dict[str, Any]:
    """Returns {"layers/mlp/up": leaf, ...} in a fixed order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}

"""How weights lie in a TPU's memory, so that no step copies them before it begins.

A TPU keeps an array of its own accord as it takes the least room, which for some weights is not how
products read them: the decode step then lays them out anew, which takes their memory once more
(5 of 24 GiB a chip for 65B over 16 chips).
"""

from typing import Any

import jax
from jax.experimental.layout import Format, Layout

# Axes from the outermost to the innermost: D, which is summed over, stands right before the last.
_ORDERS = {
    "query": (0, 2, 1, 3),
    "key": (0, 2, 1, 3),
    "value": (0, 2, 1, 3),
    "gate": (0, 1, 2),
    "up": (0, 1, 2),
}


def formats(shardings: Any) -> Any:
    """Returns, for a tree of parameters' shardings, how they should lie on a TPU."""

    def placed(path, sharding):
        order = _ORDERS.get(path[-1].key)
        return sharding if order is None else Format(Layout(order), sharding)

    return jax.tree.map_with_path(placed, shardings)


def lay_out(params: Any) -> Any:
    """Returns the parameters as steps read them; on a TPU the given arrays are gone then.

    One after another, so that there need be room for one more array alone.
    """
    if jax.default_backend() != "tpu":
        return params
    wanted = formats(jax.tree.map(lambda x: x.sharding, params))
    return jax.tree.map(_moved, params, wanted)


def _moved(x: Any, wanted: Any) -> jax.Array:
    if not isinstance(wanted, Format) or x.format.layout.major_to_minor == _order(wanted):
        return x
    return jax.jit(lambda x: x, out_shardings=wanted, donate_argnums=0)(x)


def _order(wanted: Any) -> tuple[int, ...]:
    return wanted.layout.major_to_minor

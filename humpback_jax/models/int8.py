"""Numbers kept as int8 with a float32 scale for each group of them, symmetric about zero."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

_LARGEST = 127


def quantise(
    x: Float[Array, "..."], axes: int | tuple[int, ...]
) -> tuple[Int8[Array, "..."], Float[Array, "..."]]:
    """Returns (numbers, scales) of which numbers * scales is x, at most half a scale off.

    [1.0 -0.5 0.25] has the scale 1 / 127 and becomes [127 -64 32].

    Args:
      x: floats.
      axes: along which all share one scale; the scales are without them.
    """
    wide = x.astype(jnp.float32)
    scales = jnp.max(jnp.abs(wide), axis=axes, keepdims=True) / _LARGEST
    # Zeros alone have the scale 0; what is no number stays none, by its scale.
    numbers = jnp.round(wide / jnp.where(scales == 0, 1, scales)).astype(jnp.int8)
    return numbers, jnp.squeeze(scales, axes)

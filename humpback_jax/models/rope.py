"""Rotary position embedding, half-split as in Hugging Face's LLaMA (not interleaved as Meta's)."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from humpback_jax.models.config import LlamaConfig, RopeScaling


def frequencies(config: LlamaConfig) -> np.ndarray:
    """Returns the H/2 angular frequencies in radians per position, float32."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    plain = (1.0 / config.rope_theta**exponents).astype(np.float32)
    return plain if config.rope_scaling is None else _scale(plain, config.rope_scaling)


def _scale(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """LLaMA 3.1: long waves are stretched by `factor`, short ones kept, those between blended."""
    wavelength = 2 * math.pi / plain
    low = scaling.original_max_position / scaling.low_freq_factor
    high = scaling.original_max_position / scaling.high_freq_factor
    blend = (scaling.original_max_position / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - blend) * plain / scaling.factor + blend * plain
    scaled = np.where(wavelength > low, plain / scaling.factor, plain)
    return np.where((wavelength <= low) & (wavelength >= high), blended, scaled).astype(np.float32)


def angles(
    positions: Int[Array, "B T"], config: LlamaConfig
) -> tuple[Float[Array, "B T 1 h"], Float[Array, "B T 1 h"]]:
    """Returns cosine and sine of every position's angles, h = H/2, for all heads alike."""
    radians = positions[:, :, None, None].astype(jnp.float32) * frequencies(config)
    return jnp.cos(radians), jnp.sin(radians)


def rotate(
    x: Float[Array, "B T heads H"],
    cos_sin: tuple[Float[Array, "B T 1 h"], Float[Array, "B T 1 h"]],
) -> Float[Array, "B T heads H"]:
    """Rotates the pairs (x[i], x[i + H/2]) of each head by their position's angles."""
    cos, sin = cos_sin
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)

"""How a class becomes something that gin files may bind, in one place."""

from typing import TypeVar

import gin

T = TypeVar("T", bound=type)


def configurable(cls: T) -> T:
    """Registers a configuration class under its own name in gin's module "humpback_jax"."""
    return gin.configurable(cls, module="humpback_jax")  # pyright: ignore

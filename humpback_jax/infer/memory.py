"""What the slots of the engine take, said before it is taken."""

import math
import os

import jax
import numpy as np
from jax.sharding import Mesh

from humpback_jax import partitioning
from humpback_jax.errors import UserError
from humpback_jax.models.config import LlamaConfig


def slot_bytes(config: LlamaConfig, length: int, dtype: str | None = None) -> int:
    """Returns the bytes of one slot's keys and values for `length` tokens, over all devices."""
    size = np.dtype(jax.numpy.dtype(dtype or config.dtype)).itemsize
    return 2 * config.num_layers * length * config.num_kv_heads * config.head_dim * size


def check_room(
    config: LlamaConfig, mesh: Mesh | None, slots: int, length: int, dtype: str | None
) -> None:
    """Raises UserError if the devices have no room for the cache of all slots.

    Args:
      config: of the model.
      mesh: whose devices share the cache, or None for one device.
      slots: requests at a time.
      length: tokens of a slot, prompt and generated ones.
      dtype: of the cache, by default the computation's.
    """
    needed = slot_bytes(config, length, dtype) * slots // _shares(config, mesh, length)
    free = _free_bytes()
    if needed <= free:
        return
    ways = 1 if mesh is None else partitioning.batch_ways(mesh)
    most = int(slots * max(free, 0) / needed) // ways * ways
    fewer = f"set EngineConfig.slots to at most {most}, or " if most else ""
    raise UserError(
        f"the keys and values of {slots} slots of {length} tokens take {needed / 2**30:.1f} GiB a "
        f"device, where {free / 2**30:.1f} GiB are free: {fewer}lower EngineConfig.buckets or "
        "SamplingConfig.max_new_tokens"
    )


def _shares(config: LlamaConfig, mesh: Mesh | None, length: int) -> int:
    """Returns over how many devices the cache is spread; those of a CPU share one memory."""
    if mesh is None or jax.default_backend() == "cpu":
        return 1
    sizes = ((config.num_kv_heads, mesh.shape["tensor"]), (length, mesh.shape["sequence"]))
    return partitioning.batch_ways(mesh) * math.prod(n for size, n in sizes if size % n == 0)


def _free_bytes() -> int:
    """Returns the bytes that are free on a device; on a CPU, the machine's whole memory."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

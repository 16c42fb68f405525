"""What the slots of the engine take, said before it is taken."""

import math
import os

import jax
import numpy as np
from jax.sharding import Mesh

from humpback_jax import partitioning
from humpback_jax.errors import UserError
from humpback_jax.models.config import INT8, LlamaConfig

_SCALE_BYTES = 4

_GIB = 1 << 30


def slot_bytes(config: LlamaConfig, length: int, dtype: str | None = None) -> int:
    """Returns the bytes of one slot's keys and values for `length` tokens, over all devices."""
    dtype = dtype or config.dtype
    vector = config.head_dim * np.dtype(jax.numpy.dtype(dtype)).itemsize
    vector += _SCALE_BYTES if dtype == INT8 else 0
    return 2 * config.num_layers * length * config.num_kv_heads * vector


def check_room(
    config: LlamaConfig,
    mesh: Mesh | None,
    slots: int,
    rows: int,
    bucket: int,
    length: int,
    dtype: str | None,
) -> None:
    """Raises UserError if the devices of this process have no room to generate.

    Counted are the cache of all slots and the larger of what comes and goes beside it: the keys and
    values of prompts that were read, until they are put into slots, or the logits of all slots with
    their logarithms. A shared prefix was taken before. What a compiler keeps within
    the model is not counted.

    Args:
      config: of the model.
      mesh: whose devices share all this, or None for one device.
      slots: requests at a time.
      rows: prompts that are read together.
      bucket: tokens that they are padded to.
      length: tokens of a slot, prompt and generated ones.
      dtype: of the cache, by default the computation's.
    """
    heads, vocabulary = (config.num_kv_heads, "tensor"), (config.vocab_size, "tensor")
    slot = _per_device(slot_bytes(config, length, dtype), mesh, heads, (length, "sequence"))
    prompt = _per_device(slot_bytes(config, bucket, dtype), mesh, heads)
    drawn = _per_device(2 * 4 * config.vocab_size, mesh, vocabulary)
    ways = 1 if mesh is None else partitioning.batch_ways(mesh)

    def total(count: float) -> float:
        return count * slot + max(min(rows, max(ways, count / 4)) * prompt, count * drawn)

    needed, free = total(slots), _free_bytes(mesh)
    if needed <= free:
        return
    # Of fewer slots fewer are filled at a time, or as many as now, as max_batch_tokens allows.
    guesses = (slots * free / needed, (free - rows * prompt) / (slot + drawn))
    guesses = [max(0, int(guess)) // ways * ways for guess in guesses]
    most = max(guess for guess in (0, *guesses) if total(guess) <= free or not guess)
    fewer = f"set EngineConfig.slots to at most {most}, or " if most else ""
    raise UserError(
        f"{slots} slots of {length} tokens take {needed / _GIB:.1f} GiB a device "
        f"({slots * slot / _GIB:.1f} GiB of keys and values, then {rows * prompt / _GIB:.1f} GiB "
        f"to read {rows} prompts or {slots * drawn / _GIB:.1f} GiB of logits), where "
        f"{free / _GIB:.1f} GiB are free: {fewer}"
        "lower EngineConfig.buckets, EngineConfig.max_batch_tokens or SamplingConfig.max_new_tokens"
    )


def _per_device(size: int, mesh: Mesh | None, *split: tuple[int, str]) -> float:
    """Returns the bytes on a device, of each row of a batch, that is `size` bytes over all of them.

    Args:
      size: bytes.
      mesh: splits the batch, and each row as well.
      split: (size, mesh axis) of the row's axes that are split if the devices divide them.

    The devices of a CPU are counted together, since they share the memory of their process.
    """
    if mesh is None:
        return size
    ways = partitioning.batch_ways(mesh)
    ways *= math.prod(mesh.shape[axis] for length, axis in split if length % mesh.shape[axis] == 0)
    return size * (len(mesh.local_devices) if _on_cpu(mesh) else 1) / ways


def _on_cpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


def _free_bytes(mesh: Mesh | None) -> int:
    """Returns the bytes that are free on a device; on a CPU, the machine's whole memory."""
    device = jax.local_devices()[0] if mesh is None else mesh.local_devices[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

"""What decides the last bits of the engine's results, besides the model and the request.

A product of matrices adds its terms in an order that follows from its shape on a device, and a sum
over devices in one that follows from the mesh. Tokens hardly ever differ for it, log-probabilities
and scores do in their last bits, so one stage is computed in one way from its first shard to its
last.
"""

from typing import Any

import jax
from jax.sharding import Mesh

from humpback_jax import partitioning
from humpback_jax.infer.engine import EngineConfig
from humpback_jax.infer.packing import BatchShape


def deciding(engine: EngineConfig) -> dict[str, Any]:
    """Returns what of the shapes decides more than last bits: which prompts fit, the cache."""
    return {name: getattr(engine, name) for name in ("buckets", "cache_dtype", "weights_dtype")}


def computation(engine: EngineConfig, mesh: Mesh | None) -> dict[str, Any]:
    """Returns what two processes must have in common to give the same bits, JSON-able.

    Replicas are not in it, but what one device of them computes is: 16 slots on two replicas are
    8 slots on one.

    Args:
      engine: the shapes.
      mesh: where the model runs; None for one device.
    """
    ways = 1 if mesh is None else partitioning.batch_ways(mesh)
    device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
    split = ("fsdp", "sequence", "tensor")  # over which XLA may split a sum
    return {
        "device": device.device_kind,
        "mesh": {axis: 1 if mesh is None else mesh.shape[axis] for axis in split},
        "slots_per_device": engine.slots_over(ways) // ways,
        "refilled_per_device": [_per_device(engine.refill(b, ways)) for b in engine.buckets],
        "scored_per_device": [_per_device(engine.scored(b, ways)) for b in engine.buckets],
    }


def _per_device(shape: BatchShape) -> list[int]:
    return [shape.rows, shape.tokens]

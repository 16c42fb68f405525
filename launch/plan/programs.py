"""The programs of a run, lowered for devices that are not there from shapes alone."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from humpback_jax import partitioning
from humpback_jax.errors import UsageError
from humpback_jax.infer import packing, steps
from humpback_jax.models import flops
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.init import abstract_params, boxed_params
from humpback_jax.partitioning import MeshConfig
from humpback_jax.train import fit
from humpback_jax.train import step as train_step
from humpback_jax.train.optimizer import make_optimizer
from launch.plan.settings import Settings
from launch.plan.topology import Topology


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A program ready to be compiled.

    Attributes:
      lowered: JAX's.
      mesh: the devices it is for.
      rows: sequences that it works on at once, over all devices.
      length: tokens of a row that it reads: of decode, those in the cache.
      tokens: that one run of it reads, or generates.
      flops: of its mathematics, over all devices (humpback_jax.models.flops).
      resident_bytes: weights and cache that a device reads at least once.
    """

    lowered: Any
    mesh: Mesh
    rows: int
    length: int
    tokens: int
    flops: float
    resident_bytes: int = 0


def lower(name: str, settings: Settings) -> Lowered:
    """Returns one of the PROGRAMS.

    Raises:
      UsageError: the mesh does not fit the slice, the model or the batch.
    """
    table: dict[str, Callable[[Settings], Lowered]] = {
        "train": lower_train,
        "prefill": lower_prefill,
        "decode": lower_decode,
    }
    return table[name](settings)


def lower_train(settings: Settings) -> Lowered:
    """Lowers the training step of the loop's last model."""
    train = settings.planned_train
    config = fit.training_config(settings.llama, train)
    mesh = _mesh(settings.mesh, settings.topology, config)
    fit.check(train, config, mesh)
    rows, length = train.batch_size, sum(train.feature_lengths.values())
    optimizer = make_optimizer(settings.optimizer, train.train_steps)
    shardings = train_step.state_shardings(config, optimizer, mesh)
    state = train_step.abstract_state(config, optimizer, shardings)
    one = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=partitioning.row_sharding(mesh))
    batch = dict.fromkeys(train_step.FEATURES, one)
    run: Any = train_step.make_train_step(config, optimizer, mesh, train)
    with partitioning.rules(mesh):
        lowered = run.jitted.lower(state, batch)
    tokens, work = rows * length, flops.train_flops(config, rows, length)
    return Lowered(lowered, mesh, rows, length, tokens, work)


def _mesh(mesh_config: MeshConfig, topology: Topology, config: LlamaConfig) -> Mesh:
    """Returns the mesh of a slice's devices, if it divides the model."""
    if mesh_config.slices != topology.slices:
        raise UsageError(
            f"MeshConfig.slices = {mesh_config.slices} but Topology.slices = {topology.slices}: "
            "bind both to the number of slices"
        )
    mesh = partitioning.make_mesh(mesh_config, topology.devices())
    partitioning.check_model(config, mesh)
    return mesh


def lower_prefill(settings: Settings) -> Lowered:
    """Lowers the reading of one batch of the longest bucket."""
    config, mesh = _inference(settings)
    program, params, inputs = _inference_arguments(settings, config, mesh)
    rows, length = inputs.limits.shape[0], settings.engine.buckets[-1]
    read = inputs.tokens.size
    with partitioning.rules(mesh):
        lowered = steps.prefill.lower(program, params, None, inputs)
    work = flops.forward_flops(config, read // length, length)
    # One position's logits for each row: the output projection does not see the others.
    work -= 2.0 * config.vocab_size * config.embed_dim * (read - rows)
    resident = _bytes_a_device(params)
    return Lowered(lowered, mesh, rows, length, read, work, resident)


def lower_decode(settings: Settings) -> Lowered:
    """Lowers the decode loop over all slots, each as long as it can get; its body is one token."""
    config, mesh = _inference(settings)
    program, params, _ = _inference_arguments(settings, config, mesh)
    slots = settings.engine.slots_over(partitioning.batch_ways(mesh))
    length = settings.engine.buckets[-1] + settings.sampling.max_new_tokens
    with partitioning.rules(mesh):
        state = jax.eval_shape(lambda: steps.free_slots(program, slots, length))
        state = jax.tree.map(lambda x: _placed_state(x, config, mesh), state)
        cancelled = jax.ShapeDtypeStruct(
            (slots,), jnp.bool_, sharding=partitioning.replicated(mesh)
        )
        count = jax.ShapeDtypeStruct((), jnp.int32, sharding=partitioning.replicated(mesh))
        lowered = steps.decode.lower(
            program, params, None, state, cancelled, count, count, window=length
        )
    work = flops.decode_flops(config, slots, length)
    resident = _bytes_a_device(params) + _bytes_a_device(state.cache)
    return Lowered(lowered, mesh, slots, length, slots, work, resident)


def _inference(settings: Settings) -> tuple[LlamaConfig, Mesh]:
    dtype = settings.inference_dtype
    config = dataclasses.replace(settings.llama, dtype=dtype, param_dtype=dtype)
    return config, _mesh(settings.inference_mesh, settings.topology, config)


def _inference_arguments(settings: Settings, config: LlamaConfig, mesh: Mesh):
    """Returns (program, abstract parameters, abstract inputs) of the longest bucket."""
    sampling = dataclasses.replace(settings.sampling, seed=0)  # as the engine does
    cache_dtype = settings.engine.cache_dtype
    program = steps.Program(config, mesh, sampling, (config.vocab_size - 1,), cache_dtype)
    shardings = partitioning.tree_shardings(boxed_params(config), mesh)
    params = jax.tree.map(_with_sharding, abstract_params(config), shardings)
    bucket = settings.engine.buckets[-1]
    shape = settings.engine.refill(bucket, partitioning.batch_ways(mesh))
    by_row = partitioning.batch_sharding(mesh)
    inputs = packing.pack((), (), (), (), shape)
    return program, params, jax.tree.map(lambda x: _with_sharding(x, by_row), inputs)


def _with_sharding(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _placed_state(x: Any, config: LlamaConfig, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """Places a leaf of the engine's state as prefill leaves it: the cache [L, B, K, S, H], rows."""
    spec = partitioning.batch_sharding(mesh).spec
    if x.ndim == 5:
        even = config.num_kv_heads % mesh.shape["tensor"] == 0
        spec = PartitionSpec(None, spec[0], "tensor" if even else None, None, None)
    return _with_sharding(x, NamedSharding(mesh, spec))


def _bytes_a_device(tree: Any) -> int:
    """Returns the bytes of a tree of abstract arrays that one device holds."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )

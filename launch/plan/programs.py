"""The programs of a run, lowered for devices that are not there from shapes alone."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from humpback_jax import partitioning
from humpback_jax.errors import UsageError
from humpback_jax.infer import layout, packing, steps
from humpback_jax.infer.packing import BatchShape
from humpback_jax.models import flops, sharding
from humpback_jax.models.config import INT8, LlamaConfig
from humpback_jax.models.dense import Form
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
      slot_bytes: of the keys and values of one of the engine's slots: (on each device that holds
        some of them, on all together).
      held_bytes: on each device, of what the engine holds besides: the slots, while it reads
        prompts.
    """

    lowered: Any
    mesh: Mesh
    rows: int
    length: int
    tokens: int
    flops: float
    resident_bytes: int = 0
    slot_bytes: tuple[int, int] = (0, 0)
    held_bytes: int = 0


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
    """Lowers the reading of as many prompts of the longest bucket as the engine reads together."""
    config, mesh = _inference(settings)
    program, params = _inference_arguments(settings, config, mesh)
    ways, bucket = partitioning.batch_ways(mesh), settings.engine.buckets[-1]
    shape = settings.engine.refill(bucket, ways)
    rows, tokens = shape.all_rows, shape.groups * shape.tokens
    with partitioning.rules(mesh):
        lowered = steps.prefill.lower(program, params, None, _inputs(shape, mesh))
    work = flops.forward_flops(config, tokens // bucket, bucket)
    # One position's logits for each row: the output projection does not see the others.
    work -= 2.0 * config.vocab_size * config.embed_dim * (tokens - rows)
    slots = _bytes_a_device(_slots(settings, program, mesh))
    resident = _bytes_a_device(params)
    return Lowered(lowered, mesh, rows, bucket, tokens, work, resident, held_bytes=slots)


def lower_decode(settings: Settings) -> Lowered:
    """Lowers the decode loop over all slots, each as long as it can get; its body is one token."""
    config, mesh = _inference(settings)
    program, params = _inference_arguments(settings, config, mesh)
    state = _slots(settings, program, mesh)
    slots, length = state.last.shape[0], state.cache.length
    whole = partitioning.replicated(mesh)
    cancelled = jax.ShapeDtypeStruct((slots,), jnp.bool_, sharding=whole)
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    with partitioning.rules(mesh):
        lowered = steps.decode.lower(
            program, params, None, state, cancelled, count, count, window=length
        )
    work, cache = flops.decode_flops(config, slots, length), _bytes_a_device(state.cache)
    ways = partitioning.batch_ways(mesh)
    slot = cache * ways // slots, cache * mesh.size // slots
    resident = _bytes_a_device(params) + cache
    return Lowered(lowered, mesh, slots, length, slots, work, resident, slot)


def _inference(settings: Settings) -> tuple[LlamaConfig, Mesh]:
    dtype = settings.inference_dtype
    config = dataclasses.replace(settings.llama, dtype=dtype, param_dtype=dtype)
    return config, _mesh(settings.inference_mesh, settings.topology, config)


def _inference_arguments(settings: Settings, config: LlamaConfig, mesh: Mesh):
    """Returns (program, abstract parameters)."""
    sampling = dataclasses.replace(settings.sampling, seed=0)  # as the engine does
    engine = settings.engine
    form = Form(int8=engine.weights_dtype == INT8)
    stop_ids = (config.vocab_size - 1,)
    program = steps.Program(config, mesh, sampling, stop_ids, engine.cache_dtype, form)
    shardings = layout.formats(partitioning.tree_shardings(boxed_params(config, form), mesh))
    return program, jax.tree.map(_with_sharding, abstract_params(config, form), shardings)


def _inputs(shape: BatchShape, mesh: Mesh) -> steps.Inputs:
    """Returns abstract prompts that are read together."""
    by_row, inputs = partitioning.batch_sharding(mesh), packing.pack((), (), (), (), shape)
    return jax.tree.map(lambda x: _with_sharding(x, by_row), inputs)


def _slots(settings: Settings, program: steps.Program, mesh: Mesh) -> steps.State:
    """Returns the engine's abstract slots for the longest bucket."""
    slots = settings.engine.slots_over(partitioning.batch_ways(mesh))
    length = settings.engine.buckets[-1] + settings.sampling.max_new_tokens
    with partitioning.rules(mesh):
        state = jax.eval_shape(lambda: steps.free_slots(program, slots, length))
        cache = jax.tree.map(lambda x: _placed(x, state.cache.axes[: x.ndim], mesh), state.cache)
    by_row = partitioning.batch_sharding(mesh)
    rest = dataclasses.replace(state, cache=None)
    rest = jax.tree.map(lambda x: _with_sharding(x, by_row), rest)
    return dataclasses.replace(rest, cache=cache)


def _with_sharding(x: Any, where: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)


def _placed(x: Any, axes: tuple[str | None, ...], mesh: Mesh) -> jax.ShapeDtypeStruct:
    """Places an array by its logical axes, under the mesh's rules."""
    return _with_sharding(x, NamedSharding(mesh, sharding.spec(x.shape, axes)))


def _bytes_a_device(tree: Any) -> int:
    """Returns the bytes of a tree of abstract arrays that one device holds."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )

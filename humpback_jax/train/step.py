"""The training state, the gradient and one jitted step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, Shaped

from humpback_jax import partitioning
from humpback_jax.models import sharding
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.init import abstract_params, boxed_params, init_params
from humpback_jax.models.llama import Llama
from humpback_jax.train import loss
from humpback_jax.train.config import TrainConfig


@flax.struct.dataclass
class TrainState:
    """All that a step changes."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any


# What a step reads of a batch, arrays [B, T] of int32; data/tasks.py says what they are.
FEATURES = (
    "decoder_target_tokens",
    "decoder_input_tokens",
    "decoder_loss_weights",
    "decoder_segment_ids",
    "decoder_positions",
)
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def init_state(config: LlamaConfig, optimizer: optax.GradientTransformation, key: jax.Array) -> Any:
    """Returns a fresh state whose parameters (and their moments) are boxed with logical axes."""
    params = init_params(config, key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def state_shardings(
    config: LlamaConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Returns the sharding of every leaf of the state; moments lie as their parameters do."""
    boxed = jax.eval_shape(lambda: init_state(config, optimizer, jax.random.key(0)))
    return partitioning.tree_shardings(boxed, mesh)


def apply_model(
    model: Llama,
    params: Any,
    batch: Batch,
    dropout_key: jax.Array | None,
    packed: bool = True,
) -> Float[Array, "B T V"]:
    """Returns the logits of a batch; without a dropout key nothing is dropped.

    Where rows hold one example each, padding comes last and causality alone hides it.
    """
    logits, _ = model.apply(
        {"params": params},
        batch["decoder_input_tokens"],
        batch["decoder_positions"],
        batch["decoder_segment_ids"] if packed else None,
        deterministic=dropout_key is None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    return logits


def _make_objective(config: LlamaConfig, train: TrainConfig) -> Callable[..., Any]:
    """Returns (params, batch, shares, dropout key or None) -> (objective, metrics as sums)."""
    model = Llama(config)

    def objective(params, batch: Batch, share, key: jax.Array | None):
        logits = apply_model(model, params, batch, key, train.pack)
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        value, metrics = loss.weighted_loss(
            logits, targets, weights, share, train.z_loss, train.label_smoothing
        )
        return value, {"loss": value, **metrics}

    return objective


def make_eval_step(
    config: LlamaConfig, mesh: Mesh, train: TrainConfig
) -> Callable[[Any, Batch], Metrics]:
    """Returns the jitted (params, batch) -> metrics as sums; nothing is dropped or smoothed."""
    plain = dataclasses.replace(train, label_smoothing=0.0, z_loss=0.0)
    objective = _make_objective(config, plain)

    def step(params, batch: Batch):
        return objective(params, batch, jnp.zeros(()), None)[1]

    jitted = jax.jit(step, out_shardings=partitioning.replicated(mesh))

    def run(params, batch):
        with partitioning.rules(mesh):
            return jitted(params, batch)

    return run


def make_gradient(config: LlamaConfig, train: TrainConfig) -> Callable[..., tuple[Any, Metrics]]:
    """Returns (params, batch, dropout key or None) -> (gradient, metrics as sums).

    With microbatches the batch is read in parts, one after the other, and their gradients are
    added up in float32: the result is the whole batch's but for rounding (and dropout's masks).
    """
    objective = _make_objective(config, train)

    def gradient(params, batch: Batch, key: jax.Array | None):
        weights, segments = batch["decoder_loss_weights"], batch["decoder_segment_ids"]
        share = loss.shares(weights, segments, train.loss_normalizing_factor)
        part = jax.grad(objective, has_aux=True)
        if train.microbatches == 1:
            return part(params, batch, share, key)

        def add(total, index):
            own, own_share = jax.tree.map(lambda x: x[index], parts)
            own_key = None if key is None else jax.random.fold_in(key, index)
            return jax.tree.map(jnp.add, total, part(params, own, own_share, own_key)), None

        parts = jax.tree.map(lambda x: _split(x, train.microbatches), (dict(batch), share))
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, jnp.float32),
            jax.eval_shape(part, params, *jax.tree.map(lambda x: x[0], parts), key),
        )
        total, _ = jax.lax.scan(add, zeros, jnp.arange(train.microbatches))
        return total

    return gradient


def _split(x: Shaped[Array, "B T"], parts: int) -> Shaped[Array, "parts b T"]:
    """Cuts a batch into parts that take their rows from every device alike, so that none moves."""
    cut = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
    return sharding.constrain(cut, (None, "batch", "length"))


def make_train_step(
    config: LlamaConfig, optimizer: optax.GradientTransformation, mesh: Mesh, train: TrainConfig
) -> StepFn:
    """Returns the jitted step (state, batch) -> (state, metrics); the state is donated.

    The dropout key of a step is fold_in(seed, step), so a resumed run draws what an uninterrupted
    one would have drawn.
    """
    gradient = make_gradient(config, train)

    def step(state: TrainState, batch: Batch):
        key = None
        if config.dropout_rate:
            key = jax.random.fold_in(jax.random.key(train.seed), state.step)
        grads, metrics = gradient(state.params, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        metrics["tokens"] = (batch["decoder_segment_ids"] > 0).sum()
        return TrainState(state.step + 1, params, opt_state), metrics

    shardings = state_shardings(config, optimizer, mesh)
    jitted = jax.jit(
        step,
        in_shardings=(shardings, partitioning.row_sharding(mesh)),
        out_shardings=(shardings, partitioning.replicated(mesh)),
        donate_argnums=0,
    )

    def run(state, batch):
        with partitioning.rules(mesh):
            return jitted(state, batch)

    run.jitted = jitted  # for those who lower it or count its compilations
    return run


def make_state(
    config: LlamaConfig, params: Any, optimizer: optax.GradientTransformation, shardings: TrainState
) -> TrainState:
    """Returns the state of step 0 around given parameters, every leaf placed.

    Parameters of 16 bits, as checkpoints have them, become those of the state: float32.
    """
    wanted = abstract_params(config)

    def build(params):
        params = jax.tree.map(lambda x, to: x.astype(to.dtype), params, wanted)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return jax.jit(build, out_shardings=shardings)(params)


def fresh_state(
    config: LlamaConfig, optimizer: optax.GradientTransformation, shardings: TrainState, seed: int
) -> TrainState:
    """Returns the state of step 0 with parameters drawn by `seed`, every leaf placed."""
    init = jax.jit(
        lambda key: nn.unbox(init_state(config, optimizer, key)), out_shardings=shardings
    )
    return init(jax.random.key(seed))


def abstract_state(
    config: LlamaConfig, optimizer: optax.GradientTransformation, shardings: TrainState
) -> TrainState:
    """Returns the state's ShapeDtypeStructs with their shardings, the target of a restore."""
    plain = nn.unbox(jax.eval_shape(lambda: init_state(config, optimizer, jax.random.key(0))))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), plain, shardings
    )


def describe_parameters(config: LlamaConfig, mesh: Mesh) -> str:
    """Returns model-info.txt: each parameter's shape, logical axes and partition spec."""
    boxed = boxed_params(config)
    shardings: Any = partitioning.tree_shardings(boxed, mesh)
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=lambda leaf: hasattr(leaf, "names"))
    named = [(jax.tree_util.keystr(p, simple=True, separator="/"), leaf) for p, leaf in leaves]
    specs: list[NamedSharding] = jax.tree.leaves(shardings)
    lines = [
        f"{name:32} {leaf.value.shape!s:24} {leaf.names!s:44} {s.spec}"
        for (name, leaf), s in zip(named, specs, strict=True)
    ]
    return "\n".join([*lines, f"Total number of parameters: {config.num_parameters}"]) + "\n"

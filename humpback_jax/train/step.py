"""The training state, the loss and one jitted step."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from humpback_jax import partitioning
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.init import boxed_params, init_params
from humpback_jax.models.llama import Llama


@flax.struct.dataclass
class TrainState:
    """All that a step changes."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any


StepFn = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]


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


def loss_fn(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], weights: Int[Array, "B T"]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns (cross entropy in nats a weighted token, metrics as sums over those tokens)."""
    weights = weights.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets) * weights
    count = weights.sum()
    right = (jnp.argmax(logits, axis=-1) == targets) * weights
    metrics = {"loss_sum": losses.sum(), "right": right.sum(), "target_tokens": count}
    return losses.sum() / jnp.maximum(count, 1.0), metrics


def apply_model(
    model: Llama, params: Any, batch: Mapping[str, jax.Array], dropout_key: jax.Array | None
) -> Float[Array, "B T V"]:
    """Returns the logits of a batch; without a dropout key nothing is dropped."""
    logits, _ = model.apply(
        {"params": params},
        batch["decoder_input_tokens"],
        batch["decoder_positions"],
        batch["decoder_segment_ids"],
        deterministic=dropout_key is None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    return logits


def make_train_step(
    config: LlamaConfig, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int
) -> StepFn:
    """Returns the jitted step (state, batch) -> (state, metrics); the state is donated.

    The dropout key of a step is fold_in(seed, step), so a resumed run draws what an uninterrupted
    one would have drawn.
    """
    model = Llama(config)
    base_key = jax.random.key(seed)

    def step(state: TrainState, batch: Mapping[str, jax.Array]):
        dropout_key = None
        if config.dropout_rate:
            dropout_key = jax.random.fold_in(base_key, state.step)

        def objective(params):
            logits = apply_model(model, params, batch, dropout_key)
            return loss_fn(logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"])

        grads, metrics = jax.grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        metrics["non_padding"] = (batch["decoder_segment_ids"] > 0).mean()
        return TrainState(state.step + 1, params, opt_state), metrics

    shardings = state_shardings(config, optimizer, mesh)
    jitted = jax.jit(
        step,
        in_shardings=(shardings, partitioning.batch_sharding(mesh)),
        out_shardings=(shardings, partitioning.replicated(mesh)),
        donate_argnums=0,
    )

    def run(state, batch):
        with partitioning.rules(mesh):
            return jitted(state, batch)

    run.jitted = jitted  # for those who count its compilations
    return run


def make_state(
    params: Any, optimizer: optax.GradientTransformation, shardings: TrainState
) -> TrainState:
    """Returns the state of step 0 around given parameters, every leaf placed."""

    def build(params):
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return jax.jit(build, out_shardings=shardings)(params)


def abstract_state(
    config: LlamaConfig, optimizer: optax.GradientTransformation, shardings: TrainState
) -> TrainState:
    """Returns the state's ShapeDtypeStructs with their shardings, the target of a restore."""
    plain = nn.unbox(jax.eval_shape(lambda: init_state(config, optimizer, jax.random.key(0))))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), plain, shardings
    )


def _path(path: tuple[Any, ...]) -> str:
    return "/".join(str(key.key) for key in path)


def describe_parameters(config: LlamaConfig, mesh: Mesh) -> str:
    """Returns model-info.txt: each parameter's shape, logical axes and partition spec."""
    boxed = boxed_params(config)
    shardings: Any = partitioning.tree_shardings(boxed, mesh)
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=lambda leaf: hasattr(leaf, "names"))
    specs: list[NamedSharding] = jax.tree.leaves(shardings)
    lines = [
        f"{_path(path):32} {leaf.value.shape!s:24} {leaf.names!s:44} {s.spec}"
        for (path, leaf), s in zip(leaves, specs, strict=True)
    ]
    return "\n".join([*lines, f"Total number of parameters: {config.num_parameters}"]) + "\n"

"""The training loop: restore or begin, step, log, checkpoint, leave a model folder behind."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from etils import epath

from humpback_jax import partitioning, rundir
from humpback_jax.checkpoints import bundle, orbax
from humpback_jax.data.tasks import BatchIterator, Part, make_mixture
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UsageError, UserError
from humpback_jax.models.config import LlamaConfig
from humpback_jax.progress import Progress
from humpback_jax.train import step as train_step
from humpback_jax.train.config import TrainConfig
from humpback_jax.train.log import MetricsLog
from humpback_jax.train.optimizer import OptimizerConfig, make_optimizer, make_schedule


@dataclasses.dataclass(frozen=True)
class Run:
    """What a training run is made from, apart from its numbers.

    Attributes:
      model_dir: T5X's MODEL_DIR: checkpoint_<step>/, train/metrics.jsonl, model-info.txt.
      llama: the model's configuration.
      params: the initial parameters, a plain tree; None begins from fresh ones.
      tokenizer: the model's.
      eos_ids: what ends a generation of the trained model.
      parts: the mixture.
      mesh: the devices.
    """

    model_dir: epath.Path
    llama: LlamaConfig
    params: Any
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    parts: Sequence[Part]
    mesh: jax.sharding.Mesh


def train(run: Run, config: TrainConfig, optimizer_config: OptimizerConfig) -> bundle.ModelCard:
    """Trains to the last step, from the newest checkpoint if there is one.

    Returns:
      The card of the model folder that `run.model_dir` then is.
    """
    _check_batch(config, run)
    llama = dataclasses.replace(
        run.llama,
        dropout_rate=config.dropout_rate,
        remat=config.remat,
        dtype=config.dtype or run.llama.dtype,
    )
    optimizer = make_optimizer(optimizer_config, config.train_steps)
    shardings = train_step.state_shardings(llama, optimizer, run.mesh)
    information = train_step.describe_parameters(llama, run.mesh)
    rundir.write_atomic(run.model_dir / "model-info.txt", information)
    batches = _make_batches(run, config)
    with orbax.manager(run.model_dir, config.keep_checkpoints) as checkpointer:
        latest = orbax.latest_step(checkpointer)
        if latest is None:
            params = _initial_params(run, llama, config.seed)
            start = train_step.make_state(params, optimizer, shardings)
        else:
            target = train_step.abstract_state(llama, optimizer, shardings)
            start, data = orbax.restore(checkpointer, latest, target)
            batches.restore(data)
        step_fn = train_step.make_train_step(llama, optimizer, run.mesh, config.seed)
        schedule = make_schedule(optimizer_config, config.train_steps)
        state, first = start, latest or 0
        with Progress(run.model_dir.name, config.train_steps, first) as progress:
            for step, state in _steps(
                run, config, start, first, step_fn, schedule, batches, progress
            ):
                orbax.save(checkpointer, step, state, batches.state())
    fingerprint = orbax.digest(state.params)
    checkpoint = f"checkpoint_{config.train_steps}"
    card = bundle.ModelCard(run.llama, run.eos_ids, fingerprint, checkpoint)
    bundle.write_card(run.model_dir, card, run.tokenizer)
    return card


def _steps(
    run: Run,
    config: TrainConfig,
    state: train_step.TrainState,
    first: int,
    step_fn: train_step.StepFn,
    schedule: optax.Schedule,
    batches: BatchIterator,
    progress: Progress,
) -> Iterator[tuple[int, train_step.TrainState]]:
    """Trains from step `first` on, logs, and yields (step, state) whenever one is to be saved."""
    log = MetricsLog(run.model_dir, first)
    pending: list[dict[str, jax.Array]] = []
    for step in range(first + 1, config.train_steps + 1):
        state, metrics = step_fn(state, _place(next(batches), run.mesh))
        pending.append(metrics)
        saving = step == config.train_steps or step % config.checkpoint_period == 0
        if saving or step % config.log_period == 0:
            row = _summarise(step, pending, float(np.asarray(schedule(step - 1))))
            _check_finite(row, run.model_dir)
            log.write(row)
            progress.update(step, f"loss {row['loss']:.4f}")
            pending = []
        if saving:
            yield step, state


def _check_batch(config: TrainConfig, run: Run) -> None:
    length = sum(config.feature_lengths.values())
    if length > run.llama.max_length:
        raise UsageError(
            f"rows of {length} tokens are longer than the model's {run.llama.max_length}: lower "
            "TASK_FEATURE_LENGTHS"
        )
    ways = run.mesh.shape["data"] * run.mesh.shape["fsdp"]
    if config.batch_size % ways:
        raise UsageError(
            f"a batch of {config.batch_size} rows cannot be split over data x fsdp = {ways} "
            "devices: bind BATCH_SIZE to a multiple"
        )


def _make_batches(run: Run, config: TrainConfig) -> BatchIterator:
    mixture = make_mixture(f"humpback_{run.model_dir.name}", run.parts, run.tokenizer.vocab_size)
    return BatchIterator(
        mixture,
        config.feature_lengths,
        config.batch_size,
        run.tokenizer.bos_id,
        config.seed,
        config.pack,
    )


def _initial_params(run: Run, llama: LlamaConfig, seed: int) -> Any:
    if run.params is not None:
        return run.params
    init = jax.jit(lambda key: train_step.nn.unbox(train_step.init_params(llama, key)))
    return init(jax.random.key(seed))


def _place(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Puts the arrays that a step reads on the mesh, split over the batch."""
    names = ("target_tokens", "input_tokens", "loss_weights", "segment_ids", "positions")
    wanted = {f"decoder_{name}": batch[f"decoder_{name}"] for name in names}
    return jax.device_put(wanted, partitioning.batch_sharding(mesh))


def _summarise(step: int, sums: Sequence[dict[str, Any]], rate: float) -> dict[str, float]:
    """Returns a log line: means over the target tokens of the steps since the last one."""
    total = {k: float(np.sum([np.float64(m[k]) for m in sums])) for k in sums[0]}
    tokens = max(total["target_tokens"], 1.0)
    return {
        "step": step,
        "loss": total["loss_sum"] / tokens,
        "accuracy": total["right"] / tokens,
        "learning_rate": rate,
        "grad_norm": total["grad_norm"] / len(sums),
        "target_tokens": total["target_tokens"],
        "non_padding_fraction": total["non_padding"] / len(sums),
    }


def _check_finite(row: dict[str, float], model_dir: epath.Path) -> None:
    if not math.isfinite(row["loss"]) or not math.isfinite(row["grad_norm"]):
        raise UserError(
            f"{model_dir.name}: the loss is {row['loss']} at step {row['step']}: lower "
            f"OptimizerConfig.learning_rate, delete {model_dir} and run again"
        )

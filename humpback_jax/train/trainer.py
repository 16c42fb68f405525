"""The training loop: restore or begin, step, log, checkpoint, leave a model folder behind."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from etils import epath

from humpback_jax import distributed, partitioning, rundir
from humpback_jax.checkpoints import bundle, orbax
from humpback_jax.data import tasks
from humpback_jax.data.tasks import BatchIterator, Part, make_mixture
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import PreemptedError, UserError
from humpback_jax.models.config import LlamaConfig
from humpback_jax.progress import Progress
from humpback_jax.train import fit
from humpback_jax.train import step as train_step
from humpback_jax.train.config import TrainConfig
from humpback_jax.train.evaluation import Validation
from humpback_jax.train.log import eval_folder, read_metrics
from humpback_jax.train.optimizer import OptimizerConfig, make_optimizer, make_schedule
from humpback_jax.train.preemption import PreemptionWatch
from humpback_jax.train.step import TrainState
from humpback_jax.train.window import Failure, Row, Window
from humpback_jax.train.writers import make_writer


@dataclasses.dataclass(frozen=True)
class Run:
    """What a training run is made from, apart from its numbers.

    Attributes:
      model_dir: T5X's MODEL_DIR: checkpoint_<step>/, train/metrics.jsonl, model-info.txt.
      llama: the model's configuration.
      load_params: gives the initial parameters, a plain tree; called only when there is no
        checkpoint to go on from. None begins from fresh ones.
      tokenizer: the model's.
      eos_ids: what ends a generation of the trained model.
      parts: the mixture.
      mesh: the devices.
      validation: examples whose loss is measured every TrainConfig.eval_period steps.
    """

    model_dir: epath.Path
    llama: LlamaConfig
    load_params: Callable[[], Any] | None
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    parts: Sequence[Part]
    mesh: jax.sharding.Mesh
    validation: Sequence[tasks.TokenizedExample] = ()


def train(run: Run, config: TrainConfig, optimizer_config: OptimizerConfig) -> bundle.ModelCard:
    """Trains to the last step, from the newest checkpoint if there is one.

    Returns:
      The card of the model folder that `run.model_dir` then is.

    Raises:
      UsageError: the batch, the rows or the model do not fit the mesh or each other.
      UserError: the loss is no number or diverges, or a checkpoint cannot be written or read.
      PreemptedError: SIGTERM came; the step at hand is saved.
    """
    llama = fit.training_config(run.llama, config)
    fit.check(config, llama, run.mesh)
    optimizer = make_optimizer(optimizer_config, config.train_steps)
    if distributed.is_primary():
        information = train_step.describe_parameters(llama, run.mesh)
        rundir.write_atomic(run.model_dir / "model-info.txt", information)
    batches = _make_batches(run, config)
    with orbax.Checkpointer(run.model_dir, config.keep_checkpoints) as checkpointer:
        state, first = _restore_or_begin(run, config, llama, optimizer, checkpointer, batches)
        step_fn = train_step.make_train_step(llama, optimizer, run.mesh, config)
        schedule = make_schedule(optimizer_config, config.train_steps)
        loop = _Loop(run, config, llama, step_fn, schedule, batches, checkpointer)
        state = loop.steps(state, first)
    card = bundle.ModelCard(
        dataclasses.replace(run.llama, param_dtype=llama.param_dtype),
        run.eos_ids,
        orbax.digest(state.params),
        orbax.step_path(run.model_dir, config.train_steps).name,
    )
    if distributed.is_primary():
        bundle.write_card(run.model_dir, card, run.tokenizer)
    return card


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


def _restore_or_begin(
    run, config, llama, optimizer, checkpointer: orbax.Checkpointer, batches
) -> tuple[TrainState, int]:
    """Returns (the state, its step), and sets the batches to what follows it."""
    shardings = train_step.state_shardings(llama, optimizer, run.mesh)
    latest = checkpointer.latest
    if latest is None:
        if run.load_params is not None:
            return train_step.make_state(llama, run.load_params(), optimizer, shardings), 0
        return train_step.fresh_state(llama, optimizer, shardings, config.seed), 0
    target = train_step.abstract_state(llama, optimizer, shardings)
    state, data = checkpointer.restore(latest, target)
    batches.restore(data)
    return state, latest


class _Loop:
    """The steps of one training and what goes on beside them."""

    def __init__(self, run, config, llama, step_fn, schedule, batches, checkpointer):
        self._run: Run = run
        self._config: TrainConfig = config
        self._llama: LlamaConfig = llama
        self._step_fn: train_step.StepFn = step_fn
        self._schedule = schedule
        self._batches: BatchIterator = batches
        self._checkpointer: orbax.Checkpointer = checkpointer

    def steps(self, state: TrainState, first: int) -> TrainState:
        """Trains from step `first` on; returns the last state, which is saved."""
        config, model_dir = self._config, self._run.model_dir
        before = [row for row in read_metrics(model_dir) if row["step"] <= first]
        window = Window(self._llama, self._run.mesh.size, before)
        validation = self._validation(first)
        name, total = model_dir.name, config.train_steps
        with (
            contextlib.closing(make_writer(model_dir, first)) as writer,
            Progress(name, total, first) as progress,
            PreemptionWatch() as watch,
        ):
            for step in range(first + 1, total + 1):
                state = self._step(state, step, step == first + 1, window)
                preempted = watch.reached(step)
                saving = preempted or step == total or step % config.checkpoint_period == 0
                if saving or step % config.log_period == 0:
                    row = self._close(window, step)
                    writer.write_scalars(step, row)
                    progress.update(step, _describe(row, total - step))
                    self._checkpointer.check()
                if saving:
                    self._save(step, state, window)
                if validation is not None and step % config.eval_period == 0:
                    began = time.monotonic()
                    validation.run(state.params, step)
                    window.paused(time.monotonic() - began)
                if preempted:
                    self._end_early(step)
        return state

    def _validation(self, first: int) -> Validation | None:
        run, config = self._run, self._config
        if not run.validation or not config.eval_period:
            return None
        part = Part("pairs", run.validation, 1.0)
        name = f"humpback_{run.model_dir.name}_validation"
        mixture = make_mixture(name, [part], run.tokenizer.vocab_size)
        batches = self._batches.in_order(mixture, config.batch_size // config.microbatches)
        return Validation(
            train_step.make_eval_step(self._llama, run.mesh, config),
            [place(batch, run.mesh) for batch in batches],
            make_writer(run.model_dir, first, eval_folder("validation")),
        )

    def _step(self, state: TrainState, step: int, is_first: bool, window: Window) -> TrainState:
        began = time.monotonic()
        batch = next(self._batches)  # the first one waits for the data's start as well
        state, metrics = self._step_fn(state, place(batch, self._run.mesh))
        if is_first:  # the step's call returns when it is compiled, not when it is done
            window.compiled(time.monotonic() - began)
        window.add(step, batch, metrics)
        return state

    def _close(self, window: Window, step: int) -> Row:
        """Returns the log line of the window; raises UserError if a step of it has failed."""
        failure = window.failure(self._config.divergence)
        if failure is not None:
            raise self._failed(failure)
        return window.close(float(np.asarray(self._schedule(step - 1))))

    def _failed(self, failure: Failure) -> UserError:
        """Writes down the batch of a failed step, and says what to do."""
        model_dir = self._run.model_dir
        ids = tasks.example_ids(failure.batch, self._run.parts)
        path = model_dir / "train" / f"failed_step_{failure.step}.json"
        if distributed.is_primary():
            content = {"step": failure.step, "reason": failure.reason, "example_ids": ids}
            rundir.write_json(path, content)
        self._checkpointer.wait()
        latest = self._checkpointer.latest
        good = "none was saved" if latest is None else f"the last is checkpoint_{latest}"
        some = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
        return UserError(
            f"{model_dir.name} stopped at step {failure.step}, where {failure.reason} (examples "
            f"{some}, all in {path}); of the good checkpoints {good}: lower "
            f"OptimizerConfig.learning_rate or leave out what is wrong, delete {model_dir} and run "
            "again"
        )

    def _save(self, step: int, state: TrainState, window: Window) -> None:
        if self._checkpointer.latest == step:
            return
        began = time.monotonic()
        self._checkpointer.save(step, state, self._batches.state())
        window.paused(time.monotonic() - began, checkpoint=True)

    def _end_early(self, step: int) -> None:
        self._checkpointer.wait()
        raise PreemptedError(
            f"{self._run.model_dir.name} was told to end (SIGTERM) and is saved at step {step} of "
            f"{self._config.train_steps}: run the same command again to go on"
        )


def place(batch: tasks.Batch, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Puts the arrays that a step reads on the mesh; each process gives what its devices hold."""
    sharding = partitioning.row_sharding(mesh)

    def put(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return {name: put(batch[name]) for name in train_step.FEATURES}


def _describe(row: Row, left: int) -> str:
    """Returns the progress line's detail: loss 1.2345, 5812 tokens/s, MFU 43 %, 3:20 left."""
    seconds = left / max(row["timing/steps_per_second"], 1e-9)
    parts = [f"loss {row['loss']:.4f}", f"{row['timing/tokens_per_second']:.0f} tokens/s"]
    if "timing/mfu" in row:
        parts.append(f"MFU {100 * row['timing/mfu']:.0f} %")
    if left:
        parts.append(f"{tqdm.tqdm.format_interval(seconds)} left")
    return ", ".join(parts)

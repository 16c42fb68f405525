"""The training loop: restore or begin, step, log, checkpoint, leave a model folder behind."""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import gin
import jax
import numpy as np
import tqdm
from etils import epath

from humpback_jax import partitioning, rundir
from humpback_jax.checkpoints import bundle, orbax
from humpback_jax.data.tasks import BatchIterator, Part, make_mixture
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UsageError, UserError
from humpback_jax.models.config import LlamaConfig
from humpback_jax.train import step as train_step
from humpback_jax.train.optimizer import OptimizerConfig, make_optimizer, make_schedule


@gin.configurable(module="humpback_jax")
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
      train_steps: optimizer steps.
      batch_size: rows of a batch; a row holds one example, or several when packed.
      feature_lengths: the most tokens of "inputs" and "targets"; a row has their sum.
      pack: several examples a row, none attending to another.
      dropout_rate: the paper's 0.1.
      seed: of the data order, dropout and fresh parameters.
      checkpoint_period: steps between checkpoints; the last step is always saved.
      log_period: steps between lines of train/metrics.jsonl.
      keep_checkpoints: how many of the newest are kept.
      replay_rate: share of the rows drawn from the base's own pretraining text, against
        forgetting in very small models; 0 as in the paper.
    """

    train_steps: int
    batch_size: int = 32
    feature_lengths: dict[str, int] = dataclasses.field(
        default_factory=lambda: {"inputs": 1024, "targets": 1024}
    )
    pack: bool = False
    dropout_rate: float = 0.1
    seed: int = 0
    checkpoint_period: int = 1000
    log_period: int = 10
    keep_checkpoints: int = 1
    replay_rate: float = 0.0

    def __post_init__(self):
        if self.train_steps < 1 or self.batch_size < 1:
            raise UsageError(
                f"TrainConfig has {self.train_steps} steps of {self.batch_size} rows: both must be "
                "at least 1"
            )
        if set(self.feature_lengths) != {"inputs", "targets"}:
            raise UsageError(
                f"TrainConfig.feature_lengths = {self.feature_lengths}: give 'inputs' and 'targets'"
            )
        if not 0 <= self.replay_rate < 1:
            raise UsageError(f"TrainConfig.replay_rate = {self.replay_rate} is not in [0, 1)")


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
    llama = dataclasses.replace(run.llama, dropout_rate=config.dropout_rate)
    _check_batch(config, run.mesh)
    optimizer = make_optimizer(optimizer_config, config.train_steps)
    shardings = train_step.state_shardings(llama, optimizer, run.mesh)
    rundir.write_atomic(
        run.model_dir / "model-info.txt", train_step.describe_parameters(llama, run.mesh)
    )
    batches = _make_batches(run, config)
    step_fn = train_step.make_train_step(llama, optimizer, run.mesh, config.seed)
    with orbax.manager(run.model_dir, config.keep_checkpoints) as checkpointer:
        latest = orbax.latest_step(checkpointer)
        if latest is None:
            params = _initial_params(run, llama, config.seed)
            state = train_step.make_state(params, optimizer, shardings)
        else:
            target = train_step.abstract_state(llama, optimizer, shardings)
            state, data = orbax.restore(checkpointer, latest, target)
            batches.restore(data)
        log = MetricsLog(run.model_dir, latest or 0)
        schedule = make_schedule(optimizer_config, config.train_steps)
        progress = Progress(run.model_dir.name, config.train_steps, latest or 0)
        sums: list[dict[str, jax.Array]] = []
        for step in range((latest or 0) + 1, config.train_steps + 1):
            state, metrics = step_fn(state, _place(next(batches), run.mesh))
            sums.append(metrics)
            last = step == config.train_steps
            saving = last or step % config.checkpoint_period == 0
            if saving or step % config.log_period == 0:
                row = _summarise(step, sums, float(schedule(step - 1)))
                _check_finite(row, run.model_dir)
                log.write(row)
                progress.show(step, row)
                sums = []
            if saving:
                orbax.save(checkpointer, step, state, batches.state())
        progress.close()
    card = bundle.ModelCard(
        run.llama,
        run.eos_ids,
        orbax.digest(state.params),
        f"checkpoint_{config.train_steps}",
    )
    bundle.write_card(run.model_dir, card, run.tokenizer)
    return card


def _check_batch(config: TrainConfig, mesh: jax.sharding.Mesh) -> None:
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if config.batch_size % ways:
        raise UsageError(
            f"a batch of {config.batch_size} rows cannot be split over data x fsdp = {ways} "
            "devices: bind BATCH_SIZE to a multiple"
        )


def _make_batches(run: Run, config: TrainConfig) -> BatchIterator:
    mixture = make_mixture(
        f"humpback_{run.model_dir.name}", run.parts, run.tokenizer.vocab_size
    )
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
    total = {k: float(sum(np.asarray(m[k], np.float64) for m in sums)) for k in sums[0]}
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
            "OptimizerConfig.learning_rate and run again from the last checkpoint"
        )


class MetricsLog:
    """train/metrics.jsonl; lines after the step that a run resumes from are taken back."""

    def __init__(self, model_dir: epath.Path, step: int):
        self._path = model_dir / "train" / "metrics.jsonl"
        self._rows = [row for row in read_metrics(model_dir) if row["step"] <= step]
        self._started = time.monotonic()
        self._offset = self._rows[-1]["seconds"] if self._rows else 0.0

    def write(self, row: dict[str, float]) -> None:
        """Adds a line, with the seconds since the training began."""
        seconds = self._offset + time.monotonic() - self._started
        self._rows.append({**row, "seconds": round(seconds, 3)})
        lines = "".join(json.dumps(row) + "\n" for row in self._rows)
        rundir.write_atomic(self._path, lines)


def read_metrics(model_dir: epath.PathLike) -> list[dict[str, float]]:
    """Returns the lines of a training run's train/metrics.jsonl, none if there is no such file."""
    path = epath.Path(model_dir) / "train" / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


class Progress:
    """A bar on a terminal; elsewhere a plain line for about every tenth of the steps."""

    def __init__(self, name: str, steps: int, first: int):
        self._name, self._steps, self._shown = name, steps, first
        terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(total=steps, initial=first, desc=name, disable=not terminal)
        self._plain = not terminal

    def show(self, step: int, row: dict[str, float]) -> None:
        self._bar.set_postfix(loss=f"{row['loss']:.3f}")
        self._bar.update(step - self._bar.n)
        if self._plain and (step - self._shown >= self._steps / 10 or step == self._steps):
            self._shown = step
            print(f"{self._name}: step {step}/{self._steps}, loss {row['loss']:.4f}", flush=True)

    def close(self) -> None:
        self._bar.close()

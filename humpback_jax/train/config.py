"""The numbers of a training run; free of TensorFlow, so that any command can read them."""

import dataclasses

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError

LOSS_NORMALIZERS = ("NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE")
_AT_LEAST_ONE = (
    "train_steps",
    "batch_size",
    "checkpoint_period",
    "log_period",
    "keep_checkpoints",
    "microbatches",
)


@configurable
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
      eval_period: steps between measurements of the loss on Run.validation; 0 for none.
      keep_checkpoints: how many of the newest are kept.
      microbatches: parts that a batch is read in, one after the other, to save memory.
      z_loss: coefficient of the squared log-normaliser, T5X's Z_LOSS.
      label_smoothing: T5X's LABEL_SMOOTHING.
      loss_normalizing_factor: "NUM_REAL_TARGET_TOKENS" lets every target token count alike,
        "AVERAGE_PER_SEQUENCE" every example.
      divergence: stop when the loss is so many nats above the lowest so far; 0 for never.
      remat: what the backward pass recomputes, as LlamaConfig.remat; "full" for large models.
      attention: as LlamaConfig.attention.
      dtype: of the computation, "bfloat16" on TPU and GPU; "" keeps the base model's.
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
    eval_period: int = 0
    keep_checkpoints: int = 1
    microbatches: int = 1
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    loss_normalizing_factor: str = "NUM_REAL_TARGET_TOKENS"
    divergence: float = 4.0
    remat: str = "none"
    attention: str = "auto"
    dtype: str = ""
    replay_rate: float = 0.0

    def __post_init__(self):
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise UsageError(
                    f"TrainConfig.{name} is {getattr(self, name)}: it must be at least 1"
                )
        lengths = self.feature_lengths
        if set(lengths) != {"inputs", "targets"} or lengths["inputs"] < 0 or lengths["targets"] < 1:
            raise UsageError(
                f"TrainConfig.feature_lengths = {lengths}: give 'inputs' and, at least 1, 'targets'"
            )
        for name in ("z_loss", "divergence", "eval_period"):
            if getattr(self, name) < 0:
                raise UsageError(
                    f"TrainConfig.{name} is {getattr(self, name)}: it must not be negative"
                )
        for name in ("replay_rate", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"TrainConfig.{name} = {getattr(self, name)} is not in [0, 1)")
        if self.loss_normalizing_factor not in LOSS_NORMALIZERS:
            raise UsageError(
                f"TrainConfig.loss_normalizing_factor = {self.loss_normalizing_factor!r}: choose "
                f"one of {LOSS_NORMALIZERS}"
            )
        if self.batch_size % self.microbatches:
            raise UsageError(
                f"TrainConfig.microbatches = {self.microbatches} does not divide the batch of "
                f"{self.batch_size} rows: choose a divisor"
            )

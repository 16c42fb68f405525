"""The numbers of a training run; free of TensorFlow, so that any command can read them."""

import dataclasses

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError

_AT_LEAST_ONE = (
    "train_steps",
    "batch_size",
    "checkpoint_period",
    "log_period",
    "keep_checkpoints",
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
      keep_checkpoints: how many of the newest are kept.
      remat: what the backward pass recomputes, as LlamaConfig.remat; "full" for large models.
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
    keep_checkpoints: int = 1
    remat: str = "none"
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
        if not 0 <= self.replay_rate < 1:
            raise UsageError(f"TrainConfig.replay_rate = {self.replay_rate} is not in [0, 1)")

"""AdamW and its schedule, built once so that the logged learning rate is the one in use."""

import dataclasses
from typing import Any

import jax
import optax

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError

SCHEDULES = ("linear", "cosine")


@configurable
@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW as the paper trains: 1e-5 falling linearly to 9e-6, weight decay 0.1 (section 3.1).

    Attributes:
      learning_rate: at the end of the warm-up.
      final_learning_rate: at the last step.
      schedule: "linear" or "cosine" between the two.
      warmup_steps: linear from 0 (the paper reports none).
      weight_decay: on matrices and the embedding, not on norms.
      b1: decay of the first moment.
      b2: decay of the second moment (not reported; LLaMA's 0.95).
      eps: of Adam.
      clip_norm: largest global norm of the gradient (not reported; LLaMA's 1.0).
    """

    learning_rate: float = 1e-5
    final_learning_rate: float = 9e-6
    schedule: str = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise UsageError(f"OptimizerConfig.schedule = {self.schedule!r}: choose of {SCHEDULES}")
        if self.learning_rate <= 0:
            raise UsageError(
                f"OptimizerConfig.learning_rate = {self.learning_rate}: it must be above 0"
            )
        for name in ("final_learning_rate", "warmup_steps", "weight_decay", "b1", "b2", "eps"):
            if getattr(self, name) < 0:
                raise UsageError(
                    f"OptimizerConfig.{name} = {getattr(self, name)}: it must not be negative"
                )


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step, 0 to `steps`."""
    length = max(1, steps - config.warmup_steps)
    if config.schedule == "linear":
        decay = optax.linear_schedule(config.learning_rate, config.final_learning_rate, length)
    else:
        alpha = config.final_learning_rate / config.learning_rate
        decay = optax.cosine_decay_schedule(config.learning_rate, length, alpha)
    if not config.warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Returns clipping and AdamW under the schedule of `make_schedule`."""
    adamw = optax.adamw(
        make_schedule(config, steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=_decayed,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


def _decayed(params: Any) -> Any:
    """Returns which leaves decay: all but the norms' scales."""

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        return all(getattr(key, "key", None) != "scale" for key in path)

    return jax.tree_util.tree_map_with_path(decays, params)

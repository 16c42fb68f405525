"""The steps between two lines of the log: their metrics, their time, and whether they are sane."""

import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np

from humpback_jax.data.tasks import Batch
from humpback_jax.hardware import chip_of
from humpback_jax.models import flops
from humpback_jax.models.config import LlamaConfig

Row = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A step whose loss cannot be trained on."""

    step: int
    reason: str
    batch: Batch


def per_token(total: Row) -> Row:
    """Returns T5X's metrics of sums over target tokens; the losses are in nats a token."""
    tokens = max(total["target_tokens"], 1.0)
    whole = total["cross_ent_sum"] + total["z_loss_sum"]
    return {
        "cross_ent_loss": total["cross_ent_sum"] / tokens,
        "z_loss": total["z_loss_sum"] / tokens,
        "loss_per_nonpadding_target_token": whole / tokens,
        "accuracy": total["right"] / tokens,
        "target_tokens": total["target_tokens"],
    }


class Window:
    """Collects steps; nothing waits for the devices until `close`.

    Attributes:
      lowest: the lowest cross entropy that a line has had, in nats a token.
    """

    def __init__(self, llama: LlamaConfig, devices: int, before: list[Row]):
        """Begins after the lines `before` of the same run."""
        self._llama, self._devices = llama, devices
        self._offset = before[-1].get("timing/uptime", 0.0) if before else 0.0
        self._began = time.monotonic()
        self.lowest = min((row["cross_ent_loss"] for row in before), default=math.inf)
        self._compilation = 0.0
        self._reset()

    def _reset(self) -> None:
        self._steps: list[tuple[int, Batch, dict[str, Any]]] = []
        self._start, self._checkpoint = time.monotonic(), 0.0

    def add(self, step: int, batch: Batch, metrics: dict[str, jax.Array]) -> None:
        """Takes a step that has been handed to the devices."""
        self._steps.append((step, batch, metrics))

    def compiled(self, seconds: float) -> None:
        """Says how long the first step was made ready; it counts neither as training nor twice."""
        self._compilation = seconds
        self._start += seconds

    def paused(self, seconds: float, checkpoint: bool = False) -> None:
        """Says how long the training stood still, to save or for something else."""
        self._checkpoint += seconds if checkpoint else 0.0
        self._start += seconds

    def failure(self, divergence: float) -> Failure | None:
        """Returns the first step whose loss or gradient is no number, or too far above `lowest`."""
        for step, batch, metrics in self._steps:
            loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
            nats = float(metrics["cross_ent_sum"]) / max(float(metrics["target_tokens"]), 1.0)
            if not math.isfinite(loss) or not math.isfinite(norm):
                return Failure(step, f"the loss is {loss}, the gradient's norm {norm}", batch)
            if divergence and nats > self.lowest + divergence:
                reason = f"the loss is {nats:.2f}, its lowest was {self.lowest:.2f}: it diverges"
                return Failure(step, reason, batch)
        return None

    def close(self, rate: float) -> Row:
        """Returns the line of the steps so far, and begins anew.

        Sums are over the steps' target tokens; `loss`, the objective, and `grad_norm` are means of
        the steps.
        """
        metrics = [jax.device_get(m) for _, _, m in self._steps]
        total = {k: float(np.sum([np.float64(m[k]) for m in metrics])) for k in metrics[0]}
        steps = len(metrics)
        rows, length = self._steps[0][1]["decoder_target_tokens"].shape
        positions = steps * rows * length
        row = {
            "loss": total["loss"] / steps,
            **per_token(total),
            "learning_rate": rate,
            "grad_norm": total["grad_norm"] / steps,
            "non_padding_fraction/decoder_target_tokens": total["tokens"] / positions,
            "non_padding_fraction/loss_weights": total["target_tokens"] / positions,
            **self._timing(steps, rows, length, total),
        }
        self.lowest = min(self.lowest, row["cross_ent_loss"])
        self._reset()
        return row

    def _timing(self, steps: int, rows: int, length: int, total: Row) -> Row:
        now = time.monotonic()
        elapsed = max(now - self._start, 1e-9)
        rates = {
            "seqs_per_second": steps * rows / elapsed,
            "steps_per_second": steps / elapsed,
            "tokens_per_second": total["tokens"] / elapsed,
            "target_tokens_per_second": total["target_tokens"] / elapsed,
        }
        timing = {f"timing/{name}": rate for name, rate in rates.items()}
        for name, rate in rates.items():
            timing[f"timing/{name}_per_core"] = rate / self._devices
        chip = chip_of(jax.devices()[0].device_kind)
        if chip is not None:
            done = steps * flops.train_flops(self._llama, rows, length)
            timing["timing/mfu"] = done / elapsed / (self._devices * chip.peak_flops_bf16)
        timing["timing/compilation_seconds"] = self._compilation
        timing["timing/checkpoint_seconds"] = self._checkpoint
        timing["timing/uptime"] = self._offset + now - self._began
        return timing

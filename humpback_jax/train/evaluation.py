"""The loss on pairs that are not trained on, while a model trains: T5X's training_eval."""

from typing import Any

import jax
import numpy as np
from clu import metric_writers

from humpback_jax.train import step as train_step
from humpback_jax.train.window import Row, per_token


class Validation:
    """Batches, the compiled step over them, and where its results go."""

    def __init__(
        self,
        step_fn: Any,
        batches: list[train_step.Batch],
        writer: metric_writers.MetricWriter,
    ):
        """Takes what `make_eval_step` gives, batches that are on the mesh, and the writer."""
        self._step_fn, self._batches, self._writer = step_fn, batches, writer

    def run(self, params: Any, step: int) -> Row:
        """Measures the parameters of a step, writes the line and returns it."""
        sums = jax.device_get([self._step_fn(params, batch) for batch in self._batches])
        total = {k: float(np.sum([np.float64(one[k]) for one in sums])) for k in sums[0]}
        row = per_token(total)
        self._writer.write_scalars(step, row)
        return row

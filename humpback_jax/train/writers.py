"""Where a training run's metrics go, through clu: a JSONL file and TensorBoard."""

import json
from collections.abc import Mapping

from clu import metric_writers
from etils import epath

from humpback_jax import distributed, rundir
from humpback_jax.train.log import METRICS_NAME, TRAIN, read_metrics


def make_writer(
    model_dir: epath.Path, step: int, folder: str = TRAIN
) -> metric_writers.MetricWriter:
    """Returns the writer of a run that goes on after `step`; only the primary process writes."""
    if not distributed.is_primary():
        return metric_writers.MultiWriter(())
    tensorboard = metric_writers.SummaryWriter(str(model_dir / folder))
    return metric_writers.MultiWriter([JsonlWriter(model_dir, step, folder), tensorboard])


class JsonlWriter(metric_writers.MultiWriter):
    """Writes scalars as lines of metrics.jsonl; lines after `step` are taken back."""

    def __init__(self, model_dir: epath.Path, step: int, folder: str):
        super().__init__(())  # of what is no scalar nothing is kept
        self._path = model_dir / folder / METRICS_NAME
        self._rows = [row for row in read_metrics(model_dir, folder) if row["step"] <= step]

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a line."""
        self._rows.append({"step": step, **{name: float(x) for name, x in scalars.items()}})
        lines = "".join(json.dumps(row) + "\n" for row in self._rows)
        rundir.write_atomic(self._path, lines)

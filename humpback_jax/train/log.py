"""What a training run tells: train/metrics.jsonl."""

import json
import time

from etils import epath

from humpback_jax import rundir


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

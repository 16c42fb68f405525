"""What a training run tells: train/metrics.jsonl and a line of progress."""

import json
import sys
import time

import tqdm
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

"""The training of every model: a small chart of its loss, and what it was trained on."""

import dataclasses
from collections.abc import Sequence

from humpback_jax.report import charts
from humpback_jax.report.sources import RunFiles


@dataclasses.dataclass(frozen=True)
class Curve:
    """A model's training as far as it has gone; `tokens` are those a loss was taken on."""

    model: str
    series: str
    chart: charts.LineChart
    is_done: bool
    steps: int
    loss: float
    accuracy: float | None
    tokens: float
    seed: int
    augmented: int
    seconds: float | None


def curves(files: RunFiles, models: Sequence[str]) -> list[Curve]:
    """Returns the curves in order of the stages; stages without a log are left out."""
    found = (_curve(files, name, models) for name in files.stages)
    return [curve for curve in found if curve is not None]


def _curve(files: RunFiles, name: str, models: Sequence[str]) -> Curve | None:
    rows = files.metrics(name)
    if not rows:
        return None
    mixture = files.mixture(name)
    last = rows[-1]
    return Curve(
        model=name,
        series=charts.series_of(name, models),
        chart=charts.training_chart(rows),
        is_done=files.is_done(name),
        steps=int(last["step"]),
        loss=last["loss"],
        accuracy=last.get("accuracy"),
        tokens=sum(row.get("target_tokens", 0.0) for row in rows),
        seed=mixture.seed.count if mixture else 0,
        augmented=mixture.augmented.count if mixture else 0,
        seconds=last.get("timing/uptime"),
    )

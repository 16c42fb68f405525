"""The geometry of the charts; templates/charts.j2 draws it, the style sheet colours it.

The charts are drawn by hand instead of by a plotting library so that they take the page's fonts
and its light and dark colours, stay legible on a phone, and are the same bytes for equal numbers.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from humpback_jax.report import formats
from humpback_jax.report.sources import BACKWARD, is_forward

# A longer curve has more points than pixels.
_MAX_POINTS = 300
_FEW_POINTS = 24


def series_of(model: str, models: Sequence[str] = ()) -> str:
    """Returns the style class that gives a model its colour, the same wherever it is shown.

    Args:
      model: its name.
      models: the evaluated models, in whose order the arms of a comparison take their colours.
    """
    if is_forward(model):
        return f"s-m{min(int(model[1:]), 3)}"
    if model == BACKWARD:
        return "s-myx"
    arms = [name for name in models if not is_forward(name)]
    return f"s-arm{arms.index(model) % 3}" if model in arms else "s-base"


@dataclasses.dataclass(frozen=True)
class Axis:
    """A linear scale from `low` to `high` with its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Returns where a value lies between the ends, 0 to 1."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def percent(self, value: float) -> float:
        """Returns the same in per cent, for the style attribute of an element."""
        return round(100 * self.share(value), 2)


def axis_over(values: Sequence[float], steps: int = 5) -> Axis:
    """Returns an axis with round ticks that holds all values, [0, 1] if there is none."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        low, high = (min(low, 0.0), max(low, 0.0)) if low else (0.0, 1.0)
    step = _round_step((high - low) / steps)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(i * step, 10) for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= step * 0.999)


@dataclasses.dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in pixels."""

    at: float
    label: str


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar of a chart, in pixels; `inner` is the height of its emphasised part from below."""

    x: float
    y: float
    width: float
    height: float
    inner: float
    title: str
    label: str = ""


@dataclasses.dataclass(frozen=True)
class BarChart:
    """Bars over a common baseline; `rule` is the height of a dashed line across, if any."""

    width: float
    height: float
    left: float
    base: float
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    rule: float | None = None


_WIDTH, _CURVE_WIDTH = 360.0, 300.0
_LEFT, _RIGHT, _TOP = 38.0, 6.0, 10.0


def score_histogram(scores: Mapping[str, float], chosen: frozenset[str], width=0.25) -> BarChart:
    """Returns the histogram of scores 1..5; the emphasised part of a bar are the chosen ones.

    The bins are centred on 1, 1.25, ... 5, so that whole grades stand in the middle of theirs.
    """
    bins = round(4 / width) + 1
    total, kept = [0] * bins, [0] * bins
    for segment_id, score in scores.items():
        place = min(bins - 1, max(0, math.floor((score - 1) / width + 0.5)))
        total[place] += 1
        kept[place] += segment_id in chosen
    axis = axis_over([0, *total], 4)
    step = (_WIDTH - _LEFT - _RIGHT) / bins
    height, base = 190.0, 164.0
    bars = []
    for i in range(bins):
        tall = (base - _TOP) * axis.share(total[i])
        inner = tall * kept[i] / total[i] if total[i] else 0.0
        title = f"score about {1 + i * width:g}: {total[i]} rated, {kept[i]} of them trained on"
        x = _LEFT + i * step + 1
        bars.append(_bar((x, base - tall, step - 2, tall, inner), title))
    x_ticks = [
        Tick(round(_LEFT + (round((g - 1) / width) + 0.5) * step, 1), str(g)) for g in range(1, 6)
    ]
    return BarChart(
        _WIDTH, height, _LEFT, base, tuple(bars), tuple(x_ticks), _y_ticks(axis, base, _count_label)
    )


def length_histogram(edges: Sequence[int], total: Sequence[int], kept: Sequence[int]) -> BarChart:
    """Returns the histogram of lengths in bins of growing width; emphasised are the kept ones.

    Args:
      edges: the bins' limits in characters, one more than bins.
      total: what was considered in each bin.
      kept: how many of them were kept.
    """
    axis = axis_over([0, *total], 4)
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(total))
    height, base = 190.0, 164.0
    bars = []
    for i, (number, good) in enumerate(zip(total, kept, strict=True)):
        tall = (base - _TOP) * axis.share(number)
        title = f"{edges[i]} to {edges[i + 1] - 1} characters: {number}, {good} of them kept"
        inner = tall * min(1.0, good / number) if number else 0.0
        bars.append(_bar((_LEFT + i * step + 1, base - tall, step - 2, tall, inner), title))
    stride = -(-len(edges) // 7)
    x_ticks = tuple(
        Tick(round(_LEFT + i * step, 1), formats.large(edges[i]))
        for i in range(0, len(edges), stride)
    )
    return BarChart(
        _WIDTH, height, _LEFT, base, tuple(bars), x_ticks, _y_ticks(axis, base, _count_label)
    )


def calibration_chart(bins: Sequence[Mapping], base_rate: float | None) -> BarChart:
    """Returns the share of good segments in each bin of scores, the count above each bar."""
    height, base, top = 190.0, 164.0, 22.0
    axis = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(bins))
    bars, edges = [], []
    for i, row in enumerate(bins):
        x = _LEFT + i * step
        edges.append(Tick(round(x, 1), f"{row['low']:g}"))
        if not row["segments"]:
            continue
        tall = (base - top) * axis.share(row["good_share"])
        title = (
            f"score {row['low']:g} to {row['high']:g}: {row['good']} of {row['segments']} good "
            f"({formats.percent(row['good_share'])})"
        )
        label = formats.count(row["segments"])
        bars.append(_bar((x + 3, base - tall, step - 6, tall, tall), title, label))
    if bins:
        edges.append(Tick(round(_LEFT + len(bins) * step, 1), f"{bins[-1]['high']:g}"))
    rule = None if base_rate is None else round(base - (base - top) * base_rate, 1)
    y_ticks = _y_ticks(axis, base, lambda v: formats.percent(v, 0), top)
    return BarChart(_WIDTH, height, _LEFT, base, tuple(bars), tuple(edges), y_ticks, rule)


@dataclasses.dataclass(frozen=True)
class LineChart:
    """A loss curve, and the learning rate as a strip below it.

    `dots` are its points where they are few, so that a line between two is seen to be only that.
    """

    width: float
    height: float
    left: float
    right: float
    base: float
    line: str
    dots: tuple[tuple[float, float], ...]
    last: tuple[float, float]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    strip: str
    strip_label: str
    strip_top: float
    strip_base: float


def training_chart(rows: Sequence[Mapping[str, float]]) -> LineChart:
    """Returns the chart of a training log of at least one row."""
    rows = _thin(rows)
    base, strip_top, strip_base = 142.0, 184.0, 206.0
    y_axis = axis_over([row["loss"] for row in rows], 4)
    x_axis = axis_over([0, rows[-1]["step"]], 4)
    steps = tuple(t for t in x_axis.ticks if t <= rows[-1]["step"] and t == round(t))
    x_axis = Axis(0, rows[-1]["step"], steps)
    across = _CURVE_WIDTH - _LEFT - _RIGHT

    def x(row: Mapping[str, float]) -> float:
        return _LEFT + across * x_axis.share(row["step"])

    heights = [base - (base - _TOP) * y_axis.share(row["loss"]) for row in rows]
    places = [(round(x(row), 1), round(y, 1)) for row, y in zip(rows, heights, strict=True)]
    rates = [row["learning_rate"] for row in rows]
    highest = max(rates) or 1.0
    strip = [
        (x(row), strip_base - (strip_base - strip_top) * rate / highest)
        for row, rate in zip(rows, rates, strict=True)
    ]
    outline = [(strip[0][0], strip_base), *strip, (strip[-1][0], strip_base)]
    peak, end = formats.short(highest), formats.short(rates[-1])
    return LineChart(
        width=_CURVE_WIDTH,
        height=strip_base + 4,
        left=_LEFT,
        right=_CURVE_WIDTH - _RIGHT,
        base=base,
        line=_path(places),
        dots=tuple(places) if len(places) <= _FEW_POINTS else (),
        last=places[-1],
        x_ticks=tuple(
            Tick(round(_LEFT + across * x_axis.share(t), 1), formats.short(t)) for t in x_axis.ticks
        ),
        y_ticks=_y_ticks(y_axis, base, formats.short),
        strip=_path(outline),
        strip_label=f"learning rate: highest {peak}, last {end}",
        strip_top=strip_top,
        strip_base=strip_base,
    )


def _thin(rows: Sequence[Mapping[str, float]]) -> Sequence[Mapping[str, float]]:
    stride = -(-len(rows) // _MAX_POINTS)
    # Counted from the end: the last step is always among them.
    return rows[::-1][::stride][::-1]


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _y_ticks(axis: Axis, base: float, label, top: float = _TOP) -> tuple[Tick, ...]:
    return tuple(
        Tick(round(base - (base - top) * axis.share(value), 1), label(value))
        for value in axis.ticks
    )


def _count_label(value: float) -> str:
    return formats.large(value) if value >= 10_000 else formats.count(value)


def _bar(box: Sequence[float], title: str, label: str = "") -> Bar:
    x, y, width, height, inner = (round(value, 1) for value in box)
    return Bar(x, y, width, height, inner, title, label)

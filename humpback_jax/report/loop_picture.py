"""The picture of the loop: what was made of what, with this run's counts on the arrows.

A model stands beside the set that it makes: Myx beside the candidates it writes, M0 beside the
pairs that its ratings choose. The picture is laid out twice, across for wide screens and downwards
for phones; columns count along the direction of time, lanes lie across it.
"""

import dataclasses
from collections.abc import Sequence

from humpback_jax.report import formats
from humpback_jax.report.charts import series_of
from humpback_jax.report.sources import BACKWARD, RunFiles, is_forward

CANDIDATE_RAIL, SETS, MODELS, SEED_RAIL = "candidate_rail", "sets", "models", "seed_rail"
_BOX = (108.0, 50.0)


@dataclasses.dataclass(frozen=True)
class Node:
    """A box (`kind` "set") or a pill ("model") with its upper left corner, in pixels."""

    kind: str
    title: str
    detail: str
    series: str
    x: float
    y: float
    is_done: bool
    width: float = _BOX[0]
    height: float = _BOX[1]


@dataclasses.dataclass(frozen=True)
class Label:
    """A line of text beside an arrow."""

    text: str
    x: float
    y: float
    anchor: str


@dataclasses.dataclass(frozen=True)
class Edge:
    """An arrow along a path with its labels; `kind` is "data", "seed" or "acts" (a model does)."""

    path: str
    kind: str
    labels: tuple[Label, ...] = ()
    has_head: bool = True


@dataclasses.dataclass(frozen=True)
class Picture:
    """Nodes and edges on a canvas; `orientation` is "wide" or "tall"."""

    orientation: str
    width: float
    height: float
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


@dataclasses.dataclass(frozen=True)
class _Layout:
    is_wide: bool
    step: float
    first: float
    breadth: float
    lanes: dict[str, float]

    def point(self, column: float, lane: str, along=0.0, across=0.0) -> tuple[float, float]:
        """Returns (x, y) of a box's place, moved by half boxes along the time and across it."""
        length, breadth = _BOX if self.is_wide else _BOX[::-1]
        time = self.first + column * self.step + along * length / 2
        side = self.lanes[lane] + across * breadth / 2
        return (time, side) if self.is_wide else (side, time)


_WIDE = _Layout(
    True, 146, 56, 302, {CANDIDATE_RAIL: 12, SETS: 66, MODELS: 176, SEED_RAIL: 264}
)  # fmt: skip
_TALL = _Layout(
    False, 100, 28, 360, {CANDIDATE_RAIL: 6, SETS: 74, MODELS: 234, SEED_RAIL: 304}
)  # fmt: skip


def loop_pictures(files: RunFiles, models: Sequence[str]) -> tuple[Picture, ...]:
    """Returns the picture across and the picture downwards."""
    return tuple(_Drawing(files, models, layout).picture() for layout in (_WIDE, _TALL))


class _Drawing:
    """The picture in the making."""

    def __init__(self, files: RunFiles, models: Sequence[str], layout: _Layout):
        self._files, self._models, self._layout = files, models, layout
        self._nodes: list[Node] = []
        self._edges: list[Edge] = []
        self._fed: list[int] = []  # columns whose set is drawn from the candidates
        self._seeded: list[tuple[int, str]] = []  # columns of models trained on the seed

    def picture(self) -> Picture:
        layout = self._layout
        known = [*self._files.stages, *self._models]
        loop = sorted({m for m in known if is_forward(m)}, key=lambda m: int(m[1:]))
        arms = [m for m in self._models if not is_forward(m) and m in self._files.stages]
        self._corpus()
        for t, model in enumerate(loop):
            self._round(3 + t, t, model, is_last=t == len(loop) - 1)
        for i, arm in enumerate(arms):
            self._arm(3 + len(loop) + i, arm)
        self._rails()
        columns = 3 + len(loop) + len(arms)
        length = 2 * layout.first + (columns - 1) * layout.step
        size = (length, layout.breadth) if layout.is_wide else (layout.breadth, length)
        orientation = "wide" if layout.is_wide else "tall"
        return Picture(orientation, *size, tuple(self._nodes), tuple(self._edges))

    def _corpus(self) -> None:
        pages = self._files.summaries.get("segment", {}).get("pages")
        headers = self._files.counts("segment")
        read = f"{formats.count(pages['records_in'])}" if pages else ""
        self._set("segment", "web pages", read, 0)
        cut = ""
        if headers:
            cut = f"{formats.count(headers.records_out)} of {formats.large(headers.records_in)}"
        self._set("segment", "segments", cut, 1)
        self._arrow((0, SETS, 1, 0), (1, SETS, -1, 0), "data")
        self._set("augment", "candidates", self._passed("augment"), 2)
        self._arrow((1, SETS, 1, 0), (2, SETS, -1, 0), "data")
        seed = self._layout.point(0, SEED_RAIL)
        self._nodes.append(
            self._box("set", "seed", "seed pairs", self._passed("seed"), seed),
        )
        self._model(BACKWARD, 2)
        self._acts(2, "writes", self._files.counts("augment"))

    def _round(self, column: int, t: int, model: str, is_last: bool) -> None:
        """Adds M_t, and beside it what it does: it rates for the next round, or is evaluated."""
        self._model(model, column)
        if not is_last:
            name, chosen = f"curate{t + 1}", self._files.mixture(f"M{t + 1}")
            number = formats.count(chosen.augmented.count) if chosen else ""
            self._set(name, f"curated A({t + 1})", number, column)
            self._fed.append(column)
            self._acts(column, "rates", self._files.counts(name))
            self._trains(column, column + 1, number)
        else:
            self._set("evaluate", "answers", self._passed("evaluate"), column)
            self._acts(column, "answers", None)

    def _arm(self, column: int, arm: str) -> None:
        self._model(arm, column)
        mixture = self._files.mixture(arm)
        if mixture and mixture.augmented.count:
            strategy = (self._files.settings(arm).get("selection") or {}).get("strategy", "chosen")
            self._set(arm, f"{strategy} pairs", formats.count(mixture.augmented.count), column)
            self._fed.append(column)
            self._arrow((column, SETS, 0, 1), (column, MODELS, 0, -1), "data")

    def _rails(self) -> None:
        """Adds the line from the candidates to the sets, and from the seed to the models."""
        layout = self._layout
        if self._fed:
            start, turn = layout.point(2, SETS, 0, -1), layout.point(2, CANDIDATE_RAIL)
            self._line("data", start, turn, layout.point(self._fed[-1], CANDIDATE_RAIL))
            for column in self._fed:
                self._arrow((column, CANDIDATE_RAIL, 0, 0), (column, SETS, 0, -1), "data")
        if self._seeded:
            last = self._seeded[-1][0]
            self._line("seed", layout.point(0, SEED_RAIL, 1, 0), layout.point(last, SEED_RAIL))
            for column, number in self._seeded:
                labels = self._beside(column, SEED_RAIL, MODELS, (number,)) if number else ()
                ends = (column, SEED_RAIL, 0, 0), (column, MODELS, 0, 1)
                self._arrow(*ends, "seed", labels if layout.is_wide else ())

    def _set(self, stage: str, title: str, detail: str, column: int) -> None:
        place = self._layout.point(column, SETS)
        self._nodes.append(self._box("set", stage, title, detail, place))

    def _model(self, name: str, column: int) -> None:
        mixture = self._files.mixture(name)
        total = mixture.seed.count + mixture.augmented.count if mixture else 0
        place = self._layout.point(column, MODELS)
        detail = f"from {formats.count(total)} pairs"
        self._nodes.append(self._box("model", name, name, detail, place))
        if mixture is None or mixture.seed.count:
            self._seeded.append((column, formats.count(mixture.seed.count) if mixture else ""))

    def _box(self, kind: str, stage: str, title: str, detail: str, place) -> Node:
        is_done = self._files.is_done(stage)
        series = series_of(stage, self._models) if kind == "model" else ""
        x, y = place[0] - _BOX[0] / 2, place[1] - _BOX[1] / 2
        shown = detail if is_done else self._files.state(stage)
        return Node(kind, title, shown, series, x, y, is_done)

    def _passed(self, stage: str) -> str:
        counts = self._files.counts(stage)
        return formats.count(counts.records_out) if counts else ""

    def _acts(self, column: int, verb: str, counts) -> None:
        lines = (verb, formats.count(counts.records_in) if counts else "")
        labels = self._beside(column, MODELS, SETS, tuple(line for line in lines if line))
        self._arrow((column, MODELS, 0, -1), (column, SETS, 0, 1), "acts", labels)

    def _beside(self, column: int, lane: str, other: str, lines: tuple[str, ...]):
        """Returns labels right of an upright arrow, or above and below a level one."""
        (x, y), (to_x, to_y) = (self._layout.point(column, name) for name in (lane, other))
        middle_x, middle_y = (x + to_x) / 2, (y + to_y) / 2
        if self._layout.is_wide:
            top = middle_y + 4 - 7 * (len(lines) - 1)
            if lane == SEED_RAIL:
                top += 14
            return tuple(
                Label(line, middle_x + 7, top + 14 * i, "start") for i, line in enumerate(lines)
            )
        places = (middle_y - 6, middle_y + 15)
        return tuple(
            Label(line, middle_x, at, "middle") for line, at in zip(lines, places, strict=False)
        )

    def _trains(self, column: int, to: int, number: str) -> None:
        """Adds the bend from a set to the model that is trained on it."""
        start = self._layout.point(column, SETS, 1, 0.35)
        end = self._layout.point(to, MODELS, -0.7, -1)
        reach = 26
        if self._layout.is_wide:
            bends = (start[0] + reach, start[1]), (end[0], end[1] - reach)
        else:
            bends = (start[0], start[1] + reach), (end[0] - reach, end[1])
        path = "M{:g} {:g}C{:g} {:g} {:g} {:g} {:g} {:g}".format(*start, *bends[0], *bends[1], *end)
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        # On the hollow side of the bend.
        label = Label(number, x - 6, y + 14, "end")
        if not self._layout.is_wide:
            label = Label(number, x + 4, y - 2, "start")
        self._edges.append(Edge(path, "data", (label,) if number else ()))

    def _arrow(self, start, end, kind: str, labels: tuple[Label, ...] = ()) -> None:
        ends = self._layout.point(*start), self._layout.point(*end)
        self._line(kind, *ends, labels=labels, has_head=True)

    def _line(self, kind: str, *places, labels: tuple[Label, ...] = (), has_head=False) -> None:
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
        self._edges.append(Edge(path, kind, labels, has_head))

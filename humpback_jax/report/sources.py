"""What a run directory holds, read so that whatever is absent is simply not there.

A report is asked for in the middle of a run, of runs without labels, of runs that one stage was
left out of; so every reader here gives nothing instead of failing where a stage has not finished.
"""

import dataclasses
import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from humpback_jax import records
from humpback_jax.records import Candidate, Example, Rating, Reject, Segment
from humpback_jax.rundir import Counts, StageDir
from humpback_jax.train.log import read_metrics

BACKWARD = "Myx"
FORWARD = re.compile(r"M\d+")


def is_forward(name: str) -> bool:
    """Returns whether a name is M0, M1, ... of the loop, and not Myx or a comparison's arm."""
    return FORWARD.fullmatch(name) is not None


@dataclasses.dataclass
class Moments:
    """Mean and standard deviation of numbers that are seen once."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.squares += value * value

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def std(self) -> float:
        if not self.count:
            return 0.0
        return math.sqrt(max(0.0, self.squares / self.count - self.mean**2))


@dataclasses.dataclass
class Lengths:
    """Characters of the instructions and outputs of a set of examples."""

    instruction: Moments = dataclasses.field(default_factory=Moments)
    output: Moments = dataclasses.field(default_factory=Moments)

    def add(self, instruction: str, output: str) -> None:
        self.instruction.add(len(instruction))
        self.output.add(len(output))

    @property
    def count(self) -> int:
        return self.output.count


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What a model was trained on: its seed examples, and its augmented ones with their ids."""

    seed: Lengths
    augmented: Lengths
    segment_ids: frozenset[str]


class RunFiles:
    """The files of a run directory.

    Args:
      root: the run directory.
      stages: names of its stages in order.
    """

    def __init__(self, root: epath.Path, stages: Sequence[str]):
        self.root = epath.Path(root)
        self.stages = tuple(stages)
        self._mixtures: dict[str, Mixture | None] = {}

    def stage(self, name: str) -> StageDir:
        return StageDir(self.root, name)

    @functools.cached_property
    def summaries(self) -> dict[str, dict[str, Any]]:
        """The stage.json of every stage that is done, in order."""
        stages = {name: self.stage(name) for name in self.stages}
        return {name: stage.summary() for name, stage in stages.items() if stage.is_done()}

    def is_done(self, name: str) -> bool:
        return name in self.summaries

    def counts(self, name: str) -> Counts | None:
        summary = self.summaries.get(name)
        return Counts(**summary["counts"]) if summary else None

    def state(self, name: str) -> str:
        """Returns "done", "running", "stopped" or "not begun"."""
        if self.is_done(name):
            return "done"
        stage = self.stage(name)
        if not (stage.path / "config.json").exists():
            return "not begun"
        return "running" if stage.is_running() else "stopped"

    @functools.cached_property
    def iterations(self) -> tuple[int, ...]:
        """The iterations whose ratings are there."""
        found = (re.fullmatch(r"curate(\d+)", name) for name in self.summaries)
        return tuple(sorted(int(match[1]) for match in found if match))

    @functools.cached_property
    def statuses(self) -> dict[int, Counter[str]]:
        """The number of ratings of each status, by iteration."""
        return {t: Counter(r.status for r in self.ratings(t)) for t in self.iterations}

    @functools.cached_property
    def scores(self) -> dict[int, dict[str, float]]:
        """The scores of the ratings that did not fail, by iteration and segment."""
        return {
            t: {r.segment_id: r.score for r in self.ratings(t) if r.status == "ok"}
            for t in self.iterations
        }

    def ratings(self, iteration: int) -> Iterator[Rating]:
        yield from self._read(f"curate{iteration}", Rating)

    def candidates(self) -> Iterator[Candidate]:
        yield from self._read("augment", Candidate)

    def segments(self) -> Iterator[Segment]:
        yield from self._read("segment", Segment)

    def rejects(self, name: str) -> Iterator[Reject]:
        if self.is_done(name):
            yield from self.stage(name).read_rejects()

    def _read(self, name: str, cls: type) -> Iterator[Any]:
        if self.is_done(name):
            yield from self.stage(name).read(cls)

    def mixture(self, model: str) -> Mixture | None:
        """Returns what a model was trained on, None if its examples are not written yet."""
        if model not in self._mixtures:
            self._mixtures[model] = self._read_mixture(model)
        return self._mixtures[model]

    def _read_mixture(self, model: str) -> Mixture | None:
        path = self.root / model / "examples.parquet"
        if not path.exists():
            return None
        seed, augmented, ids = Lengths(), Lengths(), set()
        for example in records.read_parquet(Example, path):
            lengths = augmented if example.origin == "augmented" else seed
            lengths.add(example.instruction, example.output)
            if example.origin == "augmented":
                ids.update(example.source_ids)
        return Mixture(seed, augmented, frozenset(ids))

    def metrics(self, model: str) -> list[dict[str, float]]:
        """Returns the lines of a model's training so far."""
        return read_metrics(self.root / model)

    def settings(self, name: str) -> dict[str, Any]:
        """Returns the configuration a stage was begun with."""
        path = self.root / name / "config.json"
        return json.loads(path.read_text())["config"] if path.exists() else {}

    @functools.cached_property
    def results(self) -> dict[str, Any]:
        """The content of evaluate/results.json."""
        path = self.root / "evaluate" / "results.json"
        return json.loads(path.read_text()) if self.is_done("evaluate") and path.exists() else {}

    def answers(self, model: str) -> dict[str, dict[str, Any]]:
        """Returns a model's answers by the id of the instruction, in their order."""
        path = self.root / "evaluate" / "answers" / f"{model}.jsonl"
        if not self.is_done("evaluate") or not path.exists():
            return {}
        return {row["id"]: row for _, row in records.read_jsonl(path)}

    def parameters(self, model: str) -> int | None:
        """Returns the number of a model's parameters as model-info.txt has it."""
        path = self.root / model / "model-info.txt"
        found = re.search(r"parameters: (\d+)", path.read_text()) if path.exists() else None
        return int(found[1]) if found else None

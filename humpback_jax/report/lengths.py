"""How long instructions and outputs are: the paper's Table 1, ours beside it."""

import dataclasses
from collections.abc import Sequence

from humpback_jax.report.sources import BACKWARD, Lengths, RunFiles, is_forward


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of the paper's Table 1: (mean, standard deviation) in characters."""

    name: str
    examples: int
    instruction: tuple[int, int]
    output: tuple[int, int]


PAPER = {
    "seed": Published("seed", 3200, (148, 322), (1072, 818)),
    "curated": Published("A5, round 2", 41821, (115, 175), (1663, 616)),
    "curated_4": Published("A4, round 2", 195043, (206, 298), (1985, 649)),
    "all": Published("all", 502133, (352, 134), (1722, 653)),
}


@dataclasses.dataclass(frozen=True)
class LengthRow:
    """A set of examples of this run beside the paper's set of the same kind; None: none."""

    name: str
    series: str
    ours: Lengths | None
    paper: Published | None = None


def length_rows(files: RunFiles, models: Sequence[str]) -> list[LengthRow]:
    """Returns the rows: seed, each round's curated pairs, the arms' pairs, all that was written."""
    first = files.mixture("M0") or files.mixture(BACKWARD)
    seed = first.seed if first else None
    rows = [LengthRow("seed", "", seed, PAPER["seed"])]
    loop = [name for name in files.stages if is_forward(name) and name != "M0"]
    for name in loop:
        mixture = files.mixture(name)
        title = f"curated for {name}"
        paper = PAPER["curated"] if name == loop[-1] else None
        rows.append(LengthRow(title, name, mixture.augmented if mixture else None, paper))
    above = _scored_above(files, 4.0)
    last = f", round {files.iterations[-1]}" if files.iterations else ""
    rows.append(LengthRow(f"score of 4 or more{last}", "", above, PAPER["curated_4"]))
    for name in models:
        mixture = files.mixture(name)
        if name not in loop and mixture and mixture.augmented.count:
            rows.append(LengthRow(f"drawn for {name}", name, mixture.augmented))
    everything = _augmented(files, None) if files.is_done("augment") else None
    rows.append(LengthRow("all augmented", "", everything, PAPER["all"]))
    return rows


def _scored_above(files: RunFiles, least: float) -> Lengths | None:
    """Returns the lengths of the pairs of at least that score in the last iteration."""
    if not files.iterations:
        return None
    scores = files.scores[files.iterations[-1]]
    return _augmented(files, {i for i, score in scores.items() if score >= least})


def _augmented(files: RunFiles, wanted: set[str] | None) -> Lengths:
    lengths = Lengths()
    for candidate in files.candidates():
        if candidate.status == "ok" and (wanted is None or candidate.segment_id in wanted):
            lengths.add(candidate.instruction, candidate.output)
    return lengths

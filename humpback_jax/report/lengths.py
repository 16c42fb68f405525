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
    rows.append(LengthRow("", "", None, PAPER["curated_4"]))
    for name in models:
        mixture = files.mixture(name)
        if name not in loop and mixture and mixture.augmented.count:
            rows.append(LengthRow(f"drawn for {name}", name, mixture.augmented))
    rows.append(LengthRow("all augmented", "", _all_augmented(files), PAPER["all"]))
    return rows


def _all_augmented(files: RunFiles) -> Lengths | None:
    if not files.is_done("augment"):
        return None
    lengths = Lengths()
    for candidate in files.candidates():
        if candidate.status == "ok":
            lengths.add(candidate.instruction, candidate.output)
    return lengths

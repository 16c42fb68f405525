"""What a whole run takes on a slice: its trainings, augmenting and every round of curating.

Nothing is compiled here: tokens a second come from the compiled programs (`roofline`), tokens from
the recipe and the mean lengths of the paper's texts.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method.rating import RatingConfig
from humpback_jax.method.samples import SamplesConfig
from humpback_jax.prompts import Prompts
from launch import configuration
from launch.plan.report import ProgramReport
from launch.plan.settings import Settings, read_recipe

# A rule of thumb for English and LLaMA's tokenizer; not measured here.
CHARACTERS_PER_TOKEN = 4
# Mean characters of the paper's 502,133 pairs, as tokens.
INSTRUCTION = 352 / CHARACTERS_PER_TOKEN
SEGMENT = 1722 / CHARACTERS_PER_TOKEN


@dataclasses.dataclass(frozen=True)
class Work:
    """What a stage of inference reads and writes.

    Attributes:
      stage: "augment", "curate1", ...
      read: tokens of all prompts.
      written: tokens that the model writes.
    """

    stage: str
    read: float
    written: float

    def chip_hours(self, prefill: float, decode: float, chips: int) -> float:
        """Returns the predicted chip-hours.

        Args:
          prefill: tokens a second that are read, over all chips.
          decode: tokens a second that are written, over all chips.
          chips: of the slice.
        """
        return (self.read / prefill + self.written / decode) * chips / 3600


def works() -> list[Work]:
    """Returns the work of augment and of each round of curating, as the parsed gin files say.

    Without SegmentFilters.max_segments nobody knows how many segments there will be: no work.
    """
    segments = configuration.build(SegmentFilters).max_segments
    if not segments:
        return []
    rounds = read_recipe().iterations
    return [_augment(segments), *(_curate(segments, t) for t in range(1, rounds + 1))]


def _augment(segments: int) -> Work:
    prompts = segments * configuration.build(SamplesConfig).per_segment
    most = configuration.build(SamplingConfig, "augment").max_new_tokens
    template = configuration.build(Prompts).render_backward("")
    return Work(
        "augment", prompts * (_tokens(template) + SEGMENT), prompts * min(INSTRUCTION, most)
    )


def _curate(segments: int, iteration: int) -> Work:
    """Rating by reasoning reads a candidate twice, and the second time with the reason."""
    config = configuration.build(RatingConfig, f"curate{iteration}")
    prompts = configuration.build(Prompts)
    own = prompts.render_rating("", "").removeprefix(prompts.rubric)  # the rubric is read once
    read, written = _tokens(own) + INSTRUCTION + SEGMENT, 0
    if config.mode == "reasoning":
        written = config.max_reasoning_tokens
        read = 2 * read + written
    return Work(f"curate{iteration}", segments * read, segments * written)


def _tokens(text: str) -> float:
    return len(text) / CHARACTERS_PER_TOKEN


def stages(
    inference: Sequence[Work], prefill: float, decode: float, chips: int, trained: float | None
) -> dict[str, float]:
    """Returns {"train" (all models together), "augment", "curate1", ..: predicted chip-hours}.

    Args:
      inference: of `works`.
      prefill: as of Work.chip_hours.
      decode: as of Work.chip_hours.
      chips: as of Work.chip_hours.
      trained: chip-hours of all trainings; None where nothing is trained on the slice.
    """
    answer = {} if trained is None else {"train": trained}
    return answer | {w.stage: w.chip_hours(prefill, decode, chips) for w in inference}


def of_reports(reports: Mapping[str, ProgramReport], settings: Settings) -> dict[str, float]:
    """Returns `stages` of what was compiled, {} unless all of the run's programs were and fit."""
    topology = settings.topology
    needed = ("prefill", "decode", *(("train",) if topology.trains else ()))
    speeds = {
        name: report.prediction.tokens_per_second
        for name, report in reports.items()
        if report.fits and report.prediction is not None
    }
    if not speeds.keys() >= set(needed):
        return {}
    trained = sum(t.chip_hours for t in reports["train"].trainings) if topology.trains else None
    return stages(works(), speeds["prefill"], speeds["decode"], topology.chips, trained)

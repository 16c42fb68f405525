"""What a plan says: one result for each program, as numbers for JSON and as sentences."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from launch.plan import roofline
from launch.plan.roofline import Prediction, Training
from launch.plan.settings import Settings


@dataclasses.dataclass(frozen=True)
class ProgramReport:
    """One compiled program, or one that does not fit.

    Attributes:
      facts: what `worker.measure` returned.
      gib: GiB a chip that it needs, with what the engine holds beside it.
      usable_gib: that a chip has.
      fits: at most `roofline.FITS` of them are needed.
      prediction: None where the compiler gave up for want of memory.
      trainings: of the training step, the cost of each model of the loop.
    """

    facts: Mapping[str, Any]
    gib: float
    usable_gib: float
    fits: bool
    prediction: Prediction | None
    trainings: tuple[Training, ...] = ()

    @property
    def name(self) -> str:
        return self.facts["program"]

    @property
    def share(self) -> float:
        return self.gib / self.usable_gib


def evaluate(facts: Mapping[str, Any], settings: Settings) -> ProgramReport:
    """Judges what was measured of one program on its topology."""
    usable = settings.topology.chip.hbm_gib
    if "needed_gib" in facts:
        needed = facts["needed_gib"] + facts["held_bytes"] / 2**30
        return ProgramReport(facts, needed, usable, False, None)
    gib = facts["peak_gib"] + facts["held_bytes"] / 2**30
    prediction = roofline.predict(facts, settings.topology)
    costs: list[Training] = []
    if facts["program"] == "train":
        costs = roofline.trainings(prediction, settings.train, settings.planned, settings.topology)
    fits = gib <= roofline.FITS * usable
    return ProgramReport(facts, gib, usable, fits, prediction, tuple(costs))


def refusal(report: ProgramReport, settings: Settings) -> str:
    """Returns the sentence for a program that does not fit, with what helps against it."""
    what = {"train": "the training step", "prefill": "prefill", "decode": "decode"}[report.name]
    allowed = f"at most {roofline.FITS:.0%} may be taken" if report.prediction else "usable"
    return (
        f"{what} does not fit {settings.topology.describe()}: it needs {report.gib:.1f} of "
        f"{report.usable_gib:.2f} GiB a chip ({allowed}): {_remedy(report, settings)}"
    )


def _remedy(report: ProgramReport, settings: Settings) -> str:
    if report.name != "train":
        return (
            "raise tensor or fsdp of augment/MeshConfig, lower EngineConfig.slots or "
            "max_batch_tokens, or take more chips"
        )
    train, remedies = settings.planned_train, []
    if train.remat != "full":
        remedies.append("set TrainConfig.remat = 'full'")
    ways = report.facts["mesh"]["data"] * report.facts["mesh"]["fsdp"]
    if train.batch_size // ways // train.microbatches > 1:
        remedies.append("raise TrainConfig.microbatches")
    if report.facts["mesh"]["data"] > 1:
        remedies.append("move MeshConfig.data into fsdp")
    remedies.append("take more chips and raise MeshConfig.fsdp or tensor")
    return ", or ".join(remedies)


def as_json(
    reports: list[ProgramReport],
    settings: Settings,
    slots: Any | None = None,
    loop: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Returns all figures of a plan; predicted ones stand under "predicted"."""
    topology = settings.topology
    return {
        "topology": {
            "name": topology.name,
            "kind": topology.kind,
            "shape": topology.shape,
            "slices": topology.slices,
            "chips": topology.chips,
            "compiler_options": topology.compiler_options,
        },
        "parameters": settings.llama.num_parameters,
        "programs": [_program_json(report) for report in reports],
        "slots": None if slots is None else dataclasses.asdict(slots),
        "predicted_chip_hours": dict(loop or {}),
    }


def _program_json(report: ProgramReport) -> dict[str, Any]:
    verdict = {"gib": report.gib, "usable_gib": report.usable_gib, "fits": report.fits}
    answer = {**report.facts, **verdict}
    if report.prediction is not None:
        answer["predicted"] = {
            "seconds": report.prediction.seconds,
            **dataclasses.asdict(report.prediction),
            "trainings": [dataclasses.asdict(t) for t in report.trainings],
        }
    return answer

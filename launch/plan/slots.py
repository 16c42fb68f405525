"""How many of the engine's slots a slice has room for.

A chip must hold the weights and all slots at once, and beside them what the decode step needs, or
what reading prompts needs. Both grow with the slots, so the count that the compiled programs leave
room for is compiled itself, and so is the next one, which must not fit.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

from launch.plan import roofline
from launch.plan.report import ProgramReport

PROGRAMS = ("decode", "prefill")
_TRIES = 12
_GUESSES = 3  # then the range is halved


@dataclasses.dataclass(frozen=True)
class Slots:
    """What one slot takes, and how many fit.

    Attributes:
      chips: over how many chips a slot's keys and values lie.
      gib_a_chip: that it takes on each of them.
      gib: that it takes on all together.
      step: the number by which slots are added: one for each group of chips that splits a batch.
      most: the largest number that fits.
      verified: `most` was compiled and fits, `most` + `step` was compiled and does not; otherwise
        it is computed from the programs at hand.
    """

    chips: int
    gib_a_chip: float
    gib: float
    step: int
    most: int
    verified: bool = False


def estimate(decode: ProgramReport, prefill: ProgramReport | None = None) -> Slots:
    """Returns what the compiled programs say; without prefill, of the decode step alone."""
    mesh, (on_chip, whole) = decode.facts["mesh"], decode.facts["slot_bytes"]
    step = mesh["data"] * mesh["fsdp"]
    rooms = [_room(r, on_chip) for r in (decode, prefill) if r is not None]
    most = max(0, decode.facts["rows"] + step * min(rooms))
    chips = math.prod(mesh.values()) // step
    return Slots(chips, on_chip / 2**30, whole / 2**30, step, most)


def _room(report: ProgramReport, slot_bytes: int) -> int:
    """Returns how many more slots each group of chips has room for; negative, how many fewer."""
    left = roofline.FITS * report.usable_gib - report.gib
    return math.floor(left * 2**30 / slot_bytes)


def verify(first: Slots, reports: Callable[[int], Mapping[str, ProgramReport]]) -> Slots:
    """Returns the largest count that fits, found by compiling.

    With the slots grow the prompts that are read together, so an estimate may miss; the next one
    begins from what was compiled last.

    Args:
      first: the estimate.
      reports: compiles PROGRAMS for a number of slots.
    """
    step, fitting = first.step, 0
    count = max(first.most, step)
    failing = math.inf
    for attempt in range(_TRIES):
        done = reports(count)
        if all(report.fits for report in done.values()):
            fitting = count
        else:
            failing = count
        if failing - fitting == step:
            return dataclasses.replace(first, most=fitting, verified=True)
        count = estimate(done["decode"], done["prefill"]).most
        if not fitting < count < failing or attempt >= _GUESSES:
            middle = 2 * fitting + step if math.isinf(failing) else (fitting + failing) // 2
            count = max(fitting + step, int(middle) // step * step)
    return dataclasses.replace(first, most=fitting)

"""Which place each stage of a run goes to, and how a stage is run there."""

import dataclasses
import hashlib
import shlex
import time
from collections.abc import Sequence

from humpback_jax.configurable import configurable
from humpback_jax.errors import PreemptedError, UsageError, UserError
from launch import configuration
from launch.claims import Held
from launch.context import Context, command_of
from launch.ending import EndWatch
from launch.jobs import checks, running
from launch.jobs.command import BEAM_STAGES, Command, Place, check_program, script
from launch.jobs.places import PLACES, group_of

HERE = "here"


@configurable
@dataclasses.dataclass(frozen=True)
class LaunchPlan:
    """Where each group of stages runs: "here", in the driver's own process, or a place's name.

    A place is bound under its own name, and for one group under the group's scope:
    `TpuVm.zone = '...'`, `train/TpuVm.name = '...'`.

    Attributes:
      segment: stage segment.
      train: pretrain, base, and every model.
      augment: stage augment.
      curate: curate1, curate2, ...
      evaluate: stage evaluate.
      rest: world, seed and report.
      restarts: how often a stage is started again that was told to end and has saved (exit 42).
    """

    segment: str = HERE
    train: str = HERE
    augment: str = HERE
    curate: str = HERE
    evaluate: str = HERE
    rest: str = HERE
    restarts: int = 20

    def __post_init__(self):
        known = (HERE, *PLACES)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "restarts" and value not in known:
                raise UsageError(
                    f"LaunchPlan.{field.name} is {value!r}: choose one of {', '.join(known)}"
                )
            if _runs_beam_alone(value) and field.name not in BEAM_STAGES:
                raise UsageError(
                    f"LaunchPlan.{field.name} is {value!r}, which runs Beam's jobs alone "
                    f"({', '.join(BEAM_STAGES)}): choose another place"
                )
        if self.restarts < 0:
            raise UsageError(f"LaunchPlan.restarts is {self.restarts}: give 0 or more")

    def place_of(self, stage: str) -> str:
        """Returns the name of a stage's place, or "here"."""
        return getattr(self, group_of(stage))


def _runs_beam_alone(place: object) -> bool:
    return place in PLACES and PLACES[str(place)].runs_beam_alone


def is_shared(stage: str, engine: str) -> bool:
    """Returns whether a stage is one that several processes can share."""
    group = group_of(stage)
    return group == "train" or (group in ("augment", "curate") and engine == "pod")


class Launcher:
    """Starts the stages of a run in their places.

    Args:
      context: the run.
      flags: the gin flags as they were given, which every stage gets.
      engine: --engine as it was given, "" for each place's own.

    Raises:
      UsageError: a place cannot be configured, cannot run what it is to run, or sees another disk;
        nothing was started.
    """

    def __init__(self, context: Context, flags: Sequence[str], engine: str = ""):
        self._context = context
        self._flags = tuple(flags)
        self._engine = engine
        self._plan = configuration.build(LaunchPlan)
        text = configuration.config_text()
        self._configuration = hashlib.sha256(text.encode()).hexdigest()[:8]
        self._places: dict[str, Place] = {}
        for stage in context.recipe.stages:
            if self.runs(stage):
                self._check(stage)
                self.commands(stage)
            else:
                checks.check_beam(stage, context.recipe, engine)

    def check_ready(self) -> None:
        """Looks at what the places of stages that are left need of this machine.

        Raises:
          UserError: a program is missing, or the run directory cannot be written from here.
        """
        left = [s for s in self._context.recipe.stages if not self._context.stage(s).is_done()]
        elsewhere = [self._place(stage) for stage in left if self.runs(stage)]
        for place in elsewhere:
            for program in place.programs:
                check_program(program)
        if any(place.remote for place in elsewhere):
            checks.check_writable(self._context.recipe.run_dir)

    def runs(self, stage: str) -> bool:
        """Returns whether a stage has a place that is not the driver's own process."""
        return self._plan.place_of(stage) != HERE

    def commands(self, stage: str, driver: str = "", rejoin: bool = False) -> list[Command]:
        """Returns what runs a stage in its place, as the child of a driver's claim.

        Args:
          stage: its name.
          driver: id of that claim.
          rejoin: an earlier driver has left it at work there.
        """
        place = self._place(stage)
        return (place.rejoin if rejoin else place.commands)(self._humpback(stage, driver))

    def whereabouts(self, stage: str) -> str:
        """Returns what names a stage's work in its place, "" if nobody finds it there again.

        Work by another configuration is other work.
        """
        if stage not in self._context.recipe.stages or not self.runs(stage):
            return ""
        where = self._place(stage).whereabouts(self._humpback(stage))
        return f"{where}, configuration {self._configuration}" if where else ""

    def _humpback(self, stage: str, driver: str = "") -> list[str]:
        engine = self._engine_of(stage)
        words = [*command_of(stage).split(), *self._flags]
        if engine:
            words.append(f"--engine={engine}")
        if driver:
            words.append(f"--driver={driver}")
            if place := self.whereabouts(stage):
                words.append(f"--place={place}")
        return words

    def describe(self) -> str:
        """Returns all commands as a script's lines, stage by stage, with what is done already."""
        blocks = []
        for stage in self._context.recipe.stages:
            done = " (done already)" if self._context.stage(stage).is_done() else ""
            if not self.runs(stage):
                blocks.append(f"# stage {stage}{done}: in this process")
                continue
            head = f"# stage {stage}{done}: {self._plan.place_of(stage)}"
            lines = script(self.commands(stage))
            if done:
                lines = "\n".join(f"# {line}" for line in lines.splitlines())
            blocks.append(f"{head}\n{lines}")
        return "\n\n".join(blocks)

    def run(self, stage: str, held: Held, watch: EndWatch) -> None:
        """Runs a stage in its place until it is done.

        Raises:
          PreemptedError: this process was told to end; so was the stage.
          UserError: the stage failed.
        """
        place, began = self._plan.place_of(stage), time.monotonic()
        found = held.follows(stage)
        how = "goes on in" if found else "goes to"
        print(f"{stage}: {how} {place}", flush=True)
        for restarts in range(self._plan.restarts + 1):
            commands = self.commands(stage, held.id, rejoin=found and not restarts)
            code = self._attempt(stage, commands, held, watch)
            if code == 0:
                break
            if code != PreemptedError.exit_code:
                raise UserError(
                    f"stage {stage} ended with exit code {code} ({place}): see what it said above, "
                    f"mend that, then run {self._again()}; what is done is kept"
                    f"{self._remains(stage)}"
                )
            left = self._plan.restarts - restarts
            print(f"{stage}: was told to end and has saved; {left} restarts left", flush=True)
        else:
            raise PreemptedError(
                f"stage {stage} was told to end {self._plan.restarts + 1} times ({place}), each "
                f"time with all saved: run {self._again()} to go on"
            )
        if not self._context.stage(stage).is_done():
            raise UserError(
                f"stage {stage} ended without an error ({place}) but is not done in "
                f"{self._context.recipe.run_dir}: let that place write into the same RUN_DIR, then "
                f"run {self._again()}"
            )
        print(f"{stage}: done by {place} in {time.monotonic() - began:.0f} s", flush=True)

    def _attempt(self, stage: str, commands: Sequence[Command], held: Held, watch: EndWatch) -> int:
        """Runs a stage's commands, one after the other, and returns the first exit code not 0."""
        code = 0
        with watch.waiting():
            for command in commands:
                held.check()
                code = running.run(command, watch, lambda: held.is_lost)
                if code or watch.told:
                    break
        if watch.told:
            left = self._remains(stage) if code else ""
            raise PreemptedError(
                f"the run was told to end, and with it stage {stage}: run {self._again()} to "
                f"go on; what is done is kept{left}"
            )
        held.check()
        return code

    def _remains(self, stage: str) -> str:
        """Returns what may go on in a stage's place without this process, with "; " before it."""
        remains = self._place(stage).remains(self._humpback(stage))
        return f"; {remains}" if remains else ""

    def _again(self) -> str:
        engine = [f"--engine={self._engine}"] if self._engine else []
        return f"`{shlex.join(['humpback', 'run', *self._flags, *engine])}` again"

    def _place(self, stage: str) -> Place:
        group = group_of(stage)
        if group not in self._places:
            self._places[group] = configuration.build(PLACES[self._plan.place_of(stage)], group)
        return self._places[group]

    def _engine_of(self, stage: str) -> str:
        """Returns --engine for a stage, "" for one that has none."""
        if group_of(stage) not in ("augment", "curate"):
            return ""
        if self._place(stage).runs_beam_alone:
            return "beam"
        if self._engine:
            return self._engine
        several = self._processes(stage) != 1
        return "pod" if several else "beam"

    def _processes(self, stage: str) -> int:
        """Returns how many processes a stage's place has, where that is known."""
        return getattr(self._place(stage), "processes", 1)

    def _check(self, stage: str) -> None:
        place, group = self._plan.place_of(stage), group_of(stage)
        checks.check(self._place(stage), stage, self._context.recipe)
        if not self._place(stage).runs_beam_alone:
            checks.check_beam(stage, self._context.recipe, self._engine_of(stage))
        if self._place(stage).runs_beam_alone and self._engine == "pod":
            raise UsageError(
                f"--engine=pod is without Beam, which {place} (LaunchPlan.{group}) is: leave "
                "--engine out"
            )
        if self._processes(stage) > 1 and not is_shared(stage, self._engine_of(stage)):
            raise UsageError(
                f"stage {stage} runs in one process and {place} has {self._processes(stage)}: "
                f"choose another place for LaunchPlan.{group}"
            )

"""A command as data: printed by a dry run, run otherwise."""

import dataclasses
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

from humpback_jax.errors import UsageError, UserError

# What may run as jobs of Beam, by the groups of stages.
BEAM_STAGES = ("segment", "augment", "curate")


def exit_code(returned: int) -> int:
    """Returns what a shell says of a process: 128 and the number of the signal that ended it."""
    return returned if returned >= 0 else 128 - returned


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      argv: its words, the program first; no shell reads them.
      purpose: what it does, a phrase for who reads the dry run.
      environment: variables that it gets besides those of this process.
      costs: whether it starts something that is paid for by the hour.
    """

    argv: tuple[str, ...]
    purpose: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    costs: bool = False

    def quoted(self) -> str:
        """Returns the command as a line of a POSIX shell."""
        variables = (f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        return " ".join([*variables, shlex.join(self.argv)])


def humpback_here(arguments: Sequence[str]) -> tuple[str, ...]:
    """Returns the argv of a humpback of this very installation, on PATH or not."""
    return (sys.executable, "-m", "launch.main", *arguments)


class Place:
    """A configured place; its dataclass is bound by gin under its own name.

    Attributes:
      remote: whether it sees nothing of this machine's files.
      shared: whether it sees some of them, by their whole paths.
      runs_beam_alone: whether it takes the jobs of BEAM_STAGES and nothing else.
      actions: what `humpback launch` can do there.
      of_machines: those of them that need no subcommand.
      programs: that this machine must have.
    """

    remote: ClassVar[bool] = False
    shared: ClassVar[bool] = False
    runs_beam_alone: ClassVar[bool] = False
    actions: ClassVar[tuple[str, ...]] = ("run",)
    of_machines: ClassVar[tuple[str, ...]] = ()
    programs: ClassVar[tuple[str, ...]] = ()

    def commands(self, humpback: Sequence[str]) -> list[Command]:
        """Returns what runs `humpback ARGUMENTS` there; when the last one ends, it has ended.

        Args:
          humpback: the arguments, subcommand first, gin flags as they were given.
        """
        raise NotImplementedError

    def action(self, name: str, humpback: Sequence[str]) -> list[Command]:
        """Returns the commands of an action; of "run" they may be printed otherwise than run."""
        del name  # a place with others than "run" says what they are
        return self.commands(humpback)

    def perform(self, name: str, humpback: Sequence[str]) -> int | None:
        """Carries out an action and returns its exit code; None if it is its commands alone."""
        del name, humpback

    def whereabouts(self, humpback: Sequence[str]) -> str:
        """Returns what names the work there to whoever looks for it later, on any machine.

        "" if it ends with this process, or nobody can wait for its end.
        """
        del humpback
        return ""

    def rejoin(self, humpback: Sequence[str]) -> list[Command]:
        """Returns what waits for the end of work that goes on there since an earlier process."""
        return self.commands(humpback)

    def remains(self, humpback: Sequence[str]) -> str:
        """Returns what goes on there when this process ends, and the command that ends it.

        It says whether that is paid for; "" if nothing goes on.
        """
        del humpback
        return ""


def check_given(place: object, *names: str) -> None:
    """Raises UsageError for a field of a place that is empty and must not be."""
    for name in names:
        if not getattr(place, name):
            raise UsageError(f"{type(place).__name__}.{name} is empty: bind it in the gin files")


def script(commands: Sequence[Command]) -> str:
    """Returns the commands as a shell script's lines, the purpose of each above it."""
    lines = (f"# {c.purpose}\n{c.quoted()}" if c.purpose else c.quoted() for c in commands)
    return "\n".join(lines)


# How the programs that are not everywhere come onto a machine.
_INSTALLED_BY = {
    "gcloud": "cloud.google.com/sdk/docs/install, then `gcloud auth login`",
    "kubectl": "`gcloud components install kubectl`",
    "xpk": "`pip install xpk` in an environment of its own",
    "docker": "docs.docker.com/engine/install",
}


def check_program(program: str) -> None:
    """Raises UserError if this machine has not a program."""
    if shutil.which(program) is None:
        how = _INSTALLED_BY.get(program)
        raise UserError(
            f"there is no program '{program}' on this machine: install it"
            f"{f' ({how})' if how else ''} and run the same again"
        )

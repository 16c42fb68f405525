"""Runs commands to their end, which they are told when this process is."""

import sys
import time
from collections.abc import Callable, Sequence

from humpback_jax.errors import PreemptedError
from launch.ending import EndWatch
from launch.jobs import tether
from launch.jobs.command import Command, check_program
from launch.jobs.tether import Tethered

_POLL_SECONDS = 0.2
_SILENT_SECONDS = 3.0  # after which who waits for the end is told how to hasten it


def run(command: Command, watch: EndWatch, is_lost: Callable[[], bool] = lambda: False) -> int:
    """Runs a command with this process's output and returns its exit code.

    Args:
      command: the command; it reads nothing from the terminal.
      watch: of this process, open and `waiting`; what tells it to end tells the command, which is
        killed in the end if the watch insists.
      is_lost: whether the command is to end for another reason.

    Raises:
      UserError: there is no such program here.
    """
    running, told, speak_at = Tethered(command), False, float("inf")
    try:
        while running.poll() is None and not watch.insists:
            if (watch.told or is_lost()) and not told:
                running.end()
                told, speak_at = True, time.monotonic() + _SILENT_SECONDS
            if time.monotonic() > speak_at:
                _say_how_to_kill()
                speak_at = float("inf")
            time.sleep(_POLL_SECONDS)
    finally:
        code = running.close()
    return code


def _say_how_to_kill() -> None:
    print(
        "humpback: what runs was told to save and end; after another Ctrl-C it has "
        f"{tether.PATIENCE_SECONDS:.0f} seconds left",
        file=sys.stderr,
        flush=True,
    )


def run_all(commands: Sequence[Command], watch: EndWatch) -> int:
    """Runs commands one after the other; returns the exit code of the first that fails, or 0.

    Once this process was told to end nothing more is started. The code is 42 then where a command
    has saved and ended so, else 128 and the signal's number, as a shell's.

    Raises:
      UserError: a program is missing; none was run.
    """
    for command in commands:
        check_program(command.argv[0])
    for command in commands:
        if watch.told:
            return 128 + watch.told
        if code := run(command, watch):
            saved = not watch.told or code == PreemptedError.exit_code
            return code if saved else 128 + watch.told
    return 0

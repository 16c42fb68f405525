"""A command that does not outlive the process that started it, however that one ends.

    python -m launch.jobs.tether FILE_DESCRIPTOR SECONDS -- COMMAND ...

The file descriptor is the end of a pipe on which nothing is ever written: it is closed when the
starter ends, by SIGKILL too. The command is then sent SIGTERM and, so many seconds later, killed
with everything in its process group. SIGTERM goes on to the command, whose exit code is passed on.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from launch.jobs.command import Command, check_program, exit_code

PATIENCE_SECONDS = 30.0


class Tethered:
    """A command that runs; it ends when this process does."""

    def __init__(self, command: Command):
        """Starts it.

        Raises:
          UserError: there is no such program here.
        """
        check_program(command.argv[0])
        environment = {**os.environ, **command.environment}
        here, self._open = os.pipe()
        held = [str(here), str(PATIENCE_SECONDS)]
        argv = [sys.executable, "-m", "launch.jobs.tether", *held, "--", *command.argv]
        try:
            # A session of its own: Ctrl-C is for this process, which passes it on as SIGTERM.
            self._process = subprocess.Popen(
                argv, env=environment, pass_fds=(here,), start_new_session=True
            )
        finally:
            os.close(here)

    def poll(self) -> int | None:
        """Returns the exit code, 128 and the signal's number for a signal; None while it runs."""
        code = self._process.poll()
        return None if code is None else exit_code(code)

    def end(self) -> None:
        """Tells it to end (SIGTERM)."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def close(self) -> int:
        """Returns the exit code once it has ended; it is told to, and killed if it does not."""
        os.close(self._open)
        return exit_code(self._process.wait())


def tether(argv: Sequence[str], alive: int, patience: float) -> int:
    """Runs a command until it ends, or `alive` is closed at its other end; returns its code."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
    orphaned = threading.Event()
    threading.Thread(target=_notice, args=(alive, orphaned), daemon=True).start()
    deadline, passed_on = float("inf"), False
    while process.poll() is None:
        if orphaned.is_set() and deadline == float("inf"):
            deadline = time.monotonic() + patience
        if (told.is_set() or orphaned.is_set()) and not passed_on:
            process.terminate()
            passed_on = True
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it has left behind, too
    return exit_code(process.wait())


def _notice(alive: int, orphaned: threading.Event) -> None:
    os.read(alive, 1)
    orphaned.set()


if __name__ == "__main__":
    _alive, _seconds, _, *_argv = sys.argv[1:]
    sys.exit(tether(_argv, int(_alive), float(_seconds)))

"""Several processes of one command that join over jax.distributed on this machine's loopback.

    python -m launch.jobs.processes --processes=2 -- python -m launch.main train --model=M1 ...

Each gets --coordinator_address, --process_count and --process_index. They end together: once one
has failed, the others have some seconds to end by themselves, as `distributed.Company` lets them,
and are then terminated. SIGTERM goes on to all of them.
"""

import argparse
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from humpback_jax.errors import PreemptedError
from launch.jobs.command import exit_code

_POLL_SECONDS = 0.2


def start(argv: Sequence[str], count: int) -> list[subprocess.Popen]:
    """Starts `count` processes of a command that runs humpback."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    joined = (*argv, f"--coordinator_address={address}", f"--process_count={count}")
    return [subprocess.Popen((*joined, f"--process_index={i}")) for i in range(count)]


def wait(processes: Sequence[subprocess.Popen], patience: float = 30.0) -> int:
    """Waits until all have ended and returns one exit code for them.

    Args:
      processes: that were started together.
      patience: seconds in which the others may end by themselves once one has failed, and then,
        after SIGTERM, again.

    Returns:
      0 if all ended with 0; 42 if others were told to end and saved; else the code of the one that
      failed first, 128 and the signal's number if a signal ended it.
    """
    first, failed_at, asked = 0, 0.0, 0
    preempted = PreemptedError.exit_code
    while True:
        codes = [process.poll() for process in processes]
        ended = [exit_code(code) for code in codes if code is not None]
        if first in (0, preempted):
            first = next((c for c in ended if c not in (0, preempted)), max(ended, default=0))
        if len(ended) == len(processes):
            return first
        if first not in (0, preempted):
            failed_at = failed_at or time.monotonic()
            if time.monotonic() - failed_at > patience * (asked + 1):
                _send(processes, (signal.SIGTERM, signal.SIGKILL)[min(asked, 1)])
                asked += 1
        time.sleep(_POLL_SECONDS)


def _send(processes: Sequence[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="launch.jobs.processes", description=__doc__)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--patience", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    options = parser.parse_args(arguments)
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    processes = start(argv, options.processes)
    signal.signal(signal.SIGTERM, lambda number, _: _send(processes, number))
    try:
        return wait(processes, options.patience)
    except KeyboardInterrupt:  # which the terminal sends to all of them
        return wait(processes, options.patience)
    finally:
        _send(processes, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())

"""Runs `humpback` and kills itself inside a stage: python killed_run.py STAGE WRITES ARGUMENTS.

SIGKILL comes at the stage's write number WRITES, half-way: the temporary file is there, cut short,
the rename is not done. A stage that writes less often is not killed, and the exit code is 3.
"""

import os
import signal
import sys

from humpback_jax import rundir
from launch import main

stage, writes, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
whole_write = rundir.write_atomic
seen = 0


def killing_write(path, content):
    """Writes as usual, until it is time."""
    global seen
    if stage in path.parts:
        seen += 1
        if seen == writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            half = content[: len(content) // 2]
            torn = path.parent / f".tmp-torn-{path.name}"
            torn.write_bytes(half.encode() if isinstance(half, str) else half)
            os.kill(os.getpid(), signal.SIGKILL)
    whole_write(path, content)


rundir.write_atomic = killing_write
code = main.main(arguments)
sys.exit(3 if code == 0 else code)

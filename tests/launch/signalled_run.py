"""Runs `humpback` and sends itself a signal: python signalled_run.py SIGNAL STEP ARGUMENTS.

The signal comes when the batch of training step STEP (of this leg) is placed; 0 is never. Steps
are slowed down, as processes need a moment to tell each other of a SIGTERM.
"""

import os
import signal
import sys
import time

from humpback_jax.train import trainer
from launch import main

name, at, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
place, placed = trainer.place, []


def signalling_place(batch, mesh):
    """Places as usual, until it is time."""
    placed.append(batch)
    time.sleep(0.1)
    if len(placed) == at:
        os.kill(os.getpid(), getattr(signal, name))
    return place(batch, mesh)


trainer.place = signalling_place
sys.exit(main.main(arguments))

"""Runs `humpback` and sends itself SIGTERM: python signalled_shards.py NUMBER SECONDS ARGUMENTS.

The signal comes when this process reads its shard NUMBER (from 1; 0 is never) of a stage of
inference; at -NUMBER it fails instead. Every shard takes SECONDS longer, as processes tell each
other of a signal once a second.
"""

import os
import signal
import sys
import time

from beam_pipelines.shards import InferenceStage
from humpback_jax.errors import UserError
from launch import main

at, seconds, arguments = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
read_shard, read = InferenceStage.read_shard, []


def signalling_read(self, index):
    """Reads as usual, until it is time."""
    read.append(index)
    time.sleep(seconds)
    if len(read) == at:
        os.kill(os.getpid(), signal.SIGTERM)
    if len(read) == -at:
        raise UserError("the disk of this host is broken: mend it")
    return read_shard(self, index)


InferenceStage.read_shard = signalling_read
sys.exit(main.main(arguments))

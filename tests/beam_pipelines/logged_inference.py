"""Augments and logs it: python logged_inference.py RUN_DIR MODEL LOG ENGINE [OPTION ...].

ENGINE is pod, a direct_running_mode of the FnApiRunner's (with two workers), or PortableRunner or
FlinkRunner, whose options follow. Work on a shard takes SHARD_SECONDS of the environment at least.
The log has the lines "PID begun SHARD" and "PID done SHARD" for every shard that a model works on.
"""

import dataclasses
import os
import sys
import time
from typing import Any

from beam_pipelines import inference
from beam_pipelines.augment import AugmentTask
from beam_pipelines.config import BeamConfig
from beam_pipelines.handler import ModelSource
from beam_pipelines.shards import InferenceStage
from humpback_jax.errors import UserError
from humpback_jax.infer.engine import EngineConfig
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method.leaks import LeakConfig
from humpback_jax.method.samples import SamplesConfig
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, Segment
from humpback_jax.rundir import StageDir


@dataclasses.dataclass(frozen=True)
class LoggedTask:
    """A task whose worker says what it does; workers in other processes import this module."""

    task: Any
    log: str
    seconds: float

    def computation(self):
        return self.task.computation()

    def load(self):
        return LoggedWorker(self.task.load(), self.log, self.seconds)


class LoggedWorker:
    spans_processes = False

    def __init__(self, worker, log, seconds):
        self._worker, self._log, self._seconds = worker, log, seconds

    def _say(self, event, shard):
        with open(self._log, "a") as file:  # one short write, so lines stay whole
            file.write(f"{os.getpid()} {event} {shard.index}\n")

    def process(self, shard):
        self._say("begun", shard)
        time.sleep(self._seconds)  # the model is too small to be killed at work
        output = self._worker.process(shard)
        self._say("done", shard)
        return output


def run(run_dir, model, log, beam):
    engine = EngineConfig(slots=4, buckets=(80, 128))
    sampling = SamplingConfig(max_new_tokens=12, temperature=1.0, top_p=1.0, seed=1)
    source = ModelSource(model, engine)
    task = AugmentTask(source, Prompts(), sampling, LeakConfig(), SamplesConfig())
    stages = [StageDir(run_dir, name) for name in ("augment", "segment")]
    logged = LoggedTask(task, log, float(os.environ.get("SHARD_SECONDS", "0.1")))
    job = InferenceStage(*stages, read=Segment, write=Candidate, task=logged)
    return inference.run_stage(job, {}, {}, beam)


def main(run_dir, model, log, engine, *options):
    beam = None
    if engine.endswith("Runner"):
        beam = BeamConfig(runner=engine, options=options)
    elif engine != "pod":
        beam = BeamConfig(direct_running_mode=engine, num_workers=2)
    try:
        run(run_dir, model, log, beam)
    except UserError as error:
        sys.exit(f"humpback: {error}")


if __name__ == "__main__":
    import logged_inference  # so that classes are pickled under the module's own name

    logged_inference.main(*sys.argv[1:])

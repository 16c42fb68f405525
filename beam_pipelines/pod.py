"""An inference stage without Beam: a loop over its shards, in one process or those of a pod.

Several processes share out the shards, each with a model of its own; or, where a model needs more
devices than one process has, all of them work on every shard in step, and the primary writes it.
Shards, done markers and counts are the same as Beam's, so either goes on where the other ended.
"""

import contextlib
from collections.abc import Sequence

from absl import logging

from beam_pipelines.progress import shard_progress
from beam_pipelines.shards import InferenceStage
from humpback_jax import distributed
from humpback_jax.errors import PreemptedError
from humpback_jax.train.preemption import PreemptionWatch

# Seconds in which the other processes end their shards once one has failed. It waits for them to
# leave the group, which JAX gives 300.
_PATIENCE = 240.0


def run_shards(job: InferenceStage, todo: Sequence[int], fingerprint: str) -> None:
    """Does the shards of `todo`, the same in every process, and returns once all have.

    Raises:
      PreemptedError: SIGTERM came to one of the processes; each has finished its shard.
      UserError: another process failed; this one has finished its shard, if it has one of its own.
    """
    total = job.source.num_done()
    company = distributed.Company(f"stage {job.stage.name}")
    with _progress(job, total), PreemptionWatch() as watch, company:
        worker = job.load()
        together = worker.spans_processes
        if not together:
            company.patience = _PATIENCE
        shares = _shares(todo, 1 if together else distributed.count())
        own = shares[0 if together else distributed.index()]
        # Processes that share out the shards do not wait for each other between two of them, yet
        # each asks as often as the first, which has the most: so they agree on where to end.
        for step in range(len(shares[0])):
            company.check()
            if watch.reached(step):
                raise PreemptedError(
                    f"stage {job.stage.name} was told to end, {job.stage.num_done()} of its "
                    f"{total} shards are done: run the same command again to do the rest"
                )
            if step < len(own):
                output = worker.process(job.read_shard(own[step]))
                if together:
                    distributed.on_primary(lambda done=output: job.write_shard(done, fingerprint))
                else:
                    job.write_shard(output, fingerprint)
                logging.info("stage %s, shard %d: %s", job.stage.name, own[step], output.counts)
        company.wait_for_all()


def _shares(todo: Sequence[int], count: int) -> list[Sequence[int]]:
    """Returns the shards of each of `count` processes: [4, 5, 7] for two is [[4, 7], [5]]."""
    return [todo[index::count] for index in range(count)]


def _progress(job: InferenceStage, total: int) -> contextlib.AbstractContextManager[None]:
    """Shows the progress of all processes, in the primary one alone."""
    if distributed.is_primary():
        return shard_progress(job.stage, total)
    return contextlib.nullcontext()

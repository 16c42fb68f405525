"""A resumable inference stage: shard by shard through a model, each written once it is done.

What is to do is decided at launch, and each finished shard is renamed into place before its done
marker: after a kill at any moment the same command does the rest, with Beam or without.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
from absl import logging
from apache_beam.metrics.metric import Metrics
from apache_beam.ml.inference.base import RunInference

from beam_pipelines import execution, pod
from beam_pipelines.config import BeamConfig
from beam_pipelines.handler import ShardHandler
from beam_pipelines.progress import shard_progress
from beam_pipelines.shards import InferenceStage, Shard, ShardOutput
from humpback_jax import distributed
from humpback_jax.errors import UserError
from humpback_jax.rundir import Counts


def run_stage(
    job: InferenceStage,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    beam_config: BeamConfig | None,
) -> Counts:
    """Does what is left of a stage and returns its counts; a finished one is skipped.

    Args:
      job: the stage.
      config: everything that decides its outputs, JSON-able.
      inputs: digests of what it reads besides the source stage, such as the model's fingerprint.
      beam_config: where Beam runs; None runs the stage without Beam, in this process and the
        others of its jax.distributed group, all of which call this.

    Raises:
      UserError: the source is not finished, or the folder holds work of another configuration.
    """
    start = time.monotonic()
    plan = distributed.on_primary(lambda: _plan(job, config, inputs))
    if plan is not None:
        fingerprint, todo = plan
        if todo:
            logging.info("stage %s: %d shards to do", job.stage.name, len(todo))
            if beam_config is None:
                pod.run_shards(job, todo, fingerprint)
            else:
                _run_beam(job, todo, fingerprint, beam_config)
        distributed.on_primary(lambda: _finish(job, fingerprint, time.monotonic() - start))
    return Counts(**distributed.on_primary(lambda: job.stage.summary()["counts"]))


def _plan(
    job: InferenceStage, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> tuple[str, list[int]] | None:
    """Opens the stage; returns (fingerprint, shards that are to be done), None if it is done."""
    if not job.source.is_done():
        raise UserError(
            f"stage {job.stage.name} reads stage {job.source.name}, which is not finished in "
            f"{job.source.path}: run that stage first"
        )
    fingerprint = job.stage.begin(config, {**inputs, job.source.name: job.source.digest})
    if job.stage.is_done():
        return None
    return fingerprint, job.stage.todo(job.source.num_done(), fingerprint)


def _finish(job: InferenceStage, fingerprint: str, seconds: float) -> None:
    """Closes the stage; raises UserError if a shard that was written cannot be seen."""
    left = job.stage.todo(job.source.num_done(), fingerprint)
    if left:
        raise UserError(
            f"shard {left[0]} of {job.stage.path} was written where this process does not see it: "
            "give all of them a run directory that they share, and run the same command again"
        )
    counts = job.stage.counts()
    job.stage.finish(counts, job.stage.shards_digest(), seconds)
    logging.info("stage %s: %s", job.stage.name, counts)


def _run_beam(
    job: InferenceStage, todo: Sequence[int], fingerprint: str, config: BeamConfig
) -> None:
    with shard_progress(job.stage, job.source.num_done()):
        execution.run_pipeline(_pipeline(job, todo, fingerprint, config), config)


def _pipeline(
    job: InferenceStage, todo: Sequence[int], fingerprint: str, config: BeamConfig
) -> Callable[[beam.Pipeline], object]:
    """Returns what builds the pipeline over the shards that are to be done."""

    def build(pipeline: beam.Pipeline) -> object:
        return (
            pipeline
            | "Shards" >> beam.Create(todo)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(ReadShard(job, fingerprint))
            | "Infer" >> RunInference(ShardHandler(job, share=config.shares_model))
            | "Write" >> beam.ParDo(WriteShard(job, fingerprint))
        )

    return build


class ReadShard(beam.DoFn):
    """Reads a shard of the source stage, if it is not done by now.

    An engine that restarts a job by itself gives it again all shards that it had at first.
    """

    def __init__(self, job: InferenceStage, fingerprint: str):
        self._job, self._fingerprint = job, fingerprint

    def process(self, element: int) -> Iterator[Shard]:
        if not self._job.stage.is_shard_done(element, self._fingerprint):
            yield self._job.read_shard(element)


class WriteShard(beam.DoFn):
    """Writes a shard and its done marker, and counts its records."""

    def __init__(self, job: InferenceStage, fingerprint: str):
        self._job, self._fingerprint = job, fingerprint

    def process(self, element: ShardOutput) -> Iterator[int]:
        self._job.write_shard(element, self._fingerprint)
        name, counts = self._job.stage.name, element.counts
        for metric, number in (
            ("shards", 1),
            ("records_in", counts.records_in),
            ("records_out", counts.records_out),
            ("errors", counts.errors),
            ("truncated", counts.truncated),
            *counts.rejects.items(),
        ):
            Metrics.counter(name, metric).inc(number)
        logging.info("stage %s, shard %d: %s", name, element.index, counts)
        yield element.index

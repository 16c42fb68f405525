"""A resumable inference stage: shard by shard through a model, each written once it is done.

An element is a shard, what is to do is decided at launch, and each finished shard is renamed into
place before its done marker: after a kill at any moment the same command does the rest.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
from absl import logging
from apache_beam.metrics.metric import Metrics
from apache_beam.ml.inference.base import RunInference

from beam_pipelines import execution
from beam_pipelines.execution import BeamConfig
from beam_pipelines.handler import Shard, ShardHandler, ShardOutput, Task
from beam_pipelines.progress import shard_progress
from humpback_jax import records
from humpback_jax.errors import UserError
from humpback_jax.records import Reject
from humpback_jax.rundir import Counts, StageDir


@dataclasses.dataclass(frozen=True)
class InferenceStage:
    """One stage: from whose shards it is made, by what, and into which records.

    Attributes:
      stage: the folder that is written.
      source: the finished stage that is read; the result has as many shards.
      read: the source's record class.
      write: the result's record class.
      task: what the workers do with a shard.
      only_ok: leave out source records whose status is not "ok"; they were counted as rejects.
    """

    stage: StageDir
    source: StageDir
    read: type
    write: type
    task: Task
    only_ok: bool = False


def run_stage(
    job: InferenceStage,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    beam_config: BeamConfig,
) -> Counts:
    """Does what is left of a stage and returns its counts; a finished one is skipped.

    Args:
      job: the stage.
      config: everything that decides its outputs, JSON-able.
      inputs: digests of what it reads besides the source stage, such as the model's fingerprint.
      beam_config: where to run.

    Raises:
      UserError: the source is not finished, or the folder holds work of another configuration.
    """
    if not job.source.is_done():
        raise UserError(
            f"stage {job.stage.name} reads stage {job.source.name}, which is not finished in "
            f"{job.source.path}: run that stage first"
        )
    fingerprint = job.stage.begin(config, {**inputs, job.source.name: job.source.digest})
    if job.stage.is_done():
        return Counts(**job.stage.summary()["counts"])
    start = time.monotonic()
    todo = job.stage.todo(job.source.num_done(), fingerprint)
    if todo:
        logging.info("stage %s: %d shards to do", job.stage.name, len(todo))
        build = _pipeline(job, todo, fingerprint, beam_config)
        with shard_progress(job.stage, job.source.num_done()):
            execution.run_pipeline(build, beam_config)
    counts = job.stage.counts()
    job.stage.finish(counts, job.stage.shards_digest(), time.monotonic() - start)
    logging.info("stage %s: %s", job.stage.name, counts)
    return counts


def _pipeline(
    job: InferenceStage, todo: Sequence[int], fingerprint: str, config: BeamConfig
) -> Callable[[beam.Pipeline], object]:
    """Returns what builds the pipeline over the shards that are to be done."""
    in_one_process = config.is_local and config.direct_running_mode != "multi_processing"

    def build(pipeline: beam.Pipeline) -> object:
        return (
            pipeline
            | "Shards" >> beam.Create(todo)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(ReadShard(job))
            | "Infer" >> RunInference(ShardHandler(job.task, share=not in_one_process))
            | "Write" >> beam.ParDo(WriteShard(job, fingerprint))
        )

    return build


class ReadShard(beam.DoFn):
    """Reads a shard of the source stage."""

    def __init__(self, job: InferenceStage):
        self._source, self._read, self._only_ok = job.source, job.read, job.only_ok

    def process(self, element: int) -> Iterator[Shard]:
        rows = records.read_parquet(self._read, self._source.shard_path(element))
        yield Shard(element, [row for row in rows if not self._only_ok or row.status == "ok"])


class WriteShard(beam.DoFn):
    """Writes a shard and its done marker, and counts its records."""

    def __init__(self, job: InferenceStage, fingerprint: str):
        self._stage, self._write, self._fingerprint = job.stage, job.write, fingerprint

    def process(self, element: ShardOutput) -> Iterator[int]:
        self._stage.write_shard(
            element.index,
            self._write,
            element.rows,
            element.counts,
            self._fingerprint,
            rejects=element.rejects,
        )
        for name, number in (
            ("shards", 1),
            ("records_in", element.counts.records_in),
            ("records_out", element.counts.records_out),
            ("errors", element.counts.errors),
            *element.counts.rejects.items(),
        ):
            Metrics.counter(self._stage.name, name).inc(number)
        logging.info("stage %s, shard %d: %s", self._stage.name, element.index, element.counts)
        yield element.index


def output_of(index: int, rows: Sequence[Any], sources: Sequence[str]) -> ShardOutput:
    """Returns a shard of records that carry a status: there is a record for every one read.

    Args:
      index: of the shard.
      rows: records with segment_id, status and detail; "ok" ones are passed on, those of status
        "error" are errors, all others rejects by their status.
      sources: where each record came from, for the rejects.
    """
    rejects: dict[str, int] = {}
    bad = [(row, source) for row, source in zip(rows, sources, strict=True) if row.status != "ok"]
    for row, _ in bad:
        rejects[row.status] = rejects.get(row.status, 0) + 1
    errors = rejects.pop("error", 0)
    counts = Counts(len(rows), len(rows) - len(bad), dict(sorted(rejects.items())), errors)
    kept = [Reject(row.segment_id, source, row.status, row.detail) for row, source in bad]
    return ShardOutput(index, rows, kept, counts)

"""Self-curation: M(t-1) rates every candidate (section 2.3)."""

import dataclasses

from etils import epath

from beam_pipelines import inference, shards
from beam_pipelines.config import BeamConfig
from beam_pipelines.handler import ModelSource, ModelTask, ModelWorker
from beam_pipelines.shards import InferenceStage, Shard, ShardOutput
from humpback_jax.infer.computation import deciding
from humpback_jax.infer.engine import EngineConfig
from humpback_jax.method import rating
from humpback_jax.method.long_texts import LongTextConfig
from humpback_jax.method.rating import RatingConfig
from humpback_jax.partitioning import MeshConfig
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, Rating
from humpback_jax.rundir import Counts, StageDir


def stage_name(iteration: int) -> str:
    """Returns the name of an iteration's stage: curate1."""
    return f"curate{iteration}"


def run_curate(
    run_dir: epath.PathLike,
    iteration: int,
    model_path: epath.PathLike,
    prompts: Prompts,
    engine: EngineConfig,
    rating_config: RatingConfig,
    beam: BeamConfig | None,
    mesh: MeshConfig | None = None,
    dtype: str | None = None,
    source: str = "augment",
    long_text_config: LongTextConfig | None = None,
) -> Counts:
    """Writes stage "curate<t>": one Rating for each Candidate of status "ok" of stage "augment".

    Args:
      run_dir: the run directory.
      iteration: t, from 1.
      model_path: folder of the rating model M(t-1).
      prompts: the templates.
      engine: the shapes of inference.
      rating_config: how a score is found.
      beam: where the pipeline runs; None runs without Beam (beam_pipelines.pod).
      mesh: the devices of each worker; None uses one device.
      dtype: of the computation, by default the model's.
      source: the stage whose candidates are read.
      long_text_config: what becomes of candidates whose prompt is too long, by default rejected.

    Returns:
      The counts: candidates in, ratings of status "ok" out, rejects by status.
    """
    long_text_config = long_text_config or LongTextConfig()
    model = ModelSource(str(model_path), engine, mesh, dtype)
    fingerprint = model.fingerprint()
    job = InferenceStage(
        stage=StageDir(run_dir, stage_name(iteration)),
        source=StageDir(run_dir, source),
        read=Candidate,
        write=Rating,
        task=CurateTask(model, prompts, rating_config, iteration, long_text_config.truncate),
        only_ok=True,
    )
    config = {
        "rating_prompt": prompts.rating,
        "score_words": prompts.score,
        "engine": deciding(engine),
        "rating": rating_config,
        "iteration": iteration,
        "long_texts": long_text_config,
        "dtype": dtype,
    }
    return inference.run_stage(job, config, {"model": fingerprint}, beam)


@dataclasses.dataclass(frozen=True)
class CurateTask(ModelTask):
    """What a rating worker is to do."""

    prompts: Prompts
    rating: RatingConfig
    iteration: int
    truncate: bool = False

    def load(self) -> "CurateWorker":
        return CurateWorker(self)


class CurateWorker(ModelWorker[CurateTask]):
    """Rates the candidates of a shard."""

    def _warm_up(self) -> None:
        task = self._task
        rating.warm_up(self._engine, self._tokenizer, task.prompts, task.rating)

    def process(self, shard: Shard) -> ShardOutput:
        ratings = rating.rate(
            self._engine,
            self._tokenizer,
            self._task.prompts,
            shard.rows,
            self._task.rating,
            iteration=self._task.iteration,
            model=self._fingerprint,
            truncate=self._task.truncate,
        )
        sources = [f"candidate of {candidate.model}" for candidate in shard.rows]
        return shards.output_of(shard.index, ratings, sources)

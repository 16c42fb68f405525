"""Self-augmentation: the backward model writes one instruction for every segment (section 2.2)."""

import dataclasses
from collections.abc import Sequence

from etils import epath

from beam_pipelines import inference
from beam_pipelines.execution import BeamConfig
from beam_pipelines.handler import ModelSource, Shard, ShardOutput
from beam_pipelines.inference import InferenceStage
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.infer.engine import Engine, EngineConfig, Request, Result
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method import leaks
from humpback_jax.method.leaks import LeakConfig
from humpback_jax.partitioning import MeshConfig
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, CandidateStatus, Segment
from humpback_jax.rundir import Counts, StageDir

STAGE = "augment"


def run_augment(
    run_dir: epath.PathLike,
    model_path: epath.PathLike,
    prompts: Prompts,
    engine: EngineConfig,
    sampling: SamplingConfig,
    leak_filter: LeakConfig,
    beam: BeamConfig,
    mesh: MeshConfig | None = None,
    dtype: str | None = None,
    source: str = "segment",
) -> Counts:
    """Writes stage "augment": exactly one Candidate for each Segment of stage "segment".

    Args:
      run_dir: the run directory.
      model_path: folder of the backward model Myx.
      prompts: the templates.
      engine: the shapes of inference.
      sampling: how instructions are drawn.
      leak_filter: what is not passed on.
      beam: where the pipeline runs.
      mesh: the devices of each worker; None uses one device.
      dtype: of the computation, by default the model's.
      source: the stage whose segments are read.

    Returns:
      The counts: segments in, candidates of status "ok" out, rejects by status.
    """
    model = ModelSource(str(model_path), engine, mesh, dtype)
    fingerprint = model.fingerprint()
    job = InferenceStage(
        stage=StageDir(run_dir, STAGE),
        source=StageDir(run_dir, source),
        read=Segment,
        write=Candidate,
        task=AugmentTask(model, prompts, sampling, leak_filter),
    )
    config = {
        "backward": prompts.backward,
        "tags": prompts.tags,
        "engine": engine,
        "sampling": sampling,
        "leak_filter": leak_filter,
        "dtype": dtype,
    }
    return inference.run_stage(job, config, {"model": fingerprint}, beam)


@dataclasses.dataclass(frozen=True)
class AugmentTask:
    """What an augmenting worker is to do."""

    model: ModelSource
    prompts: Prompts
    sampling: SamplingConfig
    leak_filter: LeakConfig

    def load(self) -> "AugmentWorker":
        model, engine = self.model.load()
        return AugmentWorker(self, engine, model.tokenizer, model.fingerprint)


class AugmentWorker:
    """Writes instructions for the segments of a shard."""

    def __init__(self, task: AugmentTask, engine: Engine, tokenizer: Tokenizer, fingerprint: str):
        self._task = task
        self._engine = engine
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint

    def process(self, shard: Shard) -> ShardOutput:
        segments: Sequence[Segment] = shard.rows
        candidates: list[Candidate | None] = [None] * len(segments)
        requests: dict[int, Request] = {}
        for i, segment in enumerate(segments):
            try:
                prompt = self._task.prompts.render_backward(segment.text)
                ids = self._tokenizer.encode_prompt(prompt)
                requests[i] = Request(segment.segment_id, ids)
            except Exception as error:
                candidates[i] = self._error(segment, error)
        results = self._engine.generate(list(requests.values()), self._task.sampling)
        for i, result in zip(requests, results, strict=True):
            try:
                candidates[i] = self._candidate(segments[i], requests[i], result)
            except Exception as error:
                candidates[i] = self._error(segments[i], error)
        sources = [f"{s.source.file}:{s.source.offset}" for s in segments]
        return inference.output_of(shard.index, candidates, sources)

    def _candidate(self, segment: Segment, request: Request, result: Result) -> Candidate:
        if result.finish_reason == "too_long":
            detail = f"no bucket holds its prompt of {len(request.prompt_ids)} tokens"
            return self._make(segment, "", "too_long", detail)
        instruction = self._tokenizer.decode(result.token_ids).strip()
        if result.finish_reason == "length":
            detail = f"no end after {len(result.token_ids)} tokens"
            return self._make(segment, instruction, "too_long", detail)
        status, detail = leaks.check(
            instruction, segment.text, self._task.prompts, self._task.leak_filter
        )
        return self._make(segment, instruction, status, detail)

    def _error(self, segment: Segment, error: Exception) -> Candidate:
        return self._make(segment, "", "error", f"{type(error).__name__}: {error}")

    def _make(
        self, segment: Segment, instruction: str, status: CandidateStatus, detail: str
    ) -> Candidate:
        fields = dataclasses.asdict(self._task.sampling)
        return Candidate(
            segment_id=segment.segment_id,
            instruction=instruction,
            output=segment.text,
            model=self._fingerprint,
            sampling=" ".join(f"{name}={value}" for name, value in fields.items()),
            status=status,
            detail=detail,
        )

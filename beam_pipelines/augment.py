"""Self-augmentation: the backward model writes an instruction for every segment (section 2.2)."""

import dataclasses
import math
from collections.abc import Sequence

from etils import epath

from beam_pipelines import inference, shards
from beam_pipelines.config import BeamConfig
from beam_pipelines.handler import ModelSource, ModelTask, ModelWorker
from beam_pipelines.shards import InferenceStage, Shard, ShardOutput
from humpback_jax.infer.computation import deciding
from humpback_jax.infer.engine import EngineConfig, Request, Result
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method import leaks, long_texts, samples
from humpback_jax.method.leaks import LeakConfig
from humpback_jax.method.long_texts import LongTextConfig
from humpback_jax.method.samples import Sample, SamplesConfig
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
    beam: BeamConfig | None,
    mesh: MeshConfig | None = None,
    dtype: str | None = None,
    source: str = "segment",
    samples_config: SamplesConfig | None = None,
    long_text_config: LongTextConfig | None = None,
) -> Counts:
    """Writes stage "augment": exactly one Candidate for each Segment of stage "segment".

    Args:
      run_dir: the run directory.
      model_path: folder of the backward model Myx.
      prompts: the templates.
      engine: the shapes of inference.
      sampling: how instructions are drawn.
      leak_filter: what is not passed on.
      beam: where the pipeline runs; None runs without Beam (beam_pipelines.pod).
      mesh: the devices of each worker; None uses one device.
      dtype: of the computation, by default the model's.
      source: the stage whose segments are read.
      samples_config: how many instructions are drawn for a segment, by default one.
      long_text_config: what becomes of segments whose prompt is too long, by default rejected.

    Returns:
      The counts: segments in, candidates of status "ok" out, rejects by status.

    Raises:
      UsageError: several samples are asked for with greedy decoding, which draws them all alike.
    """
    samples_config = samples_config or SamplesConfig()
    samples_config.check_sampling(sampling)
    long_text_config = long_text_config or LongTextConfig()
    model = ModelSource(str(model_path), engine, mesh, dtype)
    fingerprint = model.fingerprint()
    job = InferenceStage(
        stage=StageDir(run_dir, STAGE),
        source=StageDir(run_dir, source),
        read=Segment,
        write=Candidate,
        task=AugmentTask(
            model, prompts, sampling, leak_filter, samples_config, long_text_config.truncate
        ),
    )
    config = {
        "backward": prompts.backward,
        "tags": prompts.tags,
        "engine": deciding(engine),
        "sampling": sampling,
        "leak_filter": leak_filter,
        "samples": samples_config,
        "long_texts": long_text_config,
        "dtype": dtype,
    }
    return inference.run_stage(job, config, {"model": fingerprint}, beam)


@dataclasses.dataclass(frozen=True)
class AugmentTask(ModelTask):
    """What an augmenting worker is to do."""

    prompts: Prompts
    sampling: SamplingConfig
    leak_filter: LeakConfig
    samples: SamplesConfig
    truncate: bool = False

    def load(self) -> "AugmentWorker":
        return AugmentWorker(self)


class AugmentWorker(ModelWorker[AugmentTask]):
    """Writes instructions for the segments of a shard."""

    def _warm_up(self) -> None:
        self._engine.warm_up(self._task.sampling)

    def process(self, shard: Shard) -> ShardOutput:
        segments: Sequence[Segment] = shard.rows
        candidates: list[Candidate | None] = [None] * len(segments)
        prompts: dict[int, tuple[list[int], int]] = {}
        for i, segment in enumerate(segments):
            try:
                prompts[i] = self._prompt(segment)
            except Exception as error:
                candidates[i] = self._candidate(segment, [_failed(error)])
        drawn = self._draw([(segments[i], ids) for i, (ids, _) in prompts.items()])
        for (i, (_, truncated)), found in zip(prompts.items(), drawn, strict=True):
            candidates[i] = self._candidate(segments[i], found, truncated)
        sources = [f"{s.source.file}:{s.source.offset}" for s in segments]
        return shards.output_of(shard.index, candidates, sources)

    def _prompt(self, segment: Segment) -> tuple[list[int], int]:
        """Returns (the prompt's tokens, how many characters of the text are left out)."""

        def encode(text: str) -> list[int]:
            return self._tokenizer.encode_prompt(self._task.prompts.render_backward(text))

        ids = encode(segment.text)
        if not self._task.truncate or len(ids) <= self._longest:
            return ids, 0
        # What is cut leaves room for all that may be generated.
        most = self._engine.longest(new_tokens=self._task.sampling.max_new_tokens)
        text = long_texts.beginning(segment.text, lambda cut: len(encode(cut)) <= most)
        return (encode(text), len(segment.text) - len(text)) if text else (ids, 0)

    @property
    def _longest(self) -> int:
        return self._engine.longest(new_tokens=1)

    def _draw(self, prompts: Sequence[tuple[Segment, list[int]]]) -> list[list[Sample]]:
        """Returns the samples of each of (segment, its prompt's tokens)."""
        count = self._task.samples.per_segment
        requests = [
            Request(samples.request_id(segment.segment_id, k), ids)
            for segment, ids in prompts
            for k in range(count)
        ]
        results = self._engine.generate(requests, self._task.sampling)
        drawn = []
        for n, (segment, ids) in enumerate(prompts):
            own = results[n * count : (n + 1) * count]
            drawn.append([self._sample(segment, len(ids), result) for result in own])
        return drawn

    def _sample(self, segment: Segment, prompt_tokens: int, result: Result) -> Sample:
        """Returns what a result says; whatever goes wrong becomes the sample's detail."""
        try:
            instruction, status, detail = self._judge(segment, prompt_tokens, result)
        except Exception as error:
            return _failed(error)
        return Sample(instruction, status, detail, result.logprob, len(result.logprobs))

    def _judge(
        self, segment: Segment, prompt_tokens: int, result: Result
    ) -> tuple[str, CandidateStatus, str]:
        """Returns (instruction, status, detail) of what was generated for a segment."""
        if result.finish_reason == "too_long":
            return "", "too_long", long_texts.too_long(prompt_tokens, self._longest)
        if not math.isfinite(result.logprob):
            return "", "error", "the model gave no finite probabilities"
        instruction = result.text(self._tokenizer.decode)
        if result.finish_reason == "length":
            return instruction, "too_long", f"no end after {len(result.token_ids)} tokens"
        status, detail = leaks.check(
            instruction,
            segment.text,
            self._task.prompts,
            self._task.leak_filter,
            segment.language,
        )
        return instruction, status, detail

    def _candidate(
        self, segment: Segment, drawn: Sequence[Sample], truncated: int = 0
    ) -> Candidate:
        chosen = samples.choose(drawn)
        fields = dataclasses.asdict(self._task.sampling)
        if self._task.samples.per_segment > 1:
            fields["samples"] = self._task.samples.per_segment
        return Candidate(
            segment_id=segment.segment_id,
            instruction=chosen.instruction,
            output=segment.text,
            model=self._fingerprint,
            sampling=" ".join(f"{name}={value}" for name, value in fields.items()),
            status=chosen.status,
            detail=chosen.detail,
            truncated=truncated,
        )


def _failed(error: Exception) -> Sample:
    return Sample("", "error", f"{type(error).__name__}: {error}")

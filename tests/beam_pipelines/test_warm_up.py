"""A worker compiles before its first shard, and nothing after that."""

import dataclasses

import jax
import pytest

from beam_pipelines.augment import AugmentTask
from beam_pipelines.curate import CurateTask
from beam_pipelines.handler import ModelSource
from beam_pipelines.shards import Shard
from humpback_jax.infer.engine import EngineConfig
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method.leaks import LeakConfig
from humpback_jax.method.rating import RatingConfig
from humpback_jax.method.samples import SamplesConfig
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, Segment
from humpback_jax.rundir import StageDir

PROMPTS = Prompts(rating="Is the answer good?\n{instruction}\n{output}\nReason:\n")
SAMPLING = SamplingConfig(max_new_tokens=11, temperature=1.0, seed=1)
REASONING = RatingConfig(mode="reasoning", max_reasoning_tokens=7)


def _augment(source):
    return AugmentTask(source, PROMPTS, SAMPLING, LeakConfig(), SamplesConfig())


def _curate(source):
    return CurateTask(source, PROMPTS, REASONING, 1)


@pytest.mark.parametrize(("make", "stage"), [(_augment, "segment"), (_curate, "augment")])
def test_nothing_is_compiled_after_the_first_shard_began(
    make, stage, rated_run_dir, model_folder, caplog
):
    record = Segment if stage == "segment" else Candidate
    rows = list(StageDir(rated_run_dir, stage).read(record))
    # Shapes that no other test has compiled.
    warm = EngineConfig(slots=6, buckets=(128,))
    cold = dataclasses.replace(warm, slots=5, warm_up=False)
    workers = [make(ModelSource(str(model_folder), engine)).load() for engine in (warm, cold)]
    with jax.log_compiles(), caplog.at_level("WARNING"):
        found = workers[0].process(Shard(0, rows))
        assert "Compiling" not in caplog.text
        others = workers[1].process(Shard(0, rows))
        assert "Compiling" in caplog.text
    assert [row.status for row in found.rows] == [row.status for row in others.rows]

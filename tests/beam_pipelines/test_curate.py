import pytest

from beam_pipelines.config import BeamConfig
from beam_pipelines.curate import run_curate
from humpback_jax.infer.engine import EngineConfig
from humpback_jax.method.long_texts import LongTextConfig
from humpback_jax.method.rating import RatingConfig
from humpback_jax.prompts import Prompts
from humpback_jax.records import Rating
from humpback_jax.rundir import StageDir

PROMPTS = Prompts(rating="Is the answer good?\n{instruction}\n{output}\nReason:\n")
ENGINE = EngineConfig(slots=4, buckets=(96,))


@pytest.mark.parametrize(
    "config", [RatingConfig(), RatingConfig(mode="reasoning", max_reasoning_tokens=8)]
)
def test_every_candidate_of_status_ok_is_rated(rated_run_dir, model_folder, config):
    counts = run_curate(rated_run_dir, 1, model_folder, PROMPTS, ENGINE, config, BeamConfig())
    assert (counts.records_in, counts.records_out) == (9, 6)
    assert counts.rejects == {"too_long": 3}
    stage = StageDir(rated_run_dir, "curate1")
    found = list(stage.read(Rating))
    assert [r.segment_id for r in found] == [f"s{i}{j}" for i in range(3) for j in (1, 2, 3)]
    assert {r.iteration for r in found} == {1}
    for rating in found:
        if rating.status == "ok":
            assert 1 <= rating.score <= 5
            assert sum(rating.distribution) == pytest.approx(1, abs=1e-5)
    assert len({r.score for r in found if r.status == "ok"}) > 1
    assert any(r.rationale for r in found) == (config.mode == "reasoning")
    assert [r.reason for r in stage.read_rejects()] == ["too_long"] * 3


def test_iterations_are_stages_of_their_own(rated_run_dir, model_folder):
    for iteration in (1, 2):
        run_curate(
            rated_run_dir, iteration, model_folder, PROMPTS, ENGINE, RatingConfig(), BeamConfig()
        )
    first, second = (list(StageDir(rated_run_dir, f"curate{i}").read(Rating)) for i in (1, 2))
    assert [r.score for r in first] == [r.score for r in second]
    assert {r.iteration for r in second} == {2}


@pytest.mark.parametrize(
    "config", [RatingConfig(), RatingConfig(mode="reasoning", max_reasoning_tokens=8)]
)
def test_on_request_the_beginning_of_a_long_output_is_rated(rated_run_dir, model_folder, config):
    truncate = LongTextConfig(truncate=True)
    stage = (rated_run_dir, 1, model_folder, PROMPTS, ENGINE, config, BeamConfig())
    counts = run_curate(*stage, long_text_config=truncate)
    assert str(counts) == "9 in = 9 out + 0 rejected + 0 errors, 3 truncated"
    for rating in StageDir(rated_run_dir, "curate1").read(Rating):
        assert (rating.truncated > 0) == rating.segment_id.endswith("2")
        assert 1 <= rating.score <= 5

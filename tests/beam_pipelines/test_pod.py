import os
import signal

import pytest

from beam_pipelines.config import BeamConfig
from beam_pipelines.curate import run_curate
from beam_pipelines.shards import InferenceStage
from humpback_jax.errors import PreemptedError, UserError
from humpback_jax.infer.engine import EngineConfig
from humpback_jax.method.rating import RatingConfig
from humpback_jax.prompts import Prompts
from humpback_jax.rundir import StageDir

PROMPTS = Prompts(rating="Is the answer good?\n{instruction}\n{output}\nReason:\n")
ENGINE = EngineConfig(slots=4, buckets=(96,))


def rate(run_dir, model_folder, beam=None):
    return run_curate(run_dir, 1, model_folder, PROMPTS, ENGINE, RatingConfig(), beam)


@pytest.fixture
def expected(rated_run_dir, model_folder, read_outputs, tmp_path_factory):
    """What Beam writes: the counts, the digest and the files; the stage is put aside."""
    counts = rate(rated_run_dir, model_folder, BeamConfig())
    stage, found = StageDir(rated_run_dir, "curate1"), read_outputs(rated_run_dir, "curate1")
    digest = stage.digest
    stage.path.rename(tmp_path_factory.mktemp("beam") / "curate1")
    return counts, digest, found


def test_without_beam_the_same_is_written(rated_run_dir, model_folder, read_outputs, expected):
    counts = rate(rated_run_dir, model_folder)
    stage = StageDir(rated_run_dir, "curate1")
    assert (counts, stage.digest, read_outputs(rated_run_dir, "curate1")) == expected
    before = stage.summary()
    assert rate(rated_run_dir, model_folder) == counts
    assert stage.summary() == before  # it was skipped


def test_sigterm_lets_the_shard_end_and_the_next_run_does_the_rest(
    rated_run_dir, model_folder, read_outputs, expected, monkeypatch
):
    read_shard, read = InferenceStage.read_shard, []

    def signalling_read(self, index):
        read.append(index)
        if len(read) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return read_shard(self, index)

    monkeypatch.setattr(InferenceStage, "read_shard", signalling_read)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match="was told to end, 2 of its 3 shards are done"):
        rate(rated_run_dir, model_folder)
    assert signal.getsignal(signal.SIGTERM) == before
    stage = StageDir(rated_run_dir, "curate1")
    assert stage.num_done() == 2
    counts = rate(rated_run_dir, model_folder)
    assert read == [0, 1, 2]
    assert (counts, stage.digest, read_outputs(rated_run_dir, "curate1")) == expected


def test_a_run_directory_that_is_not_shared_is_noticed(rated_run_dir, model_folder, monkeypatch):
    monkeypatch.setattr(InferenceStage, "write_shard", lambda *_: None)  # on another host
    with pytest.raises(UserError, match="shard 0 of .*curate1 was written where this process"):
        rate(rated_run_dir, model_folder)
    assert not StageDir(rated_run_dir, "curate1").is_done()

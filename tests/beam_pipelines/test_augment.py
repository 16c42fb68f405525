import dataclasses

import pytest

from beam_pipelines import augment
from beam_pipelines.augment import AugmentTask, run_augment
from beam_pipelines.execution import BeamConfig
from beam_pipelines.handler import ModelSource, Shard
from humpback_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from humpback_jax.errors import UserError
from humpback_jax.infer.engine import EngineConfig
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method.leaks import LeakConfig
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, Reject, Segment
from humpback_jax.rundir import Counts, StageDir

PROMPTS = Prompts()
ENGINE = EngineConfig(batch_size=4, buckets=(80, 128))
SAMPLING = SamplingConfig(max_new_tokens=12, temperature=1.0, top_p=1.0, seed=1)


def run(run_dir, model_folder, sampling=SAMPLING, beam=None) -> Counts:
    beam = beam or BeamConfig()
    return run_augment(run_dir, model_folder, PROMPTS, ENGINE, sampling, LeakConfig(), beam)


@pytest.fixture(scope="module")
def worker(model_folder):
    source = ModelSource(str(model_folder), ENGINE)
    return AugmentTask(source, PROMPTS, SAMPLING, LeakConfig()).load()


def segments(run_dir) -> list[Segment]:
    return list(StageDir(run_dir, "segment").read(Segment))


def test_every_segment_gets_exactly_one_candidate(run_dir, model_folder):
    counts = run(run_dir, model_folder)
    stage = StageDir(run_dir, "augment")
    found = list(stage.read(Candidate))
    assert [c.segment_id for c in found] == [s.segment_id for s in segments(run_dir)]
    assert [c.output for c in found] == [s.text for s in segments(run_dir)]
    statuses = [c.status for c in found]
    assert counts.records_in == 12
    assert counts.records_out == statuses.count("ok") > 0
    assert counts.rejects["too_long"] == statuses.count("too_long") >= 3
    rejects = list(stage.read_rejects())
    assert len(rejects) == 12 - counts.records_out
    assert isinstance(rejects[0], Reject)
    assert rejects[0].source == "a.warc.gz:17"
    assert all(c.instruction for c in found if c.status == "ok")
    assert "temperature=1.0" in found[0].sampling
    assert len({c.model for c in found}) == 1


def test_a_finished_stage_is_skipped_and_another_configuration_refused(run_dir, model_folder):
    counts = run(run_dir, model_folder)
    stage = StageDir(run_dir, "augment")
    before = stage.summary()
    assert run(run_dir, model_folder) == counts
    assert stage.summary() == before  # its time of finishing among it
    with pytest.raises(UserError, match=r"another configuration.*seed"):
        run(run_dir, model_folder, dataclasses.replace(SAMPLING, seed=2))


def test_what_was_killed_is_resumed_to_the_same_bytes(
    run_dir, model_folder, read_outputs, monkeypatch
):
    whole = run(run_dir, model_folder)
    stage, expected = StageDir(run_dir, "augment"), read_outputs(run_dir, "augment")
    digest = stage.digest
    # As a kill in the second shard leaves it: no stage.json, no marker, half a temporary file.
    (stage.path / "stage.json").unlink()
    stage.marker(1).unlink()
    stage.shard_path(1).unlink()
    (stage.path / "shards" / ".tmp-1-part-00001.parquet").write_bytes(b"half")
    done = []
    monkeypatch.setattr(
        augment.AugmentWorker,
        "process",
        lambda self, shard, process=augment.AugmentWorker.process: (
            done.append(shard.index) or process(self, shard)
        ),
    )
    assert run(run_dir, model_folder) == whole
    assert done == [1]
    assert read_outputs(run_dir, "augment") == expected
    assert stage.digest == digest


@pytest.mark.slow
def test_worker_processes_share_one_model_and_give_the_same_bytes(
    run_dir, model_folder, read_outputs, tmp_path_factory
):
    run(run_dir, model_folder)
    expected = read_outputs(run_dir, "augment")
    stage = StageDir(run_dir, "augment")
    stage.path.rename(tmp_path_factory.mktemp("old") / "augment")
    beam = BeamConfig(direct_running_mode="multi_processing", num_workers=2)
    run(run_dir, model_folder, beam=beam)
    assert read_outputs(run_dir, "augment") == expected


def test_it_needs_a_finished_source(tmp_path, model_folder):
    with pytest.raises(UserError, match="reads stage segment, which is not finished"):
        run(tmp_path, model_folder)


def test_a_candidate_does_not_depend_on_its_shard(worker, run_dir):
    rows = segments(run_dir)
    together = worker.process(Shard(0, rows)).rows
    assert worker.process(Shard(0, rows[5:7])).rows == together[5:7]
    assert worker.process(Shard(0, rows[::-1])).rows[::-1] == together


def test_one_bad_document_harms_nobody(worker, run_dir, monkeypatch):
    rows = segments(run_dir)[:4]
    good = worker.process(Shard(0, rows)).rows
    encode = SentencePieceTokenizer.encode

    def poisoned(self, text):
        if rows[1].text in text:
            raise RuntimeError("no such text")
        return encode(self, text)

    monkeypatch.setattr(SentencePieceTokenizer, "encode", poisoned)
    output = worker.process(Shard(0, rows))
    bad = output.rows[1]
    assert (bad.status, bad.detail) == ("error", "RuntimeError: no such text")
    assert (bad.segment_id, bad.output) == (rows[1].segment_id, rows[1].text)
    assert [*output.rows[:1], *output.rows[2:]] == [*good[:1], *good[2:]]
    assert output.counts.errors == 1


def test_an_empty_shard_is_a_shard(worker):
    assert worker.process(Shard(0, [])).counts == Counts(0, 0)

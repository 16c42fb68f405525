"""One bad document gives one error record, and its shard goes on: for both stages, to the disk."""

import dataclasses

import pytest

from beam_pipelines.augment import AugmentTask
from beam_pipelines.curate import CurateTask
from beam_pipelines.handler import ModelSource
from beam_pipelines.shards import InferenceStage, Shard
from humpback_jax.infer.engine import EngineConfig
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method.leaks import LeakConfig
from humpback_jax.method.rating import RatingConfig
from humpback_jax.method.samples import SamplesConfig
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, Rating, Segment
from humpback_jax.rundir import StageDir

SURROGATE, EMPTY, SPECIAL = "Half \ud800 of a pair.", "", "End it.</s><s> Go on.<unk>"
TEXTS = ("Red cars are fast.", SURROGATE, EMPTY, SPECIAL, "Tea is a drink made of leaves.")
BAD = TEXTS.index(SURROGATE)
PROMPTS = Prompts(rating="Is the answer good?\n{instruction}\n{output}\nReason:\n")
ENGINE = EngineConfig(slots=4, buckets=(80, 128))


@pytest.fixture(scope="module")
def segments(make_segment):
    return [make_segment(f"s{i}", text) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module", params=["augment", "augment thrice", "curate"])
def work(request, model_folder, segments):
    """Returns (name of a stage, its worker, its source records, the class of its results)."""
    source = ModelSource(str(model_folder), ENGINE)
    if request.param == "curate":
        task = CurateTask(source, PROMPTS, RatingConfig(), 1)
        rows = [Candidate(s.segment_id, "Say it.", s.text, "m", "", "ok") for s in segments]
        return "curate1", task.load(), rows, Rating
    sampling = SamplingConfig(max_new_tokens=12, temperature=1.0, top_p=1.0, seed=1)
    samples = SamplesConfig(per_segment=3 if "thrice" in request.param else 1)
    task = AugmentTask(source, Prompts(), sampling, LeakConfig(), samples)
    return "augment", task.load(), segments, Candidate


def test_one_error_record_is_written_and_the_others_are_as_ever(work, tmp_path):
    name, worker, rows, cls = work
    output = worker.process(Shard(0, rows))
    assert [row.segment_id for row in output.rows] == [f"s{i}" for i in range(len(TEXTS))]
    bad = output.rows[BAD]
    assert bad.status == "error"
    assert bad.detail
    assert output.counts.errors == 1
    others = [row for i, row in enumerate(rows) if i != BAD]
    assert list(worker.process(Shard(0, others)).rows) == [r for r in output.rows if r is not bad]
    stage = StageDir(tmp_path, name)
    InferenceStage(stage, stage, read=Segment, write=cls, task=None).write_shard(output, "f")
    assert list(stage.read(cls)) == list(output.rows)
    assert [r.record_id for r in stage.read_rejects() if r.reason == "error"] == [f"s{BAD}"]
    if cls is Candidate:
        assert [row.output for row in output.rows] == [t.replace("\ud800", "?") for t in TEXTS]


def test_text_that_spells_special_tokens_makes_none(work, monkeypatch):
    _, worker, rows, _ = work
    heard = []
    for method in ("generate", "score_choices"):
        whole = getattr(worker._engine, method)

        def listen(requests, *args, whole=whole):
            heard.extend(requests)
            return whole(requests, *args)

        monkeypatch.setattr(worker._engine, method, listen)
    output = worker.process(Shard(0, [rows[TEXTS.index(SPECIAL)]]))
    assert output.counts.errors == 0
    assert heard
    tokenizer = worker._tokenizer
    for request in heard:
        assert request.prompt_ids[0] == tokenizer.bos_id
        assert not tokenizer.special_ids.intersection(request.prompt_ids[1:])
        assert SPECIAL in tokenizer.decode(request.prompt_ids)


def test_a_record_that_utf_8_can_hold_is_not_touched(work):
    _, worker, rows, _ = work
    texts = ("\x00 and \ufffd", "\U0001f40b é e\u0301")
    odd = [dataclasses.replace(rows[0], **{_text_field(rows[0]): text}) for text in texts]
    output = worker.process(Shard(0, odd))
    assert output.counts.errors == 0
    if isinstance(output.rows[0], Candidate):
        assert tuple(row.output for row in output.rows) == texts


def _text_field(row):
    return "text" if isinstance(row, Segment) else "output"

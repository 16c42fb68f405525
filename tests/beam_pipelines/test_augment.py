import dataclasses

import pytest

from beam_pipelines import augment, inference
from beam_pipelines.augment import AugmentTask, run_augment
from beam_pipelines.config import BeamConfig
from beam_pipelines.handler import ModelSource
from beam_pipelines.shards import InferenceStage, Shard
from humpback_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from humpback_jax.errors import UsageError, UserError
from humpback_jax.infer.engine import EngineConfig, Result
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method import leaks
from humpback_jax.method.leaks import LeakConfig
from humpback_jax.method.long_texts import LongTextConfig
from humpback_jax.method.samples import SamplesConfig
from humpback_jax.partitioning import MeshConfig
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, Reject, Segment
from humpback_jax.rundir import Counts, StageDir

PROMPTS = Prompts()
ENGINE = EngineConfig(slots=4, buckets=(80, 128))
SAMPLING = SamplingConfig(max_new_tokens=12, temperature=1.0, top_p=1.0, seed=1)


THREE = SamplesConfig(per_segment=3)


def run(run_dir, model_folder, sampling=SAMPLING, beam=None, **more) -> Counts:
    beam = beam or BeamConfig()
    return run_augment(run_dir, model_folder, PROMPTS, ENGINE, sampling, LeakConfig(), beam, **more)


@pytest.fixture(scope="module")
def worker(model_folder):
    source = ModelSource(str(model_folder), ENGINE)
    return AugmentTask(source, PROMPTS, SAMPLING, LeakConfig(), SamplesConfig()).load()


@pytest.fixture(scope="module")
def drawer(model_folder):
    """A worker that draws three instructions for each segment."""
    source = ModelSource(str(model_folder), ENGINE)
    return AugmentTask(source, PROMPTS, SAMPLING, LeakConfig(), THREE).load()


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


def _killed(run_dir):
    """Leaves a stage as a kill in its second shard does."""
    stage = StageDir(run_dir, "augment")
    (stage.path / "stage.json").unlink()
    for path in (stage.marker(1), stage.shard_path(1)):
        path.unlink()
    return stage


@pytest.mark.parametrize("beam", [None, BeamConfig()])
def test_what_was_killed_is_not_resumed_where_last_bits_differ(
    run_dir, model_folder, read_outputs, beam
):
    def begin(mesh, slots):
        engine = dataclasses.replace(ENGINE, slots=slots)
        more = (SAMPLING, LeakConfig(), beam, mesh)
        return run_augment(run_dir, model_folder, PROMPTS, engine, *more)

    whole = begin(MeshConfig(data=8), 32)
    expected = read_outputs(run_dir, "augment")
    # What is done is done, whatever the machine.
    assert begin(MeshConfig(data=4, tensor=2), 8) == whole
    stage = _killed(run_dir)
    for mesh, slots, change in (
        (MeshConfig(data=4, tensor=2), 16, "mesh.tensor 1 -> 2"),
        (MeshConfig(data=8), 8, "slots_per_device 4 -> 1"),
    ):
        with pytest.raises(UserError, match=rf"begun where results differ.*{change}"):
            begin(mesh, slots)
    assert not stage.is_done()
    assert begin(None, 4) == whole  # one device with as many slots as each of the eight had
    assert read_outputs(run_dir, "augment") == expected


def test_what_was_killed_is_resumed_to_the_same_bytes(
    run_dir, model_folder, read_outputs, monkeypatch
):
    whole = run(run_dir, model_folder)
    stage, expected = StageDir(run_dir, "augment"), read_outputs(run_dir, "augment")
    digest = stage.digest
    _killed(run_dir)
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


@pytest.fixture
def heard(drawer, monkeypatch):
    """What the drawer's engine was asked for, and what it answered, filled by `process`."""
    heard = {}
    generate = drawer._engine.generate

    def listen(requests, *args):
        results = generate(requests, *args)
        heard.update(zip((r.request_id for r in requests), results, strict=True))
        return results

    monkeypatch.setattr(drawer._engine, "generate", listen)
    return heard


def passes(instruction: str, segment: Segment) -> bool:
    return leaks.check(instruction, segment.text, PROMPTS, LeakConfig(), "en")[0] == "ok"


def test_of_several_samples_the_likeliest_that_passes_is_kept(drawer, heard, run_dir):
    rows = segments(run_dir)
    output = drawer.process(Shard(0, rows))
    assert len(heard) == 3 * len(rows)
    places = set()
    for segment, candidate in zip(rows, output.rows, strict=True):
        assert candidate.segment_id == segment.segment_id
        assert candidate.sampling.endswith(" samples=3")
        likelihoods = {}
        for place, name in enumerate(("", "/sample1", "/sample2")):
            result = heard[segment.segment_id + name]
            text = drawer._tokenizer.decode(result.token_ids).strip()
            if result.finish_reason == "stop" and passes(text, segment):
                mean = result.logprob / (len(result.token_ids) + 1)  # with the stop token
                likelihoods[mean] = (place, text)
        assert (candidate.status == "ok") == bool(likelihoods)
        if likelihoods:
            place, text = likelihoods[max(likelihoods)]
            assert candidate.instruction == text
            places.add(place)
    assert len(places) > 1  # the first is not always the likeliest
    assert output.counts.records_in == len(rows)
    assert output.counts.records_out == [c.status for c in output.rows].count("ok") > 0


def test_the_first_of_several_samples_is_the_one_that_is_drawn_alone(
    worker, drawer, heard, run_dir
):
    rows = segments(run_dir)
    alone = worker.process(Shard(0, rows)).rows
    drawer.process(Shard(0, rows))
    for candidate in alone:
        assert "samples" not in candidate.sampling
        first = heard[candidate.segment_id]
        assert candidate.instruction == drawer._tokenizer.decode(first.token_ids).strip()


def test_rejected_samples_are_counted_in_the_detail(drawer, heard, run_dir):
    rows = segments(run_dir)
    output = drawer.process(Shard(0, rows))
    by_text = dict(zip((s.text for s in rows), output.rows, strict=True))
    longest = by_text["word " * 300]
    assert longest.status == "too_long"
    assert longest.detail.endswith("; samples rejected: 3 of 3 (too_long 3)")
    cut = {i.split("/")[0]: 0 for i in heard}
    for i, result in heard.items():
        cut[i.split("/")[0]] += result.finish_reason != "stop"
    some = [c for c in output.rows if c.status == "ok" and cut[c.segment_id]]
    assert some
    for candidate in some:
        assert f"too_long {cut[candidate.segment_id]}" in candidate.detail


def test_several_samples_do_not_depend_on_the_shard(drawer, run_dir):
    rows = segments(run_dir)
    together = drawer.process(Shard(0, rows)).rows
    assert drawer.process(Shard(0, rows[3:6])).rows == together[3:6]
    assert drawer.process(Shard(0, rows[::-1])).rows[::-1] == together


def test_the_number_of_samples_is_part_of_the_configuration(run_dir, model_folder):
    run(run_dir, model_folder)
    with pytest.raises(UserError, match=r"another configuration.*per_segment"):
        run(run_dir, model_folder, samples_config=THREE)


def test_greedy_decoding_draws_one_sample(run_dir, model_folder):
    greedy = dataclasses.replace(SAMPLING, temperature=0.0)
    with pytest.raises(UsageError, match="at temperature 0 all are the same"):
        run(run_dir, model_folder, greedy, samples_config=THREE)


GERMAN = (
    "Wie sollte ich Kaffeebohnen aufbewahren, damit sie möglichst lange frisch bleiben "
    "und nicht an Geschmack verlieren?"
)


def test_an_instruction_in_another_language_than_its_segments_is_rejected(
    worker, run_dir, monkeypatch
):
    english = segments(run_dir)[1]
    rows = [dataclasses.replace(english, language=code) for code in ("en", "de", "unknown", "")]
    monkeypatch.setattr(SentencePieceTokenizer, "decode", lambda self, ids: GERMAN)
    monkeypatch.setattr(
        worker._engine,
        "generate",
        lambda requests, *args: [Result(r.request_id, (5,), "stop") for r in requests],
    )
    output = worker.process(Shard(0, rows))
    assert [c.status for c in output.rows] == ["wrong_language", "ok", "ok", "ok"]
    assert str(output.counts) == "4 in = 3 out + 1 rejected (wrong_language 1) + 0 errors"


def test_a_prompt_that_is_too_long_says_its_length_and_the_limit(worker, run_dir):
    long = segments(run_dir)[2]
    (candidate,) = worker.process(Shard(0, [long])).rows
    ids = worker._tokenizer.encode_prompt(PROMPTS.render_backward(long.text))
    message = f"its prompt of {len(ids)} tokens is longer than the 128 there is room for"
    assert (candidate.status, candidate.detail) == ("too_long", message)


@pytest.mark.parametrize("beam", [None, BeamConfig()])
def test_on_request_an_instruction_is_drawn_for_the_beginning(
    run_dir, model_folder, beam, monkeypatch
):
    shown, encode = {}, SentencePieceTokenizer.encode_prompt

    def listen(self, prompt):
        shown[prompt] = encode(self, prompt)
        return shown[prompt]

    monkeypatch.setattr(SentencePieceTokenizer, "encode_prompt", listen)
    engine = (PROMPTS, ENGINE, SAMPLING, LeakConfig(), beam)
    truncate = LongTextConfig(truncate=True)
    counts = run_augment(run_dir, model_folder, *engine, long_text_config=truncate)
    assert counts.truncated == 3
    assert str(counts).endswith(", 3 truncated")
    found = list(StageDir(run_dir, "augment").read(Candidate))
    rejects = {r.record_id: r for r in StageDir(run_dir, "augment").read_rejects()}
    for segment, candidate in zip(segments(run_dir), found, strict=True):
        assert candidate.output == segment.text  # the record keeps it whole
        assert (candidate.truncated > 0) == (segment.text == "word " * 300)
        text = segment.text[: len(segment.text) - candidate.truncated]
        assert len(shown[PROMPTS.render_backward(text)]) <= 128
        if candidate.truncated:
            assert len(text) > 100
            assert text.endswith("word")
            assert "there is room for" not in candidate.detail
            if candidate.status != "ok":
                cut = f"its text was truncated by {candidate.truncated} characters"
                assert rejects[candidate.segment_id].detail.endswith(cut)
    with pytest.raises(UserError, match=r"another configuration.*long_texts.truncate"):
        run(run_dir, model_folder)


def test_what_is_cut_leaves_room_for_the_instruction(model_folder, run_dir):
    """The model's longest sequence is 256 tokens: of a bucket of 250, it would leave 6."""
    source = ModelSource(str(model_folder), dataclasses.replace(ENGINE, buckets=(250,)))
    task = AugmentTask(source, PROMPTS, SAMPLING, LeakConfig(), SamplesConfig(), truncate=True)
    ids, truncated = task.load()._prompt(segments(run_dir)[2])
    assert truncated
    assert 256 - 12 - 4 <= len(ids) <= 256 - 12


def test_an_instruction_ends_before_its_stop_string(worker, run_dir, monkeypatch):
    monkeypatch.setattr(SentencePieceTokenizer, "decode", lambda self, ids: "Why so? \n\n# And")
    monkeypatch.setattr(
        worker._engine,
        "generate",
        lambda requests, *args: [
            Result(r.request_id, (5, 6), "stop", (-1.0, -2.0), "\n#") for r in requests
        ],
    )
    (candidate,) = worker.process(Shard(0, segments(run_dir)[:1])).rows
    assert (candidate.instruction, candidate.status) == ("Why so?", "ok")


def test_an_empty_shard_is_a_shard(worker):
    assert worker.process(Shard(0, [])).counts == Counts(0, 0)


def test_a_shard_that_was_finished_meanwhile_is_not_given_to_the_model(run_dir, model_folder):
    """Flink, told to restart jobs by itself, gives them all their shards again."""
    stages = [StageDir(run_dir, name) for name in ("augment", "segment")]
    task = AugmentTask(
        ModelSource(str(model_folder), ENGINE), PROMPTS, SAMPLING, LeakConfig(), SamplesConfig()
    )
    job = InferenceStage(*stages, read=Segment, write=Candidate, task=task)
    fingerprint = stages[0].begin({}, {})
    read = inference.ReadShard(job, fingerprint)
    assert [shard.index for i in range(3) for shard in read.process(i)] == [0, 1, 2]
    stages[0].write_shard(1, Candidate, [], Counts(0, 0), fingerprint)
    assert [shard.index for i in range(3) for shard in read.process(i)] == [0, 2]

import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import pickle
import platform
import subprocess
import sys

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from humpback_jax import rundir
from humpback_jax.errors import UserError
from humpback_jax.records import Reject, SeedPair
from humpback_jax.rundir import Counts, StageDir

PAIRS = [SeedPair(f"p{i}", f"ask {i}", f"answer {i}", "seed") for i in range(6)]
REJECTS = [Reject("r0", "seed", "empty", "")]


@dataclasses.dataclass(frozen=True)
class Filters:
    min_length: int = 3
    languages: tuple[str, ...] = ("en",)


@pytest.fixture
def stage(tmp_path):
    return StageDir(tmp_path, "seed")


def _files(path):
    path = pathlib.Path(path)
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def _write(stage, index, rows, fingerprint="f", rejects=(), **options):
    counts = Counts(len(rows) + len(rejects), len(rows), {"empty": len(rejects)})
    stage.write_shard(index, SeedPair, rows, counts, fingerprint, rejects, **options)


def _fill_the_disk(monkeypatch, path):
    """Lets every write end half-way with ENOSPC."""
    whole = type(epath.Path(path)).write_bytes

    def half(self, content):
        whole(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(epath.Path(path)), "write_bytes", half)


# Counts.


def test_counts_add_by_reason():
    total = Counts(5, 2, {"a": 3}) + Counts(4, 1, {"b": 1, "a": 1}, errors=1)
    assert total == Counts(9, 3, {"a": 4, "b": 1}, 1)
    assert Counts(2, 2, truncated=1) + Counts(3, 3, truncated=2) == Counts(5, 5, truncated=3)
    total.check("here")


@given(
    out=st.integers(0, 9),
    rejects=st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
    errors=st.integers(0, 9),
    lost=st.integers(-3, 3),
)
def test_conservation(out, rejects, errors, lost):
    counts = Counts(out + sum(rejects.values()) + errors + lost, out, rejects, errors)
    if lost:
        with pytest.raises(RuntimeError, match="here lost records"):
            counts.check("here")
    else:
        counts.check("here")


def test_counts_in_words():
    counts = Counts(9, 3, {"a": 4, "b": 1, "c": 0}, 1)
    assert str(counts) == "9 in = 3 out + 5 rejected (a 4, b 1) + 1 errors"
    assert str(Counts(2, 2)) == "2 in = 2 out + 0 rejected + 0 errors"
    assert str(Counts(2, 2, truncated=1)).endswith("+ 0 errors, 1 truncated")


# Fingerprints.


def test_a_fingerprint_depends_on_values_alone(tmp_path):
    assert rundir.fingerprint({"a": 1, "b": Filters()}) == rundir.fingerprint(
        {"b": {"languages": ["en"], "min_length": 3}, "a": 1}
    )
    assert rundir.fingerprint(Filters()) != rundir.fingerprint(Filters(4))
    assert rundir.fingerprint(epath.Path("a")) == rundir.fingerprint("a")
    with pytest.raises(TypeError, match="cannot be part of a fingerprint"):
        rundir.fingerprint({"a": object()})


def test_a_golden_fingerprint():
    """Golden: a fingerprint that changes with a version would refuse every run directory."""
    assert rundir.fingerprint({"a": [1, 2.5, "ü"]}) == "25c0f1fc0cac06dc"


# Atomic writes.


def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = epath.Path(tmp_path) / "deep" / "a.txt"
    rundir.write_atomic(path, "one")
    rundir.write_atomic(path, "zwö")
    assert path.read_bytes() == "zwö".encode()
    assert _files(tmp_path) == ["deep/a.txt"]


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "a.txt"
    rundir.write_atomic(path, "before")
    with monkeypatch.context() as patched:
        _fill_the_disk(patched, tmp_path)
        with pytest.raises(UserError) as caught:
            rundir.write_atomic(path, "afterwards")
    message = str(caught.value)
    assert message.startswith(f"{path} could not be written (No space left on device)")
    assert "\n" not in message
    assert path.read_text() == "before"
    assert _files(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_no_shard(stage, monkeypatch):
    with monkeypatch.context() as patched:
        _fill_the_disk(patched, stage.path)
        with pytest.raises(UserError, match="No space left"):
            _write(stage, 0, PAIRS)
    assert _files(stage.path) == []
    assert stage.todo(1, "f") == [0]
    _write(stage, 0, PAIRS)
    assert stage.todo(1, "f") == []


def test_a_disk_that_fills_up_before_the_marker_leaves_the_shard_to_do(stage, monkeypatch):
    write = rundir.write_atomic

    def failing(path, content):
        if path.name.endswith(".done.json"):
            raise UserError("full")
        write(path, content)

    monkeypatch.setattr(rundir, "write_atomic", failing)
    with pytest.raises(UserError, match="full"):
        _write(stage, 0, PAIRS)
    assert stage.todo(1, "f") == [0]
    assert list(stage.read(SeedPair)) == []
    assert stage.counts() == Counts(0, 0)


def test_a_run_directory_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        rundir.write_atomic(epath.Path(tmp_path) / "file" / "config.gin", "a")


# Stages.


def test_a_stage_from_beginning_to_end(stage):
    assert not stage.is_done()
    assert not stage.is_running()
    fingerprint = stage.begin({"filters": Filters()}, {"seed": "abc"})
    assert stage.is_running()
    _write(stage, 0, PAIRS, fingerprint)
    stage.finish(stage.counts(), stage.shards_digest(), 1.5, note="x")
    assert stage.is_done()
    assert not stage.is_running()
    summary = stage.summary()
    assert Counts(**summary["counts"]) == Counts(6, 6, {"empty": 0})
    assert (summary["stage"], summary["seconds"], summary["note"]) == ("seed", 1.5, "x")
    assert stage.digest == stage.shards_digest()
    # Beginning a finished stage again neither marks it as running nor changes its fingerprint.
    assert stage.begin({"filters": Filters()}, {"seed": "abc"}) == fingerprint
    assert not stage.is_running()


def test_the_fingerprint_of_a_stage_depends_on_its_inputs(tmp_path):
    one = StageDir(tmp_path, "a").begin({"x": 1}, {"seed": "abc"})
    two = StageDir(tmp_path, "b").begin({"x": 1}, {"seed": "abd"})
    assert one != two


def test_a_stage_that_lost_records_is_not_done(stage):
    with pytest.raises(RuntimeError, match="stage seed lost records"):
        stage.finish(Counts(3, 2), "digest", 0.0)
    assert not stage.is_done()


@pytest.mark.parametrize(
    ("config", "inputs", "changed"),
    [
        ({"filters": Filters(4), "pack": True}, {}, ["filters.min_length 3 -> 4"]),
        (
            {"filters": Filters(3, ("de",)), "pack": False},
            {},
            ["filters.languages ['en'] -> ['de']", "pack True -> False"],
        ),
        ({"filters": Filters(), "pack": True}, {"seed": "b"}, ["inputs.seed 'a' -> 'b'"]),
        ({"filters": Filters()}, {}, ["config.pack True -> 'absent'"]),
        ({"filters": Filters(), "pack": True, "new": None}, {}, ["config.new 'absent' -> None"]),
    ],
)
def test_a_changed_configuration_is_refused_by_name(stage, config, inputs, changed):
    stage.begin({"filters": Filters(), "pack": True}, {"seed": "a"})
    _write(stage, 0, PAIRS)
    with pytest.raises(UserError) as caught:
        stage.begin(config, {"seed": "a", **inputs})
    message = str(caught.value)
    assert "was made with another configuration" in message
    for change in changed:
        assert change in message
    assert message.count("->") == len(changed)


def test_a_configuration_may_change_while_nothing_is_made(stage):
    first = stage.begin({"x": 1}, {})
    assert stage.begin({"x": 2}, {}) != first
    assert json.loads((stage.path / "config.json").read_text())["config"] == {"x": 2}


def test_a_full_disk_at_the_beginning_is_no_work(stage, monkeypatch):
    with monkeypatch.context() as patched:
        _fill_the_disk(patched, stage.path)
        with pytest.raises(UserError, match="No space left"):
            stage.begin({"x": 1}, {})
    assert _files(stage.path) == []
    stage.begin({"x": 2}, {})


ONE = {"device": "cpu", "mesh": {"tensor": 1}}
TWO = {"device": "cpu", "mesh": {"tensor": 2}}


def test_shards_that_are_computed_otherwise_are_refused(stage):
    stage.begin({"x": 1}, {})
    stage.compute_by(ONE)
    _write(stage, 0, PAIRS)
    stage.begin({"x": 1}, {})
    stage.compute_by(ONE)
    with pytest.raises(UserError) as caught:
        stage.compute_by(TWO)
    message = str(caught.value)
    assert message.startswith(f"{stage.path} was begun where results differ in their last bits")
    assert "(mesh.tensor 1 -> 2): go on with the mesh" in message
    assert "\n" not in message


def test_another_computation_may_begin_while_nothing_is_made(stage):
    stage.begin({"x": 1}, {})
    stage.compute_by(ONE)
    stage.begin({"x": 1}, {})
    stage.compute_by(TWO)


def test_is_running_asks_for_the_process(stage):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = stage.path / "running.json"
    for owner, expected in [
        ({"pid": os.getpid(), "host": platform.node()}, True),
        ({"pid": ended.pid, "host": platform.node()}, False),
        ({"pid": ended.pid, "host": "another-host"}, True),
    ]:
        rundir.write_json(path, owner)
        assert stage.is_running() is expected, owner


# Shards.


def test_shards_are_read_in_order_of_their_index(stage):
    for index in (10, 2, 0):
        _write(stage, index, [PAIRS[index % 6]], rejects=REJECTS if index else ())
    assert [pair.pair_id for pair in stage.read(SeedPair)] == ["p0", "p2", "p4"]
    assert list(stage.read_rejects()) == REJECTS * 2
    assert stage.counts() == Counts(5, 3, {"empty": 2})
    assert len(stage.markers()) == 3


def test_todo_is_what_has_no_marker_of_this_configuration(stage):
    _write(stage, 1, PAIRS, "new")
    _write(stage, 2, PAIRS, "old")
    assert stage.todo(4, "new") == [0, 2, 3]
    assert stage.todo(2, "new") == [0]
    assert stage.todo(2, "new", "extracted") == [0, 1]


def test_intermediate_shards_are_kept_apart(stage):
    _write(stage, 0, PAIRS[:1], rejects=REJECTS)
    _write(stage, 0, PAIRS[1:3], rejects=REJECTS, folder="extracted")
    assert [p.pair_id for p in stage.read(SeedPair, "extracted")] == ["p1", "p2"]
    assert stage.counts() == Counts(2, 1, {"empty": 1})
    assert len(list(stage.read_rejects())) == 1
    assert _files(stage.path) == [
        "extracted/part-00000.done.json",
        "extracted/part-00000.parquet",
        "rejects-extracted/part-00000.parquet",
        "rejects/part-00000.parquet",
        "shards/part-00000.done.json",
        "shards/part-00000.parquet",
    ]


def test_the_digest_is_that_of_the_bytes(tmp_path):
    one, two, three = (StageDir(tmp_path, name) for name in "abc")
    for stage, rows in ((one, PAIRS), (two, PAIRS), (three, PAIRS[::-1])):
        _write(stage, 0, rows)
    assert one.shards_digest() == two.shards_digest() != three.shards_digest()
    (marker,) = one.markers()
    content = one.shard_path(0).read_bytes()
    assert marker["sha256"] == hashlib.sha256(content).hexdigest()
    assert content == two.shard_path(0).read_bytes()


def test_a_shard_that_lost_records_is_not_written(stage):
    with pytest.raises(RuntimeError, match="shard 3 of stage seed lost records"):
        stage.write_shard(3, SeedPair, PAIRS, Counts(7, 6), "f")
    assert _files(stage.path) == []


def test_a_stage_can_be_sent_to_a_worker(stage):
    _write(stage, 0, PAIRS)
    again = pickle.loads(pickle.dumps(stage))
    assert list(again.read(SeedPair)) == PAIRS
    assert again.path == stage.path

"""Twenty SIGKILLs at random moments: the same bytes in the end, and hardly any work done twice."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from humpback_jax.records import Segment
from humpback_jax.rundir import Counts, StageDir

DRIVER = pathlib.Path(__file__).parent / "logged_inference.py"
SHARDS = 60
WORKERS = {"multi_processing": 2, "pod": 1}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def make_run(make_segment, tmp_path_factory):
    """Returns a function that gives a run directory with a finished stage "segment"."""

    def make(name):
        stage = StageDir(tmp_path_factory.mktemp(name), "segment")
        fingerprint = stage.begin({}, {})
        for shard in range(SHARDS):
            texts = (f"Text {shard}.", f"So it is with {shard}, and with many more.", "word " * 300)
            rows = [make_segment(f"s{shard}/{i}", text) for i, text in enumerate(texts)]
            stage.write_shard(shard, Segment, rows, Counts(3, 3), fingerprint)
        stage.finish(stage.counts(), stage.shards_digest(), 0.0)
        return stage.path.parent

    return make


def _start(run_dir, model, engine):
    """Starts the stage in a process group of its own, beside which nothing else is in it."""
    path = os.pathsep.join([str(DRIVER.parent), str(DRIVER.parents[2])])
    with (run_dir / "said").open("a") as said:
        return subprocess.Popen(
            [sys.executable, str(DRIVER), str(run_dir), str(model), str(run_dir / "log"), engine],
            env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": path},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def _lines(run_dir, event):
    log = run_dir / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[2]) for line in lines if line.split()[1] == event]


def _members(group):
    """Returns the command lines of the processes of a group by their ids, without zombies."""
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, own_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(own_group) == group and state != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                pass  # it ended meanwhile
    return found


def _until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def _victim(process, whom, chance):
    if whom == "submitter":
        return process.pid
    workers = [
        pid
        for pid, command in _members(process.pid).items()
        if b"apache_beam.runners.worker.sdk_worker_main" in command
    ]
    assert len(workers) == 2
    return chance.choice(sorted(workers))


def _marked(run_dir):
    stage = StageDir(run_dir, "augment")
    return {i for i in range(SHARDS) if stage.marker(i).exists()}


def _killed_leg(run_dir, model, engine, whom, chance):
    """Runs until some shards are done, then kills; returns (shards then done, shards lost)."""
    before, begun_before = _marked(run_dir), len(_lines(run_dir, "begun"))
    process = _start(run_dir, model, engine)
    try:
        enough = len(before) + chance.randint(1, 3)
        assert _until(lambda: len(_marked(run_dir)) >= enough, 90), (run_dir / "said").read_text()
        time.sleep(chance.uniform(0, 0.1))
        done = _marked(run_dir)
        os.kill(_victim(process, whom, chance), signal.SIGKILL)
        # Whoever is left ends by itself: nothing hangs, nothing goes on writing.
        code = process.wait(60)
        assert _until(lambda: not _members(process.pid), 60), _members(process.pid)
    finally:
        if _members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    # A worker that was idle is missed by nobody: the other one has done the rest.
    finished = StageDir(run_dir, "augment").is_done()
    assert (code == 0) == finished
    assert whom == "worker" or not finished
    return done, set(_lines(run_dir, "begun")[begun_before:]) - _marked(run_dir)


def _outputs(run_dir):
    paths = (run_dir / "augment").glob("*/part-*")
    return {str(p.relative_to(run_dir)): p.read_bytes() for p in paths}


@pytest.fixture(scope="module")
def expected(make_run, model_folder):
    """The files of a run that is left alone."""
    run_dir = make_run("alone")
    assert _start(run_dir, model_folder, "pod").wait(120) == 0, (run_dir / "said").read_text()
    assert len(_lines(run_dir, "done")) == SHARDS
    return _outputs(run_dir)


@pytest.mark.parametrize(
    ("engine", "whom", "kills"),
    [
        ("multi_processing", "worker", 7),
        ("multi_processing", "submitter", 7),
        ("pod", "submitter", 6),
    ],
)
def test_kills_at_random_moments(engine, whom, kills, make_run, model_folder, expected):
    chance = random.Random(kills)
    run_dir = make_run("killed")
    for _ in range(kills):
        if len(_marked(run_dir)) > SHARDS - 10:  # too few are left for the kill to be amid them
            _finish(run_dir, model_folder, engine, expected)
            run_dir = make_run("killed")
        done, lost = _killed_leg(run_dir, model_folder, engine, whom, chance)
        assert 0 < len(done) < SHARDS
        assert len(lost) <= WORKERS[engine]
    _finish(run_dir, model_folder, engine, expected)
    assert len(_lines(run_dir, "begun")) <= SHARDS + kills * WORKERS[engine]


def _finish(run_dir, model, engine, expected):
    """Does the rest and compares all that is there with a run that was left alone."""
    assert _start(run_dir, model, engine).wait(120) == 0, (run_dir / "said").read_text()
    assert StageDir(run_dir, "augment").is_done()
    found = _outputs(run_dir)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []

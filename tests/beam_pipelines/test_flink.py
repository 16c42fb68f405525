"""A real Flink of a JobManager and two TaskManagers on loopback gives the bytes of one process.

It wants Java, Flink's jars (FLINK_HOME, or the PyPI package apache-flink-libraries) and Beam's job
server for that version of Flink (HUMPBACK_FLINK_JOB_SERVER, or where Maven puts it);
docs/paths/flink.md says how to get them.
"""

import contextlib
import importlib.util
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest

from beam_pipelines.config import BeamConfig
from beam_pipelines.segment import run_segment
from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.errors import UserError
from humpback_jax.microworld.files import write_world
from humpback_jax.microworld.world import WorldConfig
from humpback_jax.records import Segment
from humpback_jax.rundir import Counts, StageDir
from launch.jobs import flink_check
from launch.jobs.flink import Flink

HERE = pathlib.Path(__file__).parent
DRIVER = HERE / "logged_inference.py"
SCRIPT = HERE.parents[1] / "launch" / "flink" / "cluster.sh"
SHARDS = 12
SETTINGS = "heartbeat.interval: 2000\nheartbeat.timeout: 20000\n"
pytestmark = pytest.mark.slow


def _flink_home():
    if os.environ.get("FLINK_HOME"):
        return pathlib.Path(os.environ["FLINK_HOME"])
    found = importlib.util.find_spec("pyflink")
    if found is None or not found.submodule_search_locations:
        pytest.skip("FLINK_HOME is not set, and apache-flink-libraries is not installed")
    return pathlib.Path(next(iter(found.submodule_search_locations)))


def _place(home, rest, pool):
    """Returns the place for a cluster of the Flink in a folder, or skips for want of jars."""
    if shutil.which("java") is None:
        pytest.skip("there is no java on this machine")
    jars = list(home.glob("lib/flink-dist*.jar"))
    if not jars:
        pytest.skip(f"there is no lib/flink-dist*.jar in {home}")
    version = ".".join(jars[0].stem.rpartition("-")[2].split(".")[:2])
    place = Flink(
        master=f"127.0.0.1:{rest}",
        version=version,
        job_server_jar=os.environ.get("HUMPBACK_FLINK_JOB_SERVER", ""),
        parallelism=2,
        worker_pool=f"127.0.0.1:{pool}",
    )
    if not os.path.exists(place.jar):
        pytest.skip(f"there is no Beam job server for Flink {version} at {place.jar}")
    return place


def _until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


class Cluster:
    """A Flink whose processes are known by their ids."""

    def __init__(self, folder, place, environment):
        self.folder, self.place, self._environment = folder, place, environment

    def control(self, action):
        command = [str(SCRIPT), action, str(self.folder)]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr

    def pid(self, name):
        return int((self.folder / "pids" / name).read_text())

    def free_slots(self):
        try:
            return flink_check.overview(self.place.master)["slots-available"]
        except UserError:
            return 0  # it is not up yet

    def logs(self):
        return "\n".join(p.read_text()[-2000:] for p in sorted((self.folder / "logs").iterdir()))

    def start(self):
        """Starts what does not run, and returns once both TaskManagers can work."""
        self.control("start")
        _until(lambda: self.free_slots() == 2, 120, self.logs)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, worker_environment, free_ports):
    rest, rpc, pool = free_ports(3)
    home = _flink_home()
    place = _place(home, rest, pool)
    folder = tmp_path_factory.mktemp("flink")
    (folder / "settings").write_text(SETTINGS)
    environment = {
        **worker_environment,
        "FLINK_HOME": str(home),
        "FLINK_REST_PORT": str(rest),
        "FLINK_RPC_PORT": str(rpc),
        "POOL_PORT": str(pool),
        "HEAP": "512m",
        "PYTHON": sys.executable,
        "FLINK_SETTINGS": str(folder / "settings"),
    }
    found = Cluster(folder, place, environment)
    try:
        found.start()
        yield found
    finally:
        found.control("stop")


@pytest.fixture
def run_dirs(make_segment, tmp_path):
    """Two run directories, "flink" and "memory", with a finished stage "segment" each."""
    for name in ("flink", "memory"):
        stage = StageDir(tmp_path / name, "segment")
        fingerprint = stage.begin({}, {})
        for shard in range(SHARDS):
            texts = (f"Text {shard}.", f"So it is with {shard}, and with many more.", "word " * 300)
            rows = [make_segment(f"s{shard}/{i}", text) for i, text in enumerate(texts)]
            stage.write_shard(shard, Segment, rows, Counts(3, 3), fingerprint)
        stage.finish(stage.counts(), stage.shards_digest(), 0.0)
    return types.SimpleNamespace(flink=tmp_path / "flink", memory=tmp_path / "memory")


class Job:
    """The stage as a process of its own; its group has the job server in it."""

    def __init__(self, run_dir, model, environment, engine, *options, seconds=0.0):
        self.said = run_dir / "said"
        argv = [sys.executable, DRIVER, run_dir, model, run_dir / "log", engine, *options]
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                list(map(str, argv)),
                env={**environment, "SHARD_SECONDS": str(seconds)},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def wait(self, seconds):
        """Returns (exit code, last line said), and leaves no process behind."""
        try:
            code = self.process.wait(seconds)
        finally:
            self.end()
        lines = self.said.read_text().splitlines()
        return code, next((line for line in reversed(lines) if line.startswith("humpback:")), "")

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _events(run_dir):
    """Returns the lines [process id, "begun" or "done", shard] of the workers so far."""
    log = run_dir / "log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def _in_progress(run_dir):
    """Returns the shard that each worker is at, by the worker's process id."""
    at = {pid: (event, int(shard)) for pid, event, shard in _events(run_dir)}
    return {pid: shard for pid, (event, shard) in at.items() if event == "begun"}


def _marked(run_dir):
    stage = StageDir(run_dir, "augment")
    return {i for i in range(SHARDS) if stage.marker(i).exists()}


def _outputs(run_dir, stage):
    paths = (run_dir / stage).glob("*/part-*")
    return {str(p.relative_to(run_dir)): p.read_bytes() for p in paths}


def test_a_killed_task_manager_costs_the_shards_in_progress_and_no_byte(
    cluster, run_dirs, model_folder, worker_environment
):
    """Without a restart strategy, Flink's default for batch, the job ends with its TaskManager."""
    run_dir, options = run_dirs.flink, cluster.place.beam_options()

    def start(seconds):
        return Job(
            run_dir, model_folder, worker_environment, "FlinkRunner", *options, seconds=seconds
        )

    job = start(2.0)
    try:
        _until(
            lambda: len(_in_progress(run_dir)) == 2 and len(_marked(run_dir)) >= 2,
            180,
            lambda: job.said.read_text()[-3000:] + cluster.logs(),
        )
        time.sleep(0.2)
        at_kill = _in_progress(run_dir)
        os.kill(cluster.pid("taskmanager-1"), signal.SIGKILL)
        code, said = job.wait(120)
    finally:
        job.end()
    assert len(at_kill) == 2  # both were in the middle of a shard
    assert code == 1
    assert said.startswith("humpback: the job failed on FlinkRunner ("), job.said.read_text()
    for pid in at_kill:  # nobody goes on writing
        _until(lambda pid=pid: not pathlib.Path(f"/proc/{pid}").exists(), 30, cluster.logs)
    kept, begun = _marked(run_dir), len(_events(run_dir))
    assert 2 <= len(kept) < SHARDS
    lost = set(_in_progress(run_dir).values())  # what they were at when their end came
    assert lost
    assert not lost & kept

    cluster.start()
    code, said = start(0.0).wait(240)
    assert (code, said) == (0, ""), (run_dir / "said").read_text()[-3000:]
    again = {int(shard) for _, event, shard in _events(run_dir)[begun:] if event == "begun"}
    assert again == set(range(SHARDS)) - kept
    assert lost <= again
    alone = Job(run_dirs.memory, model_folder, worker_environment, "in_memory")
    assert alone.wait(120)[0] == 0, alone.said.read_text()
    expected = _outputs(run_dirs.memory, "augment")
    assert len(expected) == 3 * SHARDS
    assert _outputs(run_dir, "augment") == expected


def test_segments_are_the_same_bytes_from_flink(cluster, tmp_path):
    config = WorldConfig(segments=60, web_topics=6, known_topics=3, seed_pairs=12, files=3)
    write_world(tmp_path, config)
    filters = SegmentFilters(min_length=100, max_per_site=20, max_segments=40)
    cluster.start()
    ways = {
        "memory": BeamConfig(),
        "flink": BeamConfig(runner="FlinkRunner", options=cluster.place.beam_options()),
    }
    for name, beam_config in ways.items():
        run_segment(tmp_path / name, f"{tmp_path}/corpus/*.warc.gz", filters, beam_config, 2)
    expected = _outputs(tmp_path / "memory", "segment")
    assert len(expected) > 10
    assert _outputs(tmp_path / "flink", "segment") == expected

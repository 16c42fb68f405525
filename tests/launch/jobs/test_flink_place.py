import http.server
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import threading

import pytest

from beam_pipelines.config import BeamConfig
from humpback_jax.errors import UsageError, UserError
from launch import configuration
from launch.jobs import flink_check
from launch.jobs.command import script
from launch.jobs.flink import VERSIONS, Flink

SCRIPT = pathlib.Path(configuration.__file__).parent / "flink" / "cluster.sh"
PLACE = Flink(
    master="flink.example:8081",
    version="2.2",
    job_server_jar="/opt/beam/job server.jar",
    parallelism=8,
    worker_pool="127.0.0.1:50001",
    artifacts_dir="/shared/artifacts",
    options=("--sdk_worker_parallelism=1",),
)
CURATE = ["curate", "--gin_file=my run.gin", '--gin.CORPUS="it\'s/*.gz"', "--iteration=1"]


def test_the_bindings_survive_the_shell_and_gin():
    line = script(PLACE.commands(CURATE)).splitlines()[-1]
    words = shlex.split(line)
    assert words[3:7] == CURATE
    bindings = [w.removeprefix("--gin.") for w in words if w.startswith("--gin.BeamConfig")]
    configuration.parse([], bindings)
    config = configuration.build(BeamConfig)
    assert config == BeamConfig(runner="FlinkRunner", options=PLACE.beam_options())
    assert "--flink_job_server_jar=/opt/beam/job server.jar" in config.options


def test_beam_knows_these_versions_of_flink_and_no_other():
    from apache_beam.options.pipeline_options import FlinkRunnerOptions

    assert list(VERSIONS) == FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"version": "1.18"}, "Flink.version is '1.18', which Beam 2.77.0 cannot run on"),
        ({"version": "2.2.1"}, "Flink.version is '2.2.1'"),
        ({"master": "http://a:8081"}, "Flink.master is 'http://a:8081': write it as HOST:PORT"),
        ({"worker_pool": "here"}, "Flink.worker_pool is 'here': write it as HOST:PORT"),
        ({"parallelism": 0}, "Flink.parallelism is 0: give 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        Flink(**{"master": "a:1", **given})


def test_training_is_no_beam_job():
    with pytest.raises(UsageError, match="`humpback train` is no Beam job"):
        PLACE.commands(["train", "--model=M1"])


@pytest.fixture
def master():
    """A server that says what it is told to say; yields (its address, the dict to change)."""
    answer = {"flink-version": "2.2.1", "slots-total": 4, "slots-available": 4}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", answer
        server.shutdown()
        thread.join()


@pytest.fixture
def java(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)


@pytest.fixture
def jar(tmp_path):
    (tmp_path / "jar").write_text("")
    return str(tmp_path / "jar")


def test_a_cluster_that_is_there_is_good(master, java, jar):
    flink_check.check(master[0], "2.2", jar, 4)


@pytest.mark.parametrize(
    ("change", "slots", "said"),
    [
        ({"flink-version": "1.20.1"}, 4, "is Flink 1.20.1 and Flink.version is '2.2': bind"),
        ({"slots-available": 3}, 4, "has 3 free slots of 4 and Flink.parallelism is 4: wait for"),
        ({}, 5, "has 4 slots and Flink.parallelism is 5: start more TaskManagers"),
    ],
)
def test_a_cluster_that_does_not_fit_is_refused(master, java, jar, change, slots, said):
    master[1].update(change)
    with pytest.raises(UserError, match=said):
        flink_check.check(master[0], "2.2", jar, slots)


def test_what_is_no_flink_is_refused(master, java, jar):
    master[1].clear()
    with pytest.raises(UserError, match="is no Flink: bind Flink.master"):
        flink_check.check(master[0], "2.2", jar, 1)


def test_a_master_that_does_not_answer_is_named_before_anything_is_submitted(java, jar):
    place = Flink(master="127.0.0.1:1", job_server_jar=jar)
    done = subprocess.run(
        place.commands(CURATE)[0].argv, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("humpback: no Flink answers at 127.0.0.1:1 (")
    assert done.stderr.count("\n") == 1


def test_a_job_server_that_is_absent_is_named_with_how_to_get_it(java, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    place = Flink(master="127.0.0.1:1", version="2.0")
    with pytest.raises(UserError, match="org.apache.beam:beam-runners-flink-2.0-job-server:2.77.0"):
        flink_check.check(place.master, place.version, place.jar, 1)


def test_a_machine_without_java_is_told_so(monkeypatch, tmp_path, jar):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no program 'java' on this machine"):
        flink_check.check("127.0.0.1:1", "2.2", jar, 1)


@pytest.mark.parametrize(
    ("arguments", "given", "code", "said"),
    [
        ((), {}, 2, "give an action and a folder"),
        (("begin", "here"), {}, 2, "'begin' is no action"),
        (("start", "here"), {"HEAP": "many"}, 2, "HEAP is 'many': write it as 512m or 2g"),
        (("start", "here"), {}, 2, "FLINK_HOME is not set"),
        (("start", "here"), {"FLINK_HOME": "/none"}, 1, "there is no lib/flink-dist*.jar in /none"),
    ],
)
def test_the_script_says_what_it_lacks(tmp_path, arguments, given, code, said):
    environment = {"PATH": os.environ["PATH"], **given}
    done = subprocess.run(
        [SCRIPT, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code
    assert done.stderr.startswith(f"cluster.sh: {said}")
    assert not list(tmp_path.glob("here/pids/*"))


def test_the_script_is_clean():
    shellcheck = shutil.which("shellcheck", path=f"{sys.prefix}/bin:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

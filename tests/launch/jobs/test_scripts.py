"""The scripts that run on the workers of a slice, run here."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

import launch.jobs

SCRIPTS = pathlib.Path(launch.jobs.__file__).parent / "scripts"

# In humpback's place: notes what it was given, says a word, then does what FATE says.
PLAYER = f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time
pathlib.Path("given.json").write_text(json.dumps([sys.argv[1:], dict(os.environ)]))
print("said")
print("complained", file=sys.stderr)
if os.environ["FATE"] == "until told":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
    pathlib.Path("ready").touch()
    time.sleep(60)
sys.exit(int(os.environ["FATE"]))
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A worker on which humpback is installed; runs a script there and returns what it said."""
    home = tmp_path / "worker"
    program = home / "humpback" / "venv" / "bin" / "humpback"
    program.parent.mkdir(parents=True)
    program.write_text(PLAYER)
    program.chmod(0o755)
    environment = {**os.environ, "HOME": str(home)}

    def run(name, *arguments, **more):
        done = subprocess.run(
            ["bash", "-c", (SCRIPTS / f"{name}.sh").read_text(), name, *arguments],
            env={**environment, **more}, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.home = home
    run.job = home / "humpback" / "jobs" / "job"
    return run


def _until(look, wanted):
    deadline = time.monotonic() + 120
    while look() != wanted:
        assert time.monotonic() < deadline, look()
        time.sleep(0.05)


def _state(worker):
    return worker("poll", "job").strip().removeprefix("humpback-state ")


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path, shellcheck):
    assert shellcheck(path.read_text()) == ""


def test_shellcheck_finds_something(shellcheck):
    assert "SC2086" in shellcheck("#!/usr/bin/env bash\necho $1\n")


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_reads_well_where_it_is_quoted(path):
    assert "'" not in path.read_text()


def test_a_process_outlives_its_connection_and_leaves_its_exit_code(worker):
    assert _state(worker) == "absent"
    words = ["it's", 'a "b" $HOME `c` \\', "zwei\nZeilen", "", "ü ☃"]
    nasty = ["dir a/b'c.gin", "X = '''q'''\n\tY = \"$Z\"\n"]
    worker("start", "job", "1", "1", *nasty, "env", "FATE=3", "humpback", *words)
    _until(lambda: _state(worker), "exit 3")
    given, environment = json.loads((worker.job / "given.json").read_text())
    assert given == words
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert (worker.job / nasty[0]).read_text() == nasty[1]
    assert sorted((worker.job / "log").read_text().split()) == ["complained", "said"]


def test_the_same_attempt_starts_nothing_twice(worker):
    worker("start", "job", "1", "0", "env", "FATE=42", "humpback", "first")
    _until(lambda: _state(worker), "exit 42")
    assert "ended already" in worker("start", "job", "1", "0", "env", "FATE=0", "humpback", "again")
    assert _state(worker) == "exit 42"
    worker("start", "job", "2", "0", "env", "FATE=0", "humpback", "second")
    _until(lambda: _state(worker), "exit 0")
    assert json.loads((worker.job / "given.json").read_text())[0] == ["second"]


def test_what_runs_is_not_started_again_and_saves_when_it_is_stopped(worker):
    worker("start", "job", "1", "0", "env", "FATE=until told", "humpback")
    _until((worker.job / "ready").exists, True)
    assert _state(worker) == "running"
    assert "runs already" in worker("start", "job", "2", "0", "env", "FATE=0", "humpback")
    worker("stop", "job")
    _until(lambda: _state(worker), "exit 42")


def test_a_machine_that_shuts_down_leaves_the_exit_code(worker):
    """All its processes are told to end, the shell that waits among them."""
    worker("start", "job", "1", "0", "env", "FATE=until told", "humpback")
    _until((worker.job / "ready").exists, True)
    os.kill(int((worker.job / "running").read_text()), signal.SIGTERM)
    time.sleep(0.2)
    worker("stop", "job")
    _until(lambda: _state(worker), "exit 42")


def test_a_worker_that_was_started_anew_has_lost_its_process(worker):
    worker("start", "job", "1", "0", "env", "FATE=until told", "humpback")
    _until((worker.job / "ready").exists, True)
    boot = (worker.job / "boot").read_text()
    (worker.job / "boot").write_text("of another start of the machine\n")
    assert _state(worker) == "lost"
    (worker.job / "boot").write_text(boot)
    worker("stop", "job")
    _until(lambda: _state(worker), "exit 42")


@pytest.mark.parametrize(
    ("code", "then"), [(137, "lost"), (143, "lost"), (42, "exit 42"), (1, "exit 1")]
)
def test_what_the_end_of_a_machine_killed_is_lost(worker, code, then):
    """The shell that waits may outlive the command by the moment it takes to note its end."""
    worker("start", "job", "1", "0", "env", f"FATE={code}", "humpback")
    _until(lambda: _state(worker), f"exit {code}")
    (worker.job / "boot").write_text("of another start of the machine\n")
    assert _state(worker) == then


UV = """#!/usr/bin/env bash
echo "uv $*" >> "$HOME/calls"
[ "$1" = pip ] && [ -e "$HOME/broken" ] && exit 1
exit 0
"""


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("git+https://host/repository@v1", "git+https://host/repository@v1"),
        ("gs://bucket/wheels/h-1.whl", "file://{home}/humpback/h-1.whl"),
        ("h-1.whl", "file://{home}/h-1.whl"),
    ],
)
def test_setup_installs_once(worker, tmp_path, package, source):
    uv = worker.home / "humpback" / "uv" / "uv"
    uv.parent.mkdir()
    uv.write_text(UV)
    uv.chmod(0o755)
    gcloud = tmp_path / "gcloud"
    gcloud.write_text('#!/usr/bin/env bash\necho "gcloud $*" >> "$HOME/calls"\n')
    gcloud.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    assert "was installed" in worker("setup", "3.12", package, "a", PATH=path)
    calls = (worker.home / "calls").read_text().splitlines()
    wanted = source.format(home=worker.home)
    assert calls[-2:] == [
        "uv venv --quiet --clear --python 3.12 venv",
        f"uv pip install --quiet --python venv/bin/python humpback-jax[tpu] @ {wanted}",
    ]
    assert (calls[0] == f"gcloud storage cp {package} .") == package.startswith("gs://")
    assert "is installed" in worker("setup", "3.12", package, "a", PATH=path)
    assert len((worker.home / "calls").read_text().splitlines()) == len(calls)
    assert "was installed" in worker("setup", "3.12", package, "another wheel", PATH=path)


def test_a_setup_that_failed_is_done_again(worker):
    uv = worker.home / "humpback" / "uv" / "uv"
    uv.parent.mkdir()
    uv.write_text(UV)
    uv.chmod(0o755)
    (worker.home / "broken").touch()
    with pytest.raises(AssertionError):
        worker("setup", "3.12", "git+x", "")
    (worker.home / "broken").unlink()
    assert "was installed" in worker("setup", "3.12", "git+x", "")


def test_the_scripts_come_with_the_package():
    assert shutil.which("bash")
    assert {path.stem for path in SCRIPTS.glob("*.sh")} == {"poll", "setup", "start", "stop"}

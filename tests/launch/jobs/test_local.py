"""Processes of a command on this machine, and how they end together."""

import json
import signal
import subprocess
import sys
import time

import pytest

from humpback_jax.errors import UsageError
from launch.jobs.local import Local

# A process that notes what it was given, then ends as the word of its index says.
PLAYER = """
import json, os, pathlib, signal, sys, time
index = next(a.split("=")[1] for a in sys.argv if a.startswith("--process_index="))
end = sys.argv[2].split(",")[int(index)]
if end == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if end == "saves":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
pathlib.Path(sys.argv[1], index).write_text(json.dumps(sys.argv[3:]))
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if not end.isdigit():
    time.sleep(60)
sys.exit(int(end))
"""


@pytest.fixture
def group(tmp_path):
    """Returns a function that starts a process for each word."""
    player = tmp_path / "player.py"
    player.write_text(PLAYER)

    def start(ends, patience):
        count = len(ends.split(","))
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "launch.jobs.processes"),
                *(f"--processes={count}", f"--patience={patience}", "--"),
                *(sys.executable, str(player), str(tmp_path), ends, "--gin.X='a \"b\" $c'"),
            ]
        )

    return start


def test_one_process_is_the_command_itself():
    (command,) = Local().commands(["train", "--model=M1"])
    assert command.argv == (sys.executable, "-m", "launch.main", "train", "--model=M1")
    assert not command.environment
    assert not command.costs


def test_several_processes_have_devices_of_the_cpu_each(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    (command,) = Local(processes=2, devices=4).commands(["train", "--model=M1"])
    assert command.argv[:5] == (
        sys.executable,
        "-m",
        "launch.jobs.processes",
        "--processes=2",
        "--",
    )
    assert command.environment == {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_dump_to=x --xla_force_host_platform_device_count=4",
    }


@pytest.mark.parametrize("values", [{"processes": 0}, {"devices": -1}])
def test_a_number_that_makes_no_sense_is_refused(values):
    with pytest.raises(UsageError, match="at least 1 process"):
        Local(**values)


def test_the_processes_know_each_other(group, tmp_path):
    assert group("0,0,0", 1).wait(timeout=120) == 0
    given = [json.loads((tmp_path / str(i)).read_text()) for i in range(3)]
    assert [g[0] for g in given] == ["--gin.X='a \"b\" $c'"] * 3
    assert len({g[1] for g in given}) == 1
    assert given[0][1].startswith("--coordinator_address=127.0.0.1:")
    assert [g[2:] for g in given] == [
        ["--process_count=3", f"--process_index={i}"] for i in range(3)
    ]


@pytest.mark.parametrize(
    ("ends", "code"),
    [("42,42", 42), ("0,42", 42), ("42,3", 3), ("0,1", 1), ("killed,0", 137)],
)
def test_the_exit_code_is_one_for_all(group, ends, code):
    assert group(ends, 1).wait(timeout=120) == code


@pytest.mark.parametrize("other", ["sleeps", "saves", "deaf"])
def test_the_others_end_with_the_one_that_failed(group, other):
    started = time.monotonic()
    assert group(f"{other},3", 0.5).wait(timeout=120) == 3
    assert time.monotonic() - started < 50


def test_a_signal_to_end_goes_to_all_of_them(group, tmp_path):
    running = group("saves,saves", 1)
    while not all((tmp_path / str(i)).exists() for i in range(2)):
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=120) == 42

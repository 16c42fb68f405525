"""What is started ends with the process that started it."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from humpback_jax.errors import UserError
from launch.ending import EndWatch
from launch.jobs import running, tether
from launch.jobs.command import Command
from launch.jobs.tether import Tethered

# What is started in the background by a shell ignores Ctrl-C until it says otherwise.
STARTER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from launch.jobs.command import Command
from launch.jobs.tether import Tethered
Tethered(Command((sys.executable, "-c", sys.argv[1])))
time.sleep(100)
"""
# It has a child of its own, and ends in its own way at SIGTERM.
FAMILY = """
import os, pathlib, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
def end(*_):
    pathlib.Path({folder!r}, "told").write_text("")
    sys.exit(42)
signal.signal(signal.SIGTERM, end)
pathlib.Path({folder!r}, "pids").write_text(f"{{os.getpid()}} {{child.pid}}")
time.sleep(100)
"""


def _wait(tethered):
    while tethered.poll() is None:
        time.sleep(0.02)
    tethered.close()
    return tethered.poll()


def _pids(folder):
    """Returns the numbers of the family's processes once both are there."""
    path = pathlib.Path(folder) / "pids"
    while not path.exists() or not path.read_text():
        time.sleep(0.02)
    return [int(number) for number in path.read_text().split()]


def _are_gone(pids):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(pathlib.Path(f"/proc/{pid}/cmdline").exists() and _lives(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _lives(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(42)", 42),
        ("import os; os.kill(os.getpid(), 9)", 137),
    ],
)
def test_the_exit_code_is_passed_on(code, expected):
    assert _wait(Tethered(Command((sys.executable, "-c", code)))) == expected


def test_a_command_gets_its_environment():
    code = "import os; raise SystemExit(int(os.environ['CODE']))"
    command = Command((sys.executable, "-c", code), environment={"CODE": "7"})
    assert _wait(Tethered(command)) == 7


def test_a_program_that_is_absent_is_named():
    with pytest.raises(UserError, match="no program 'no-such-program'"):
        Tethered(Command(("no-such-program",)))


def test_told_to_end_it_ends_in_its_own_way_and_leaves_nothing_behind(tmp_path):
    tethered = Tethered(Command((sys.executable, "-c", FAMILY.format(folder=str(tmp_path)))))
    pids = _pids(tmp_path)
    tethered.end()
    assert _wait(tethered) == 42
    assert (tmp_path / "told").exists()
    assert _are_gone(pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_who_started_it(tmp_path, number):
    family = FAMILY.format(folder=str(tmp_path))
    starter = subprocess.Popen([sys.executable, "-c", STARTER, family], stderr=subprocess.DEVNULL)
    pids = _pids(tmp_path)
    os.kill(starter.pid, number)
    starter.wait()
    assert _are_gone(pids)
    assert (tmp_path / "told").exists()  # SIGTERM came before any SIGKILL


# It saves for longer than anybody waits.
DEAF = """
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({folder!r}, "told").write_text(""))
pathlib.Path({folder!r}, "pids").write_text(str(os.getpid()))
while True: time.sleep(1)
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_what_does_not_end_is_killed_at_the_second_ctrl_c(tmp_path, monkeypatch, capsys, first):
    monkeypatch.setattr(tether, "PATIENCE_SECONDS", 0.4)
    monkeypatch.setattr(running, "_SILENT_SECONDS", 0.4)
    died = []

    def tell():
        (pid,) = _pids(tmp_path)
        for number in (first, signal.SIGTERM, signal.SIGINT):
            died.append(not _lives(pid))
            os.kill(os.getpid(), number)
            time.sleep(1)

    telling = threading.Thread(target=tell)
    telling.start()
    command = Command((sys.executable, "-c", DEAF.format(folder=str(tmp_path))))
    with EndWatch("the run") as watch, watch.waiting():
        assert running.run(command, watch) == 128 + signal.SIGKILL
    telling.join()
    assert died == [False, False, False]
    assert (tmp_path / "told").exists()
    assert "after another Ctrl-C it has 0 seconds" in capsys.readouterr().err

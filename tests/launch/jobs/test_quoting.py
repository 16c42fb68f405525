"""Gin values on their way: command line, bash, gcloud or xpk, bash again, command line."""

import json
import os
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.jobs import shell
from launch.jobs.command import script
from launch.jobs.tpu_vm import TpuVm
from launch.jobs.xpk import Xpk
from launch.plan.topology import Topology

VALUES = (
    "plain",
    "two words",
    "it's",
    'a "quoted" word',
    "$HOME ${HOME} $(id) `id`",
    "back\\slash \\\\ \\n",
    "line\nbreak",
    "tab\tand\rreturn",
    "*.warc.gz ? [a] {a,b} ~ # ! & ; | < > ( )",
    "größe ☃ 日本語",
    "$'\\x41' '\"'\"'",
    "{'inputs': 128, \"targets\": (1, 2,)}",
    "-- --flag=x",
    "\x01\x7f",
    "",
)
BINDINGS = tuple(f'--gin.V{i}="{value}"' for i, value in enumerate(VALUES))
STAGE = ("train", "--gin_file=recipes/quickstart.gin", *BINDINGS, "--model=M1")

# In humpback's place: writes down what it was given.
RECORDER = f"""#!{sys.executable}
import json, os, pathlib, sys
pathlib.Path(os.environ["RECORD"]).write_text(json.dumps(sys.argv[1:]))
"""
# In gcloud's and xpk's place: hands --command to a shell, as sshd and a container do.
HANDS_ON = """
import os, subprocess, sys
for word in sys.argv:
    if word.startswith("--command="):
        command = word.removeprefix("--command=")
        if "gcloud" in sys.argv[0]:
            command = " ".join(command.split(" "))  # as gcloud does
        else:
            command = f"({command}) & PID=$!\\nwait $PID"  # as xpk's manifest does
        subprocess.run(["bash", "-c", command], check=True)
"""


@pytest.fixture
def record(tmp_path, programs, monkeypatch):
    """Returns a function that runs a script and returns what reached humpback."""
    programs("gcloud", HANDS_ON)
    programs("xpk", HANDS_ON)
    home = tmp_path / "home"
    for folder in (home / "humpback" / "venv" / "bin", tmp_path / "bin"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "humpback").write_text(RECORDER)
        (folder / "humpback").chmod(0o755)
    monkeypatch.setenv("RECORD", str(tmp_path / "record.json"))

    def run(text):
        subprocess.run(["bash", "-c", text], check=True, cwd=tmp_path, timeout=30)
        record = tmp_path / "record.json"
        exit_code = home / "humpback" / "jobs" / "train-m1" / "exit_code"
        deadline = time.monotonic() + 20
        while "gcloud" in text and not exit_code.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return json.loads(record.read_text())

    return run


def _vm(shape="2x4"):
    return TpuVm("hb", "p", "z", "git+x", topology=Topology("v5e", shape))


def _xpk():
    return Xpk("hb", "c", "p", "z", "image", topology=Topology("v5e", "4x4"))


def test_every_value_arrives_on_a_worker(record):
    assert record(script([_vm().start(STAGE)])) == list(STAGE)


def test_every_value_arrives_in_a_container(record):
    assert record(script(_xpk().action("create", STAGE))) == [*STAGE, "--distributed"]


def test_a_container_gets_one_line():
    assert "\n" not in _xpk().shell_line(STAGE)


def test_every_value_arrives_at_the_supervisor(record):
    (command,) = _vm().commands([*STAGE, "--driver=d"])
    at = command.argv.index("launch")
    assert command.argv[at : at + 4] == ("launch", "tpu-vm", "run", "--no-dry-run")
    given = list(command.argv[at + 4 :])
    assert given == [*STAGE[1:-1], "--", "train", "--model=M1", "--driver=d"]


OWN = "V = '''it's'''\ninclude 'mine/deep.gin'\nW = \"$HOME\"\r\n# größe"


@pytest.mark.parametrize("place", ["tpu-vm", "xpk"])
def test_own_gin_files_go_along_and_are_found_again(record, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "mine").mkdir(parents=True)
    (tmp_path / "configs" / "mine" / "deep.gin").write_text("D = 1\n")
    (tmp_path / "far.gin").write_bytes(OWN.encode())
    (tmp_path / "configs" / "near.gin").write_text("include 'recipes/quickstart.gin'\n")
    stage = ["train", f"--gin_file={tmp_path}/far.gin", "--gin_file=near.gin"]
    stage += ["--gin_search_paths=configs", "--model=M1"]
    where = tmp_path
    if place == "tpu-vm":
        arrived = record(script([_vm().start(stage)]))
        where = tmp_path / "home" / "humpback" / "jobs" / "train-m1"
    else:
        arrived = record(script(_xpk().action("create", stage)))[:-1]
    far = f"{tmp_path}/far.gin".removeprefix("/")
    assert arrived == ["train", f"--gin_file={far}", "--gin_file=near.gin", "--model=M1"]
    assert (where / far).read_bytes() == OWN.encode()
    assert (where / "mine" / "deep.gin").read_text() == "D = 1\n"
    assert (where / "near.gin").read_text().startswith("include 'recipes")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=4))
def test_a_line_of_bash_says_any_words(words):
    line = shell.line([sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", *words])
    assert not any(ord(character) < 32 for character in line)
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == ascii(words)


def test_a_word_without_control_characters_is_quoted_as_usual():
    assert shell.line(["a b", "c"]) == "'a b' c"
    assert shell.word("a\n'b'\\") == "$'a\\n\\'b\\'\\\\'"

"""Stages go to the places of a launch plan; what cannot be is refused before anything starts."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from humpback_jax.errors import PreemptedError, UsageError, UserError
from humpback_jax.rundir import Counts, StageDir
from launch import claims, configuration, loop
from launch.context import Context
from launch.ending import EndWatch
from launch.jobs import launch_plan
from launch.jobs.command import Command
from launch.jobs.launch_plan import Launcher, LaunchPlan
from launch.jobs.local import Local
from launch.main import main
from launch.recipe import Recipe

# Adds a line to the file, and ends with the exit code that stands in that place of the list.
SCRIPTED = """
import sys
with open(sys.argv[1], "a") as log: log.write(" ".join(sys.argv[3:]) + "\\n")
with open(sys.argv[1]) as log: sys.exit(int(sys.argv[2].split(",")[len(log.readlines()) - 1]))
"""


@dataclasses.dataclass(frozen=True)
class Scripted:
    """A place whose commands end with given codes and write down their arguments."""

    log: str
    codes: str

    def commands(self, humpback):
        argv = (sys.executable, "-c", SCRIPTED, self.log, self.codes, *humpback)
        return [Command(argv, "scripted")]


class Far(Local):
    """A place that sees nothing of this machine's disk."""

    remote = True


class OfBeam(Local):
    """A place that takes Beam's jobs and nothing else."""

    runs_beam_alone = True


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Returns a function that makes "local" a place whose commands end with the given codes."""

    def make(*codes):
        made = Scripted(str(tmp_path / "log"), ",".join(map(str, codes)))
        monkeypatch.setitem(launch_plan.PLACES, "local", Local)
        monkeypatch.setattr(Local, "commands", lambda _, humpback: made.commands(humpback))

    return make


@pytest.fixture
def flags(tmp_path):
    """Returns the gin flags of a run; whatever is bound besides is added to them."""
    return ["--gin_file=recipes/quickstart.gin", f'--gin.RUN_DIR="{tmp_path / "run"}"']


@pytest.fixture
def launcher(flags):
    """Returns a function that makes a launcher under further bindings."""

    def make(*bindings, engine=""):
        given = [*flags, *(f"--gin.{binding}" for binding in bindings)]
        texts = [flag.removeprefix("--gin.") for flag in given[1:]]
        configuration.parse(["recipes/quickstart.gin"], texts)
        return Launcher(Context(configuration.build(Recipe), engine or "beam"), given, engine)

    return make


@pytest.fixture
def driver(tmp_path):
    """A driver's claim on the run directory and its watch."""
    with claims.hold(_root(tmp_path), claims.RUN) as held, EndWatch("the run", held) as watch:
        yield held, watch


def _root(tmp_path):
    from etils import epath

    return epath.Path(tmp_path) / "run"


def _finish(tmp_path, stage):
    directory = StageDir(_root(tmp_path), stage)
    directory.begin({}, {})
    directory.finish(Counts(1, 1), "d", 0.0)


# What is refused.


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ("LaunchPlan.train='moon'", ["LaunchPlan.train is 'moon'", "here, local"]),
        ("LaunchPlan.train='dataflow'", ["LaunchPlan.train is 'dataflow'", "segment, augment"]),
        ("LaunchPlan.evaluate='flink'", ["LaunchPlan.evaluate is 'flink'", "another place"]),
        ("LaunchPlan.restarts=-1", ["restarts is -1"]),
        ("LaunchPlan.trian='local'", ["trian"]),
        ("Local.processes=0", ["0 processes"]),
        ("segment/Local.processes=2", ["stage segment runs in one process", "LaunchPlan.segment"]),
        ("LaunchPlan.segment='xpk'", ["RUN_DIR is", "only this machine", "gs://BUCKET"]),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_made(
    capsys, flags, tmp_path, monkeypatch, binding, words
):
    monkeypatch.setitem(launch_plan.PLACES, "flink", OfBeam)
    monkeypatch.setitem(launch_plan.PLACES, "xpk", Far)
    plan = ["--gin.LaunchPlan.segment='local'", "--gin.LaunchPlan.train='local'"]
    assert main(["run", *flags, *plan, f"--gin.{binding}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("humpback: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [("run",), ("segment",), ("curate", "--iteration=1")])
def test_a_relative_run_directory_is_no_place_for_beams_workers(
    capsys, monkeypatch, tmp_path, arguments
):
    monkeypatch.chdir(tmp_path)
    portable = "--gin.BeamConfig.runner='PortableRunner'"
    given = ["--gin_file=recipes/quickstart.gin", '--gin.RUN_DIR="runs/x"', portable]
    assert main([*arguments, *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("humpback: RUN_DIR is runs/x, and Beam's workers run in other folders")
    assert f"give the whole path, {tmp_path}/runs/x, " in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_beam_a_run_directory_may_be_relative(launcher):
    made = launcher("RUN_DIR='runs/x'")
    recipe = made._context.recipe
    launch_plan.checks.check_beam("augment", recipe, "beam")
    configuration.parse(["recipes/quickstart.gin"], ["BeamConfig.runner='PortableRunner'"])
    launch_plan.checks.check_beam("augment", recipe, "pod")
    launch_plan.checks.check_beam("M0", recipe, "beam")
    with pytest.raises(UsageError, match="RUN_DIR is runs/x"):
        launch_plan.checks.check_beam("segment", recipe, "pod")


def test_beams_places_have_no_other_engine(launcher, monkeypatch):
    monkeypatch.setitem(launch_plan.PLACES, "flink", OfBeam)
    with pytest.raises(UsageError, match="--engine=pod is without Beam, which flink"):
        launcher("LaunchPlan.curate='flink'", engine="pod")


def test_all_is_here_unless_it_is_bound(launcher):
    made = launcher()
    assert not any(map(made.runs, ("world", "segment", "Myx", "curate2", "report")))
    with pytest.raises(UsageError, match="LaunchPlan.rest"):
        LaunchPlan(rest="there")


# What is run.


def test_a_stage_gets_the_gin_flags_as_they_were_given_and_its_driver(launcher, flags):
    made = launcher("LaunchPlan.curate='local'", "Prompts.rating='a \"b\" $c'")
    (command,) = made.commands("curate2", driver="0123")
    assert command.argv[3:] == (
        "curate", "--iteration=2", *flags, "--gin.LaunchPlan.curate='local'",
        "--gin.Prompts.rating='a \"b\" $c'", "--engine=beam", "--driver=0123",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bindings", "given", "engine"),
    [
        ([], "", "--engine=beam"),
        ([], "pod", "--engine=pod"),
        (["augment/Local.processes=2"], "", "--engine=pod"),
    ],
)
def test_several_processes_run_without_beam(launcher, bindings, given, engine):
    made = launcher("LaunchPlan.augment='local'", *bindings, engine=given)
    assert engine in made.commands("augment")[0].argv


def test_a_dry_run_prints_every_command_and_starts_nothing(capsys, flags, tmp_path):
    _finish(tmp_path, "seed")
    before = sorted(tmp_path.rglob("*"))
    plan = ["--gin.LaunchPlan.rest='local'", "--gin.LaunchPlan.train='local'"]
    capsys.readouterr()
    assert main(["run", "--dry-run", *flags, *plan, "--gin.train/Local.processes=2"]) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    heads = [block.splitlines()[0] for block in blocks]
    assert heads[:3] == [
        "# stage world: local",
        "# stage segment: in this process",
        "# stage seed (done already): local",
    ]
    assert len(heads) == 14
    assert all(line.startswith("#") for line in blocks[2].splitlines())
    (training,) = [line for line in blocks[4].splitlines() if not line.startswith("#")]
    assert "--processes=2 --" in training
    assert "train --model=Myx --gin_file=recipes/quickstart.gin" in training
    assert "'--gin.LaunchPlan.rest='\"'\"'local'\"'\"''" in training
    assert sorted(tmp_path.rglob("*")) == before


def test_a_preempted_stage_is_started_again(launcher, place, driver, tmp_path, monkeypatch, capsys):
    place(42, 42, 0)
    made = launcher("LaunchPlan.train='local'")
    _finish(tmp_path, "M0")
    made.run("M0", *driver)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 3
    assert all(line.endswith(f"--driver={driver[0].id}") for line in lines)
    assert capsys.readouterr().out.splitlines()[-1].startswith("M0: done by local in ")


def test_a_stage_that_is_preempted_too_often_is_left(launcher, place, driver, tmp_path):
    place(42, 42, 42)
    made = launcher("LaunchPlan.train='local'", "LaunchPlan.restarts=1")
    with pytest.raises(PreemptedError, match="stage M0 was told to end 2 times") as caught:
        made.run("M0", *driver)
    assert caught.value.exit_code == 42
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_any_other_exit_code_names_stage_code_and_command(launcher, place, driver, flags, tmp_path):
    place(3, 0)
    made = launcher("LaunchPlan.train='local'")
    with pytest.raises(UserError) as caught:
        made.run("M0", *driver)
    message = str(caught.value)
    assert message.startswith("stage M0 ended with exit code 3 (local): ")
    assert f"`humpback run {flags[0]} " in message
    assert "--driver" not in message
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_a_stage_that_ends_well_and_is_not_done_is_an_error(launcher, place, driver):
    place(0)
    made = launcher("LaunchPlan.train='local'")
    with pytest.raises(UserError, match="stage M0 ended without an error .* is not done in .*/run"):
        made.run("M0", *driver)


def test_a_driver_that_was_taken_over_ends_its_stage(launcher, driver, monkeypatch):
    made, (held, watch) = launcher("LaunchPlan.train='local'"), driver
    sleeper = [Command((sys.executable, "-c", "import time; time.sleep(100)"))]
    monkeypatch.setattr(Local, "commands", lambda *_: sleeper)
    threading.Timer(0.5, lambda: held._lose("somebody came")).start()
    began = time.monotonic()
    with pytest.raises(UserError, match="taken over"):
        made.run("M0", held, watch)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_tells_the_driver_to_end_tells_its_stage(
    launcher, driver, monkeypatch, tmp_path, number
):
    saving = (
        "import pathlib, signal, sys, time\n"
        "def save(*_):\n"
        "    pathlib.Path(sys.argv[1]).touch()\n"
        "    sys.exit(42)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "time.sleep(100)\n"
    )
    made = launcher("LaunchPlan.train='local'")
    command = Command((sys.executable, "-c", saving, str(tmp_path / "saved")))
    monkeypatch.setattr(Local, "commands", lambda *_: [command])
    threading.Timer(1.5, lambda: os.kill(os.getpid(), number)).start()
    with pytest.raises(PreemptedError, match="the run was told to end, and with it stage M0"):
        made.run("M0", *driver)
    assert (tmp_path / "saved").exists()


def test_who_ends_the_driver_is_told_what_goes_on_elsewhere(launcher, driver, monkeypatch):
    made = launcher("LaunchPlan.train='local'")
    sleeper = [Command((sys.executable, "-c", "import time; time.sleep(100)"))]
    monkeypatch.setattr(Local, "commands", lambda *_: sleeper)
    monkeypatch.setattr(
        Local, "remains", lambda _, humpback: f"`{humpback[0]}` is paid for", raising=False
    )
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(PreemptedError, match="what is done is kept; `train` is paid for"):
        made.run("M0", *driver)


def test_a_failure_tells_what_may_go_on_elsewhere(launcher, place, driver, monkeypatch):
    place(3)
    made = launcher("LaunchPlan.train='local'")
    monkeypatch.setattr(Local, "remains", lambda *_: "it is paid for", raising=False)
    with pytest.raises(UserError, match="stage M0 ended with exit code 3.*; it is paid for"):
        made.run("M0", *driver)


def test_what_a_later_stage_lacks_is_told_before_the_first_is_run(launcher, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "run_stage", lambda *_: pytest.fail("a stage was run"))
    made = launcher("LaunchPlan.curate='local'")
    monkeypatch.setattr(Local, "programs", ("no-such-program",), raising=False)
    with pytest.raises(UserError, match="no program 'no-such-program'"):
        loop.run(made._context, made)
    for stage in ("curate1", "curate2"):
        _finish(tmp_path, stage)
    made.check_ready()  # nothing of it is left there


def test_a_run_directory_that_cannot_be_written_is_told_before_the_first_stage(
    launcher, monkeypatch, tmp_path
):
    monkeypatch.setattr(loop, "run_stage", lambda *_: pytest.fail("a stage was run"))
    made = launcher("LaunchPlan.curate='local'")
    monkeypatch.setattr(Local, "remote", True, raising=False)
    (tmp_path / "run").write_text("a file is in its place")
    with pytest.raises(UserError, match=r"RUN_DIR .*/run cannot be written from here"):
        loop.run(made._context, made)


def test_a_run_goes_on_where_places_have_done_their_stages(
    launcher, place, tmp_path, monkeypatch, capsys
):
    """Stages that are done are held against their configuration here and started nowhere."""
    place(*[5] * 20)
    made = launcher("LaunchPlan.train='local'")
    ran = []
    monkeypatch.setattr(loop, "run_stage", lambda _, name: ran.append(name))
    for stage in ("base", "Myx"):
        _finish(tmp_path, stage)
    with pytest.raises(UserError, match="stage M0 ended with exit code 5"):
        loop.run(made._context, made)
    assert ran == ["world", "segment", "seed", "base", "Myx", "augment"]
    assert claims.read_all(tmp_path / "run") == []


# What an earlier driver has left.

FAR = [
    "LaunchPlan.train='xpk'", 'CORPUS="gs://b/web"', 'SEED="gs://b/seed"', 'BASE="gs://b/llama"',
    "Topology.kind='v5e'", "Topology.shape='2x4'", "MeshConfig.data=1", "MeshConfig.fsdp=8",
    *(f"Xpk.{key}='{key}'" for key in ("name", "cluster", "project", "zone", "image")),
]  # fmt: skip


def test_work_is_found_again_where_it_was_sent_by_the_same_configuration(launcher):
    made = launcher(*FAR, 'RUN_DIR="gs://b/run"')
    where = made.whereabouts("M1")
    assert where.startswith("xpk project/zone/cluster/name-train-m1, configuration ")
    assert f"--place={where}" in made._humpback("M1", "0123")
    assert launcher(*FAR, 'RUN_DIR="gs://b/run"').whereabouts("M1") == where
    other = launcher(*FAR, 'RUN_DIR="gs://b/run"', "TRAIN_STEPS=7").whereabouts("M1")
    assert other.split(",")[0] == where.split(",")[0]
    assert other != where
    assert made.whereabouts("M0") != where
    assert made.whereabouts("segment") == made.whereabouts("run") == ""
    assert launcher("LaunchPlan.train='local'").whereabouts("M1") == ""


def test_a_workload_that_was_left_is_waited_for(launcher):
    made = launcher(*FAR, 'RUN_DIR="gs://b/run"')
    create, wait = made.commands("M1", "0123")
    assert "create" in create.argv
    assert made.commands("M1", "0123", rejoin=True) == [wait]


def test_what_is_left_is_rejoined_once_and_started_anew_after_it_was_preempted(
    launcher, place, driver, monkeypatch, tmp_path, capsys
):
    held, watch = driver
    place(0, 0)
    made = launcher("LaunchPlan.train='local'")
    rejoined = Command((sys.executable, "-c", "raise SystemExit(42)"))
    monkeypatch.setattr(Local, "rejoin", lambda *_: [rejoined])
    monkeypatch.setattr(held, "follows", lambda stage: stage == "M0")
    monkeypatch.setattr(made._context, "stage", lambda name: StageDir(_root(tmp_path), name))
    _finish(tmp_path, "M0")
    made.run("M0", held, watch)
    assert "M0: goes on in local" in capsys.readouterr().out
    assert len((tmp_path / "log").read_text().splitlines()) == 1


# SIGTERM where no place is waited for.


def test_a_stage_that_watches_for_nothing_ends_with_42_and_withdraws(flags, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from humpback_jax.microworld import world\n"
        "from launch import corpus, main\n"
        "corpus.write_world = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(main.main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "world", *flags],
        capture_output=True, text=True, check=False, env={**os.environ, "XLA_FLAGS": ""},
    )  # fmt: skip
    assert done.returncode == 42, done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("humpback: stage world was told to end (SIGTERM): run the same")
    assert (tmp_path / "run" / "world" / "config.json").exists()
    assert claims.read_all(tmp_path / "run") == []

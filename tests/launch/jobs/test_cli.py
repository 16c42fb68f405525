"""`humpback launch` from its command line: what it refuses, prints and starts."""

import os
import pathlib
import signal
import sys
import threading
import time

import pytest
from etils import epath

from launch import main
from launch.jobs import checks
from launch.jobs.command import Command
from launch.jobs.local import Local

COSTLY = ("tpu-vm", "xpk", "dataflow")
SEGMENT = {"stage": ("segment",)}


@pytest.fixture(autouse=True)
def _repository(monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).resolve().parents[3])


@pytest.fixture
def recorded(programs, tmp_path):
    """Puts programs on PATH that only note their arguments; returns the notes."""
    notes = tmp_path / "notes"

    def programs_of(*names):
        for name in names:
            noting = f"open({str(notes)!r}, 'a').write(' '.join(sys.argv) + '\\n')"
            programs(name, f"import sys\n{noting}")
        return lambda: notes.read_text() if notes.exists() else ""

    return programs_of


def _one_sentence(result, expected, *words):
    code, _, error = result
    assert code == expected, error
    assert error.startswith("humpback: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error, error


@pytest.mark.parametrize("place", COSTLY)
def test_what_costs_money_is_printed_alone(humpback, arguments, recorded, place, monkeypatch):
    notes = recorded("gcloud", "xpk")
    monkeypatch.setattr(checks, "check_writable", lambda _: pytest.fail("it looked at the bucket"))
    code, out, _ = humpback(*arguments(place, **(SEGMENT if place == "dataflow" else {})))
    assert code == 0
    assert out.startswith("# ")
    assert notes() == ""


def test_what_costs_nothing_is_done(humpback, arguments, recorded):
    notes = recorded("gcloud")
    code, _, error = humpback(*arguments("tpu-vm", action=("delete",), stage=()))
    assert (code, error) == (0, "")
    where = "hb --project=project --zone=us-west4-a"
    assert notes().strip().endswith(f"queued-resources delete {where} --force --quiet")


def test_xpk_is_run_when_it_is_told_to(humpback, arguments, recorded, monkeypatch):
    notes = recorded("xpk")
    monkeypatch.setattr(checks, "check_writable", lambda _: None)
    assert humpback(*arguments("xpk", "--no-dry-run"))[0] == 0
    create, wait = notes().splitlines()
    assert "workload create" in create
    assert "--wait-for-job-completion=hb-train-m1" in wait


def test_a_local_stage_runs_and_gives_its_exit_code(arguments, tmp_path, capfd):
    given = ('--gin.SEED="nowhere.jsonl"', f'--gin.RUN_DIR="{tmp_path}/run"')
    assert main.main(arguments("local", *given, stage=("seed",))) == 1
    assert "there is no nowhere.jsonl" in capfd.readouterr().err


def test_a_place_of_a_group_of_stages(humpback, arguments):
    named = ("--gin.augment/TpuVm.name='for-augment'",)
    assert "create hb " in humpback(*arguments("tpu-vm", *named))[1]
    assert "create for-augment " in humpback(*arguments("tpu-vm", *named, stage=("augment",)))[1]


# Bad input.


@pytest.mark.parametrize(("place", "program"), [("tpu-vm", "gcloud"), ("xpk", "xpk")])
def test_a_program_that_is_absent(humpback, arguments, programs, place, program, monkeypatch):
    monkeypatch.setattr(checks, "check_writable", lambda _: None)
    result = humpback(*arguments(place, "--no-dry-run"))
    _one_sentence(result, 1, f"no program '{program}'", "install it")


@pytest.mark.parametrize("place", COSTLY)
def test_a_bucket_that_cannot_be_written(humpback, arguments, recorded, place, monkeypatch):
    notes = recorded("gcloud", "xpk")

    def refuse(_path, **_):
        raise PermissionError("403 does not have storage.objects.create access\nmore")

    monkeypatch.setattr(type(epath.Path("gs://bucket/run")), "mkdir", refuse)
    changes = SEGMENT if place == "dataflow" else {}
    result = humpback(*arguments(place, "--no-dry-run", **changes))
    _one_sentence(result, 1, "gs://bucket/run cannot be written", "403", "auth application-default")
    assert notes() == ""


def test_a_folder_is_written_and_left_as_it_was(tmp_path):
    checks.check_writable(str(tmp_path / "run"))
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("place", COSTLY)
def test_a_run_directory_of_this_machine_alone(humpback, arguments, place):
    changes = SEGMENT if place == "dataflow" else {}
    result = humpback(*arguments(place, '--gin.RUN_DIR="runs/x"', **changes))
    _one_sentence(result, 2, "RUN_DIR is runs/x", "gs://")


def test_inputs_of_this_machine_alone(humpback, arguments):
    local = '--gin.CORPUS="gs://bucket/a,web/*.warc.gz"'
    _one_sentence(humpback(*arguments("dataflow", local, **SEGMENT)), 2, "CORPUS is web/*.warc.gz")
    assert humpback(*arguments("tpu-vm", local))[0] == 0  # training reads none of it


@pytest.mark.parametrize(
    ("bound", "stage", "name"),
    [
        ("Recipe.questions='here.jsonl'", ("evaluate",), "Recipe.questions"),
        ("Recipe.labels='here.jsonl'", ("evaluate",), "Recipe.labels"),
        ("Recipe.prompts='here.jsonl'", ("evaluate",), "Recipe.prompts"),
        ("Recipe.validation='here.jsonl'", ("train", "--model=M1"), "Recipe.validation"),
        ("Recipe.replay='here.jsonl'", ("train", "--model=M1"), "Recipe.replay"),
        ("Pretraining.text='here.jsonl'", ("pretrain",), "Pretraining.text"),
        ("SegmentFilters.evaluation=['here.jsonl']", ("segment",), "SegmentFilters.evaluation"),
        ("SegmentFilters.blocklist=['here.jsonl']", ("segment",), "SegmentFilters.blocklist"),
        ("CORPUS='@here.jsonl'", ("segment",), "CORPUS"),
    ],
)
def test_every_input_of_this_machine_alone_is_named(humpback, arguments, bound, stage, name):
    read = ("--gin.TrainConfig.replay_rate=0.1", "--gin.TrainConfig.eval_period=10")
    place = "dataflow" if stage == ("segment",) else "tpu-vm"
    recipe = "--gin_file=recipes/humpback_7b_v5e_8.gin"
    given = arguments(place, *read, f"--gin.{bound}", recipe=recipe, stage=stage)
    _one_sentence(humpback(*given), 2, f"{name} is here.jsonl, which only this machine has")
    other = arguments("tpu-vm", *read, f"--gin.{bound}", recipe=recipe, stage=("augment",))
    assert humpback(*other)[0] == 0  # which reads none of it


def test_a_run_directory_that_flink_s_machines_do_not_find(humpback, arguments):
    given = arguments("local", '--gin.RUN_DIR="runs/x"', "--gin.Flink.master='host:8081'")
    given = ["flink" if a == "local" else a for a in given[: given.index("--")]]
    result = humpback(*given, "--dry-run", "--", "augment")
    _one_sentence(result, 2, "RUN_DIR is runs/x, and Beam's workers", "/runs/x")


# Told to end.

SLEEPER = "import pathlib, sys, time\npathlib.Path(sys.argv[0] + '.up').touch()\ntime.sleep(100)\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_ends_a_launch_is_told_what_goes_on(
    humpback, arguments, programs, tmp_path, monkeypatch, number, code
):
    programs("xpk", SLEEPER)
    monkeypatch.setattr(checks, "check_writable", lambda _: None)
    threading.Thread(target=_signal_once, args=(tmp_path / "bin" / "xpk.up", number)).start()
    found, _, error = humpback(*arguments("xpk", "--no-dry-run"))
    assert found == code
    sentence = error.splitlines()[-1]
    assert sentence.startswith("humpback: told to end: workload hb-train-m1 may go on and is paid")
    assert "`xpk workload delete --cluster=pod --project=project" in sentence


def test_a_signal_goes_on_to_a_local_stage(humpback, arguments, tmp_path, monkeypatch):
    saved = tmp_path / "saved"
    program = (
        "import pathlib, signal, sys, time\n"
        "def save(*_):\n"
        f"    pathlib.Path({str(saved)!r}).touch()\n"
        "    sys.exit(42)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        f"pathlib.Path({str(tmp_path / 'up')!r}).touch()\n"
        "time.sleep(100)\n"
    )
    command = Command((sys.executable, "-c", program))
    monkeypatch.setattr(Local, "commands", lambda *_: [command])
    threading.Thread(target=_signal_once, args=(tmp_path / "up", signal.SIGTERM)).start()
    code, _, error = humpback(*arguments("local"))
    assert (code, error) == (42, "")
    assert saved.exists()


def _signal_once(path, number):
    """Sends a signal to this process once there is a file."""
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("bound", "stage", "words"),
    [
        ("MeshConfig.fsdp=12", ("train", "--model=M1"), ["fsdp=12", "16 devices of v5e-16"]),
        ("Topology.shape='4x8'", ("train", "--model=M1"), ["32 devices of v5e-32", "MeshConfig"]),
        ("augment/MeshConfig.tensor=3", ("augment",), ["tensor=3", "augment/MeshConfig"]),
        ("curate/MeshConfig.tensor=5", ("curate", "--iteration=1"), ["curate/MeshConfig"]),
        ("Topology.slices=2", ("train", "--model=M1"), ["32 devices of v5e-16 x 2"]),
    ],
)
@pytest.mark.parametrize("place", ["tpu-vm", "xpk"])
def test_a_topology_that_the_mesh_does_not_divide(humpback, arguments, place, bound, stage, words):
    _one_sentence(humpback(*arguments(place, f"--gin.{bound}", stage=stage)), 2, *words)


def test_slices_that_the_mesh_does_not_know_of(humpback, arguments):
    bound = ("--gin.Topology.slices=2", "--gin.MeshConfig.data=2")
    _one_sentence(humpback(*arguments("xpk", *bound)), 2, "MeshConfig.slices = 1", "slices = 2")


@pytest.mark.parametrize("place", ["tpu-vm", "xpk"])
@pytest.mark.parametrize("stage", [("run",), ("evaluate",), ("segment",)])
def test_what_is_one_process_goes_to_no_pod(humpback, arguments, place, stage):
    result = humpback(*arguments(place, stage=stage))
    _one_sentence(result, 2, f"`humpback {stage[0]}` is one process", "4 hosts")


@pytest.mark.parametrize("recipe", ["recipes/humpback_7b_v5e_8.gin"])
def test_a_slice_of_one_host_evaluates(humpback, arguments, recipe):
    given = arguments("tpu-vm", recipe=f"--gin_file={recipe}", stage=("evaluate",))
    code, out, _ = humpback(*given)
    assert code == 0
    assert "--distributed" not in out


@pytest.mark.parametrize(
    ("place", "more", "changes", "words"),
    [
        ("tpu-vm", (), {"action": ("fly",)}, ["no action 'fly'", "delete"]),
        ("local", (), {"action": ("delete",)}, ["no action 'delete'", "run"]),
        ("tpu-vm", (), {"stage": ()}, ["which subcommand", "-- train --model=M1"]),
        ("tpu-vm", (), {"action": ("logs",), "stage": ()}, ["which subcommand"]),
        ("tpu-vm", (), {"stage": ("status", "x")}, ["`humpback status`"]),
        ("tpu-vm", (), {"stage": ("train", "--model=M7")}, ["no model 'M7'"]),
        ("tpu-vm", ("--gin.TpuVm.name='Hb_1'",), {}, ["TpuVm.name is 'Hb_1'"]),
        ("tpu-vm", ("--gin.TpuVm.package='humpback'",), {}, ["TpuVm.package", "git+"]),
        ("tpu-vm", ("--gin.TpuVm.spot=True", "--gin.TpuVm.reserved=True"), {}, ["exclude"]),
        ("tpu-vm", ("--gin.TpuVm.restarts=-1",), {}, ["-1 restarts"]),
        ("tpu-vm", (), {"recipe": "--gin_file=recipes/humpback_7b.gin"}, ["no TPU slice"]),
        ("tpu-vm", ("--gin.TpuVm.zone=''",), {}, ["TpuVm.zone is empty"]),
        ("tpu-vm", ("--gin.RUN_DIR=''",), {}, ["RUN_DIR is empty"]),
        (
            "tpu-vm",
            ("--gin.TpuVm.create_options='--network=x'",),
            {},
            ["TpuVm.create_options is '--network=x': write ('--network=x',)"],
        ),
        ("xpk", ("--gin.Xpk.cluster=''",), {}, ["Xpk.cluster is empty"]),
        ("xpk", ("--gin.Xpk.name='-'",), {}, ["Xpk.name"]),
        ("xpk", ("--gin.Xpk.grace_seconds=5",), {}, ["5 s of grace"]),
        ("xpk", (f"--gin.Xpk.name='{'a' * 35}'",), {}, ["40 characters"]),
        ("dataflow", (), {}, ["`humpback train` is no Beam job"]),
        ("dataflow", (), {"stage": ("augment",)}, ["no worker of v5e-16", "2x4"]),
        (
            "dataflow",
            ("--gin.augment/Topology.shape='2x4'",),
            {"stage": ("augment",)},
            ["Dataflow.image", "Dataflow.zone"],
        ),
        ("dataflow", ("--gin.Dataflow.temp_location='/tmp'",), SEGMENT, ["temp_location"]),
        ("dataflow", ("--gin.Dataflow.num_workers=0",), SEGMENT, ["0 workers"]),
        ("dataflow", ("--gin.Dataflow.region=''",), SEGMENT, ["Dataflow.region is empty"]),
        ("dataflow", ("--gin.Dataflow.options='--x'",), SEGMENT, ["write ('--x',)"]),
        ("dataflow", (), {"action": ("image",), "stage": ()}, ["Dataflow.image"]),
    ],
)
def test_wrong_usage_is_2_and_starts_nothing(humpback, arguments, place, more, changes, words):
    _one_sentence(humpback(*arguments(place, "--no-dry-run", *more, **changes)), 2, *words)


def test_a_place_that_is_not_bound_says_what_to_bind(humpback, arguments):
    given = [a for a in arguments("tpu-vm") if "TpuVm.zone" not in a]
    _one_sentence(humpback(*given), 2, "TpuVm", "zone")


def test_dataflow_installs_by_setup_py_in_the_repository_alone(
    humpback, arguments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    _one_sentence(humpback(*arguments("dataflow", **SEGMENT)), 2, "setup.py", "Dataflow.image")


def test_argparse_refuses_what_it_does_not_know(humpback, arguments):
    code, _, error = humpback(*arguments("tpu-vm", stage=("train", "--model=M1", "--speed=9")))
    assert code == 2
    assert "--speed=9" in error
    assert humpback("launch", "moon", "--gin_file=recipes/quickstart.gin")[0] == 2


def test_an_own_gin_file_that_another_machine_cannot_have(humpback, arguments, tmp_path):
    (tmp_path / "deep.gin").write_text("")
    (tmp_path / "own.gin").write_text(f"include '{tmp_path}/deep.gin'\n")
    result = humpback(*arguments("tpu-vm", f"--gin_file={tmp_path}/own.gin"))
    _one_sentence(result, 2, "deep.gin", "--gin_search_paths")
    (tmp_path / "own.gin").write_text("# x\n" * 20000)
    result = humpback(*arguments("tpu-vm", f"--gin_file={tmp_path}/own.gin"))
    _one_sentence(result, 2, "80000 bytes")


def test_the_program_of_a_launched_stage_is_this_very_one(humpback, arguments):
    out = humpback(*arguments("local", "--dry-run"))[1]
    assert f"{sys.executable} -m launch.main train" in out

"""The loop that brings a stage to its end, against a gcloud that plays preemptions and refusals."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from humpback_jax.errors import UserError
from launch import configuration
from launch.jobs import tpu_vm_supervisor
from launch.jobs.tpu_vm import TpuVm
from launch.plan.topology import Topology

ROOT = str(pathlib.Path(__file__).parents[3])
FAKE = pathlib.Path(__file__).parent / "fake_gcloud.py"
QUOTA = (
    "ERROR: (gcloud.compute.tpus.queued-resources.create) RESOURCE_EXHAUSTED: Quota limit "
    "'TPUV5sLitepodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0 in zone us-west4-a."
)
STAGE = ("train", "--gin_file=recipes/quickstart.gin", '--gin.RUN_DIR="gs://it\'s/a $run"')
UV = """#!/usr/bin/env bash
if [ "$1" = pip ]; then
  mkdir -p venv/bin
  cp "$CLOUD/humpback" venv/bin/humpback
fi
"""


@pytest.fixture
def cloud(tmp_path, programs, monkeypatch):
    """Returns a function that writes the plan of the cloud, and its folder."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    monkeypatch.setenv("CLOUD", str(folder))
    for name in ("chmod", "cp"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name, path=os.defpath))
    programs("gcloud", FAKE.read_text())
    # Stands for the installer of uv, which stands for the installation of humpback.
    install = 'mkdir -p "$UV_UNMANAGED_INSTALL"; cp "$CLOUD/uv" "$UV_UNMANAGED_INSTALL/uv"'
    programs("curl", f"print({install!r})")
    (folder / "uv").write_text(UV)
    (folder / "uv").chmod(0o755)

    def plan(fates, workers=1, **more):
        content = {"workers": workers, "fates": fates, **more}
        (folder / "plan.json").write_text(json.dumps(content))
        namespace = {"__name__": "fake"}
        exec(FAKE.read_text(), namespace)  # for the text of its humpback
        (folder / "humpback").write_text(namespace["HUMPBACK"])
        (folder / "humpback").chmod(0o755)
        return folder

    yield plan
    for home in folder.glob("worker*"):
        for running in home.glob("humpback/jobs/*/running"):
            subprocess.run(["pkill", "-KILL", "-P", running.read_text().strip()], check=False)


def _vm(shape="2x4", slices=1, **more):
    given = {"name": "hb", "project": "project", "zone": "us-west4-a", "package": "git+x"}
    topology = Topology("v5e", shape, slices)
    return TpuVm(**{**given, "poll_seconds": 0.05, "topology": topology, **more})


def _run(vm):
    configuration.parse(["recipes/quickstart.gin"], [])
    return tpu_vm_supervisor.run(vm, (*STAGE, "--model=M1"))


def _verbs(folder):
    return [json.loads(line)[3] for line in (folder / "calls").read_text().splitlines()]


def _wait_for(look, said=lambda: ""):
    deadline = time.monotonic() + 120
    while not look():
        assert time.monotonic() < deadline, said()
        time.sleep(0.05)


def test_a_stage_that_ends_well_leaves_no_machine(cloud, capfd):
    folder = cloud([["0"]])
    assert _run(_vm()) == 0
    verbs = _verbs(folder)
    assert verbs[:2] == ["describe", "create"]
    assert verbs.count("create") == 1
    assert verbs[-1] == "delete"
    assert (folder / "state").read_text() == ""
    given = json.loads((folder / "ran-0-0").read_text())
    assert given == [*STAGE, "--model=M1"]
    error = capfd.readouterr().err
    assert error.index("hb is WAITING_FOR_RESOURCES") < error.index("hb is ACTIVE")
    assert "install humpback on every worker" in error


def test_every_worker_of_a_pod_runs_it(cloud):
    folder = cloud([["0"] * 4], workers=4)
    assert _run(_vm("4x4")) == 0
    for worker in range(4):
        given = json.loads((folder / f"ran-0-{worker}").read_text())
        assert given == [*STAGE, "--model=M1", "--distributed"]


def test_what_has_saved_and_ended_is_started_again(cloud):
    folder = cloud([["42", "42"], ["0", "0"]], workers=2)
    assert _run(_vm(slices=2)) == 0
    assert (folder / "ran-1-1").exists()
    assert _verbs(folder).count("create") == 1


def test_machines_that_are_taken_away_are_asked_for_again(cloud, capfd):
    folder = cloud([["sleeps"], ["0"]], preempted=[2])
    assert _run(_vm(spot=True)) == 0
    verbs = _verbs(folder)
    assert verbs.count("create") == 2
    assert verbs.count("delete") == 2
    calls = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    assert all("--spot" in call for call in calls if call[3] == "create")
    assert (folder / "ran-1-0").exists()
    assert "hb was taken away" in capfd.readouterr().err


def test_a_worker_that_was_started_anew_is_a_preemption(cloud, capfd):
    folder = cloud([["sleeps"], ["0"]], rebooted=[1])
    assert _run(_vm()) == 0
    assert (folder / "ran-1-0").exists()
    assert "has lost its process" in capfd.readouterr().err


def test_preemptions_without_end_end(cloud):
    folder = cloud([["42"]] * 3)
    with pytest.raises(UserError, match="taken away 3 times"):
        _run(_vm(restarts=2))
    assert _verbs(folder)[-1] == "delete"


def test_a_failure_shows_the_log_and_leaves_no_machine(cloud, capfd):
    folder = cloud([["3"]])
    with pytest.raises(UserError, match=r"humpback train failed on hb with exit code 3"):
        _run(_vm())
    assert "attempt 0 says why it ended" in capfd.readouterr().err
    assert _verbs(folder)[-1] == "delete"
    assert not (folder / "ran-1-0").exists()


def test_one_worker_that_failed_does_not_wait_for_the_others_for_ever(cloud):
    cloud([["sleeps", "1", "sleeps", "sleeps"]], workers=4)
    with pytest.raises(UserError, match="exit code 1"):
        _run(_vm("4x4"))


def test_machines_are_kept_where_that_is_wanted(cloud, capfd):
    folder = cloud([["0"]])
    assert _run(_vm(keep=True)) == 0
    assert "delete" not in _verbs(folder)
    assert "paid for until" in capfd.readouterr().err


@pytest.mark.parametrize("where", ["create", "state"])
def test_no_quota_is_one_sentence_that_says_what_to_do(cloud, where):
    more = {"errors": {"create": [QUOTA]}}
    if where == "state":
        more = {"state": "FAILED", "reason": "Quota exceeded for TPUs"}
    folder = cloud([], **more)
    with pytest.raises(UserError) as raised:
        _run(_vm())
    sentence = str(raised.value)
    assert "no quota for v5litepod-8 in us-west4-a" in sentence
    assert "console.cloud.google.com/iam-admin/quotas" in sentence
    assert "TpuVm.spot = True" in sentence
    assert "\n" not in sentence
    assert "ssh" not in _verbs(folder)


def test_a_request_that_is_refused_says_why(cloud):
    refusal = "ERROR: (gcloud) PERMISSION_DENIED: TPU API is not enabled\nmore"
    cloud([], errors={"create": [refusal]})
    with pytest.raises(UserError, match="PERMISSION_DENIED: TPU API is not enabled"):
        _run(_vm())


def test_a_connection_that_breaks_is_tried_again(cloud):
    lost = "ERROR: (gcloud) could not reach the metadata of the host"
    folder = cloud([["0"]], errors={"describe": ["", lost, lost], "ssh": [lost, "", "", lost]})
    assert _run(_vm()) == 0
    assert not (folder / "ran-1-0").exists()


def test_machines_that_cannot_be_reached_are_not_deleted_unseen(cloud, monkeypatch):
    monkeypatch.setattr(tpu_vm_supervisor, "_PATIENCE", 3)
    folder = cloud([], errors={"describe": ["", *["ERROR: no network"] * 9]})
    with pytest.raises(UserError, match="may go on and is paid for"):
        _run(_vm())
    assert "delete" not in _verbs(folder)


def test_a_state_that_is_not_known_deletes_nothing(cloud):
    folder = cloud([], state="THINKING")
    with pytest.raises(UserError, match="hb is 'THINKING'.*queued-resources delete hb"):
        _run(_vm())
    assert "delete" not in _verbs(folder)


@pytest.mark.parametrize("package", ["git+x", "git+y"])
def test_machines_that_work_on_another_stage_are_left_alone(cloud, package):
    """Neither is its package replaced, nor a second process started, nor are they deleted."""
    folder = cloud([["sleeps"]])
    configuration.parse(["recipes/quickstart.gin"], [])
    vm = _vm()
    tpu_vm_supervisor._bring_up(vm)
    started = [*vm.setup(), vm.start((*STAGE, "--model=M0"), "first")]
    assert all(tpu_vm_supervisor._worked(wanted, vm) for wanted in started)
    with pytest.raises(UserError, match="hb is at work on train-m0"):
        _run(_vm(package=package))
    assert "delete" not in _verbs(folder)
    assert (folder / "worker0" / "humpback" / "installed").read_text().split()[1] == "git+x"
    assert not (folder / "ran-1-0").exists()


def test_who_ends_it_while_machines_are_deleted_is_told_of_them(cloud, monkeypatch, capfd):
    cloud([["0"]])

    def interrupt(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(tpu_vm_supervisor, "_delete", interrupt)
    assert _run(_vm()) == 42
    assert "queued-resources delete hb" in capfd.readouterr().err
    monkeypatch.setattr(tpu_vm_supervisor, "_capture", interrupt)
    assert _vm().perform("create", ()) == 42
    assert "queued-resources delete hb" in capfd.readouterr().err


def test_an_installation_that_fails_is_told_with_its_last_line(cloud, capfd):
    folder = cloud([])
    (folder / "uv").write_text("#!/usr/bin/env bash\necho no such package >&2\nexit 1\n")
    with pytest.raises(UserError, match="could not install humpback on every worker: no such"):
        _run(_vm())
    assert _verbs(folder)[-1] == "delete"


def test_a_wheel_of_this_machine_is_copied_to_every_worker(cloud, tmp_path):
    wheel = tmp_path / "humpback_jax-1-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    folder = cloud([["0"]])
    assert _run(_vm(package=str(wheel), keep=True)) == 0
    assert (folder / "worker0" / wheel.name).read_bytes() == b"wheel"
    installed = (folder / "worker0" / "humpback" / "installed").read_text()
    assert re.fullmatch(rf"3.12 {re.escape(wheel.name)} [0-9a-f]{{16}}\n", installed)


def test_a_wheel_that_is_not_there_is_told_before_anything_is_asked_for(cloud):
    folder = cloud([])
    with pytest.raises(UserError, match="there is no wheel"):
        _run(_vm(package="dist/nothing.whl"))
    assert not (folder / "calls").exists()


def test_without_gcloud_nothing_is_tried(programs):
    with pytest.raises(UserError, match="there is no program 'gcloud'.*gcloud auth login"):
        _run(_vm())


def test_what_no_waiting_mends_is_told_at_once(cloud):
    denied = "ERROR: (gcloud) PERMISSION_DENIED: the caller may not see projects/project"
    folder = cloud([], errors={"describe": [denied] * 3})
    with pytest.raises(UserError, match="PERMISSION_DENIED.*gcloud auth login"):
        _run(_vm())
    assert _verbs(folder) == ["describe"]


def test_asking_for_machines_alone_tells_of_the_quota_too(cloud):
    cloud([], errors={"create": [QUOTA]})
    with pytest.raises(UserError, match="has no quota"):
        _vm().perform("create", ())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 42)])
def test_a_supervisor_that_is_interrupted_is_followed_by_another(cloud, number, code):
    folder = cloud([["sleeps"]])
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from launch import configuration; from launch.jobs import tpu_vm_supervisor; "
        "from launch.jobs.tpu_vm import TpuVm; from launch.plan.topology import Topology; "
        "configuration.parse(['recipes/quickstart.gin'], []); "
        "vm = TpuVm('hb', 'p', 'z', 'git+x', poll_seconds=0.05, topology=Topology('v5e', '2x4')); "
        f"sys.exit(tpu_vm_supervisor.run(vm, {(*STAGE, '--model=M1')!r}))"
    )
    first = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    try:
        _wait_for((folder / "ran-0-0").exists)
        first.send_signal(number)
        error = first.communicate(timeout=120)[1]
        assert "hb may go on and is paid for until it is deleted: `gcloud compute tpus" in error
        assert "queued-resources delete hb --project=p --zone=z --force --quiet`" in error
    finally:
        first.kill()
    assert first.returncode == code
    assert "delete" not in _verbs(folder)
    job = folder / "worker0" / "humpback" / "jobs" / "train-m1"
    subprocess.run(["pkill", "-TERM", "-P", (job / "running").read_text().strip()], check=True)
    with pytest.raises(UserError, match="exit code"):  # its fate, seen by the second
        _run(_vm())


# A driver that is gone.

# In the place of humpback on the worker: works on its stage once the file "go" is there.
WORKER = f"""#!{sys.executable}
import os, pathlib, sys, time
sys.path.insert(0, {ROOT!r})
from launch import loop, main
cloud, run_stage = pathlib.Path(os.environ["CLOUD"]), loop.run_stage
def wait(context, name):
    (cloud / f"began-{{os.getpid()}}").touch()
    while not (cloud / "go").exists():
        time.sleep(0.05)
    run_stage(context, name)
loop.run_stage = wait
sys.exit(main.main(sys.argv[1:]))
"""
# The worker of this test is this machine, and sees its files.
SITE = "from launch.jobs.tpu_vm import TpuVm\nTpuVm.remote = False\n"


@pytest.mark.slow
def test_a_new_driver_goes_on_with_what_an_old_one_left_on_the_machines(cloud, tmp_path):
    folder = cloud([])
    (folder / "humpback").write_text(WORKER)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}"}
    bindings = [
        f'RUN_DIR="{tmp_path / "run"}"', "LaunchPlan.rest='tpu-vm'", "Topology.kind='v5e'",
        "Topology.shape='2x4'", "TpuVm.name='hb'", "TpuVm.project='p'", "TpuVm.zone='z'",
        "TpuVm.package='git+x'", "TpuVm.poll_seconds=0.05",
    ]  # fmt: skip
    command = [
        *(sys.executable, "-m", "launch.main", "run", "--gin_file=recipes/quickstart.gin"),
        *(f"--gin.{binding}" for binding in bindings),
    ]

    def driver():
        log = (tmp_path / f"log{len(list(tmp_path.glob('log*')))}").open("w+")
        return log.name, subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def wait_for(look):
        _wait_for(look, lambda: [path.read_text() for path in tmp_path.glob("log*")])

    _, first = driver()
    try:
        wait_for(lambda: list(folder.glob("began-*")))
        first.kill()
        first.wait()
        said, second = driver()
        try:
            wait_for(lambda: "world: goes on in tpu-vm" in pathlib.Path(said).read_text())
            wait_for(lambda: (folder / "count-start").read_text() == "2")
            looks = (folder / "count-poll").read_text()
            wait_for(lambda: (folder / "count-poll").read_text() != looks)
            (folder / "go").touch()
            wait_for(lambda: "world: done by tpu-vm" in pathlib.Path(said).read_text())
        finally:
            second.terminate()
            second.wait(100)
    finally:
        first.kill()
    assert len(list(folder.glob("began-*"))) == 1
    assert _verbs(folder).count("create") == 1
    assert _verbs(folder)[-1] == "delete"
    assert (tmp_path / "run" / "world" / "stage.json").exists()

"""What `humpback launch` prints in its dry runs, whole.

REMAKE_GOLDENS=1 python -m pytest tests/launch/jobs/test_goldens.py writes the files anew: read the
difference before it is committed.
"""

import os
import pathlib
import sys

import pytest

GOLDENS = pathlib.Path(__file__).parent / "goldens"
REMAKE = bool(os.environ.get("REMAKE_GOLDENS"))
TWO_SLICES = ("--gin.Topology.slices=2", "--gin.MeshConfig.slices=2", "--gin.MeshConfig.data=2")
ON_TPU = (
    "--gin.Dataflow.image='us-docker.pkg.dev/project/humpback/dataflow:1'",
    "--gin.Dataflow.zone='us-central1-a'",
    "--gin.augment/Topology.shape='2x4'",
)
# Of a name: the place, its further arguments, and of the subcommand or action where it is another.
CASES = {
    "local_train": ("local", ("--dry-run",), {}),
    "local_two_processes": (
        "local",
        ("--dry-run", "--gin.Local.processes=2", "--gin.Local.devices=4"),
        {},
    ),
    "tpu_vm_run": ("tpu-vm", (), {}),
    "tpu_vm_two_slices": (
        "tpu-vm",
        (*TWO_SLICES, "--gin.TpuVm.spot=True", "--gin.TpuVm.valid_until_duration='6h'"),
        {},
    ),
    "tpu_vm_augment_reserved": (
        "tpu-vm",
        (
            "--gin.TpuVm.reserved=True",
            "--gin.TpuVm.package='gs://bucket/wheels/humpback_jax-1-py3-none-any.whl'",
            "--gin.TpuVm.create_options=('--network=net', '--internal-ips')",
            "--gin.TpuVm.ssh_options=('--tunnel-through-iap',)",
        ),
        {"stage": ("augment",)},
    ),
    "tpu_vm_v4": ("tpu-vm", (), {"recipe": "--gin_file=recipes/humpback_65b_v4_128.gin"}),
    "tpu_vm_logs": ("tpu-vm", ("--dry-run",), {"action": ("logs",)}),
    "tpu_vm_stop": ("tpu-vm", ("--dry-run",), {"action": ("stop",)}),
    "tpu_vm_status": ("tpu-vm", ("--dry-run",), {"action": ("status",), "stage": ()}),
    "xpk_run": ("xpk", (), {}),
    "xpk_two_slices": (
        "xpk",
        (*TWO_SLICES, "--gin.Xpk.spot=True"),
        {"stage": ("train", "--model=M2")},
    ),
    "xpk_curate": ("xpk", (), {"stage": ("curate", "--iteration=2")}),
    "xpk_image": ("xpk", ("--dry-run",), {"action": ("image",), "stage": ()}),
    "xpk_status": ("xpk", ("--dry-run",), {"action": ("status",)}),
    "xpk_logs": ("xpk", ("--dry-run",), {"action": ("logs",)}),
    "xpk_delete": ("xpk", ("--dry-run",), {"action": ("delete",)}),
    "dataflow_segment": (
        "dataflow",
        ("--gin.Dataflow.machine_type='n2-standard-8'", "--gin.Dataflow.max_workers=200"),
        {"stage": ("segment",)},
    ),
    "dataflow_augment": ("dataflow", ON_TPU, {"stage": ("augment",)}),
    "flink_curate": (
        "flink",
        (
            "--dry-run",
            "--gin.Flink.job_server_jar='/opt/beam/job server.jar'",
            "--gin.Flink.parallelism=8",
            "--gin.Flink.artifacts_dir='/shared/artifacts'",
            "--gin.Flink.options=('--sdk_worker_parallelism=1',)",
        ),
        {"stage": ("curate", "--iteration=1")},
    ),
    "dataflow_image": ("dataflow", (*ON_TPU, "--dry-run"), {"action": ("image",), "stage": ()}),
}


@pytest.fixture(scope="module")
def printed(request, arguments):
    """Returns a function that gives the dry run of a case as a script."""

    def of(name, humpback):
        place, more, changes = CASES[name]
        code, out, error = humpback(*arguments(place, *more, **changes))
        assert (code, error) == (0, "")
        return "#!/usr/bin/env bash\n" + out.replace(sys.executable, "python")

    return of


@pytest.fixture(autouse=True)
def _repository(monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).resolve().parents[3])


@pytest.mark.parametrize("name", CASES)
def test_a_dry_run_prints_what_it_printed(name, printed, humpback):
    path = GOLDENS / f"{name}.sh"
    text = printed(name, humpback)
    if REMAKE:
        path.write_text(text)
    assert text == path.read_text()


def test_every_golden_has_its_case():
    assert {path.stem for path in GOLDENS.glob("*.sh")} == set(CASES)


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDENS.glob("*.sh")))
def test_shellcheck_finds_nothing_in_a_golden(name, shellcheck):
    found = shellcheck((GOLDENS / f"{name}.sh").read_text())
    # What is expanded stands in quotes because another shell shall expand it.
    told = [line for line in found.splitlines() if "SC" in line and "SC2016" not in line]
    assert told == [], found

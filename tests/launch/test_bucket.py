"""A run directory in a bucket: what a laptop is told of it, and the stages and claims there."""

import json
import pathlib
import re

import pytest
from etils import epath

from humpback_jax.errors import UserError
from launch import claims, status
from launch.main import main

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN_DIR = "gs://bucket/run"


@pytest.fixture
def humpback(tiny_recipe, capsys):
    """Returns a function that runs a command and returns (exit code, stdout, stderr)."""

    def run(*command):
        capsys.readouterr()
        gin = (
            []
            if command[0] == "status"
            else [f"--gin_file={tiny_recipe}", f'--gin.RUN_DIR="{RUN_DIR}"']
        )
        code = main([*command, *gin])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def _one_sentence(error):
    return error.startswith("humpback: ") and error.count("\n") == 1


def test_stages_and_status_are_the_same_in_a_bucket(humpback, bucket):
    for stage in ("world", "segment", "seed"):
        code, _, error = humpback(stage)
        assert code == 0, error
    code, out, _ = humpback("status", RUN_DIR)
    assert code == 0
    states = dict(line.split()[:2] for line in out.splitlines())
    assert [name for name in states if states[name] == "done"] == ["world", "segment", "seed"]
    assert "60 out" in out
    assert not list(epath.Path(RUN_DIR, claims.FOLDER).glob("*.json"))


def test_the_status_of_a_training_in_a_bucket_shows_its_log(humpback, bucket):
    rows = [{"step": step, "loss": 2.0 / step} for step in (1, 2)]
    log = "".join(json.dumps(row) + "\n" for row in rows)
    bucket.pipe_file(f"{RUN_DIR}/stages.json", b'["seed", "M0"]')
    bucket.pipe_file(f"{RUN_DIR}/M0/config.json", b"{}")
    bucket.pipe_file(f"{RUN_DIR}/M0/train/metrics.jsonl", log.encode())
    _, out, _ = humpback("status", RUN_DIR)
    assert out.splitlines()[0].split() == ["seed", "left"]
    assert out.splitlines()[1].split(maxsplit=2) == ["M0", "stopped", "step 2, loss 1.0000"]


def test_a_bucket_has_one_driver_and_status_shows_it(humpback, bucket):
    bucket.pipe_file(f"{RUN_DIR}/stages.json", b'["seed"]')
    run_dir = epath.Path(RUN_DIR)
    with claims.hold(run_dir, claims.RUN) as held:
        with pytest.raises(UserError, match="gs://bucket/run is in use by process"):
            claims.Held(run_dir, claims.RUN)
        code, _, error = humpback("seed")
        assert code == 1
        assert "gs://bucket/run is in use by process" in error
        assert _one_sentence(error)
        held.renew()
        assert not held.is_lost
        line = humpback("status", RUN_DIR)[1].splitlines()[-1]
        assert line.startswith(f"in use by {held.claim.describe()}, last sign of life 0 s ago")
        bucket.rm(f"{RUN_DIR}/drivers/{held.id}.json")
        held.renew()
        assert held.is_lost
    assert claims.read_all(run_dir) == []


def test_a_bucket_without_that_run_is_told(humpback, bucket):
    code, _, error = humpback("status", RUN_DIR)
    assert code == 1
    assert "gs://bucket/run is no run directory" in error
    assert _one_sentence(error)


@pytest.mark.parametrize("command", [["status", RUN_DIR], ["report"], ["run"], ["seed"]])
def test_a_bucket_that_cannot_be_reached_is_told_in_a_sentence(
    humpback, bucket, monkeypatch, command
):
    class StoreError(Exception):
        """Libraries of object stores have errors of their own."""

    def refuse(*_, **__):
        raise StoreError("403: no access to bucket\nand a long story")

    monkeypatch.setattr(type(bucket), "exists", refuse)
    code, _, error = humpback(*command)
    assert code == 1
    assert f"{RUN_DIR} cannot be reached (403: no access to bucket): check the name" in error
    assert _one_sentence(error)


def test_a_bucket_that_cannot_be_written_is_told_in_a_sentence(humpback, bucket, monkeypatch):
    class StoreError(Exception):
        """Libraries of object stores have errors of their own."""

    def refuse(*_, **__):
        raise StoreError("403: objects.create denied")

    monkeypatch.setattr(type(bucket), "_open", refuse)
    code, _, error = humpback("run")
    assert code == 1
    assert "gs://bucket/run/drivers/" in error
    assert "could not be written (403: objects.create denied)" in error
    assert _one_sentence(error)
    assert not bucket.find("gs://bucket/run")


def test_no_such_scheme_is_told_in_a_sentence():
    with pytest.raises(UserError, match="gs3://bucket/run"):
        status.describe("gs3://bucket/run")


def test_the_packages_launch_plan_is_printed_for_a_run_in_a_bucket(bucket, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)  # Dataflow's workers install the package by its setup.py
    values = {
        "RUN_DIR": RUN_DIR, "CORPUS": "gs://b/*.warc.gz", "SEED": "gs://b/seed.jsonl",
        "BASE": "gs://b/llama", "PROJECT": "p", "REGION": "us-west4", "ZONE": "us-west4-a",
        "PACKAGE": "gs://b/humpback.whl", "TEMP_LOCATION": "gs://b/tmp",
    }  # fmt: skip
    flags = [f'--gin.{name}="{value}"' for name, value in values.items()]
    files = ["recipes/humpback_7b_v5e_16.gin", "launch/dataflow_and_tpu_vm.gin"]
    code = main(["run", "--dry-run", *(f"--gin_file={name}" for name in files), *flags])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    heads = re.findall(r"^# stage (\S+): (.+)$", captured.out, re.MULTILINE)
    assert dict(heads) == {
        **dict.fromkeys(("seed", "evaluate", "report"), "in this process"),
        "segment": "dataflow",
        **dict.fromkeys(("base", "Myx", "M0", "M1", "M2", "augment"), "tpu-vm"),
        **dict.fromkeys(("curate1", "curate2"), "tpu-vm"),
    }
    assert "launch tpu-vm run --no-dry-run" in captured.out
    assert "--engine=pod" in captured.out
    assert "--runner=" not in captured.out
    assert not bucket.find("gs://bucket")

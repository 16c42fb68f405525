"""A run whose every stage is a process of its own, on this machine's loopback, and its driver.

Segments are made through a job service and its worker pool, models are trained by two processes.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

from launch import claims

pytestmark = pytest.mark.slow

TRAINED = ("Myx", "M0", "M1")
STAGES = ["world", "segment", "seed", "base", "Myx", "augment", "M0", "curate1", "M1"]
ONE_DEVICE = "--xla_force_host_platform_device_count=1"
RECIPE = """
include '{tiny}'
Recipe.iterations = 1
Recipe.arms = ()
# The same program for all models, which is compiled once.
TrainConfig.train_steps = 12
Myx/TrainConfig.train_steps = 12
M0/TrainConfig.train_steps = 12
OptimizerConfig.learning_rate = 5e-4
"""
PLAN = """
include '{recipe}'
LaunchPlan.segment = 'local'
LaunchPlan.train = 'local'
LaunchPlan.augment = 'local'
LaunchPlan.curate = 'local'
LaunchPlan.evaluate = 'local'
LaunchPlan.rest = 'local'
Local.devices = 1
train/Local.processes = 2
BeamConfig.runner = 'PortableRunner'
BeamConfig.options = {options}
"""


def _start(run_dir, gin, *arguments):
    flags = [f"--gin_file={gin}", f'--gin.RUN_DIR="{run_dir}"']
    return subprocess.Popen(
        [sys.executable, "-m", "launch.main", *arguments, *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "XLA_FLAGS": ONE_DEVICE},
    )  # fmt: skip


def _run(run_dir, gin, *arguments):
    process = _start(run_dir, gin, *arguments)
    try:
        out, err = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    return out


def _wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.02)


def _descendants(pid):
    """Returns the numbers of the processes that a process has started, and those of theirs."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found, new = set(), {pid}
    while new := {child for child, parent in parents.items() if parent in new} - found:
        found |= new
    return found


def _wait_until_gone(pids):
    deadline = time.monotonic() + 60
    while alive := [pid for pid in pids if claims._started(pid)]:
        assert time.monotonic() < deadline, f"{alive} stay behind"
        time.sleep(0.1)


def _contents(run_dir):
    """Returns what the files say, but for times, checkpoints' arrays and who configured what."""
    found = {}
    for path in sorted(run_dir.rglob("*")):
        name = str(path.relative_to(run_dir))
        if path.is_dir() or path.name in ("config.gin", "index.html") or "checkpoint_" in name:
            continue
        if path.suffix == ".json":
            found[name] = _timeless(json.loads(path.read_text()))
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _timeless(value):
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in ("seconds", "finished")}
    return value


def _losses(model_dir):
    lines = (model_dir / "train" / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


def test_stages_in_places_of_their_own_end_in_the_bytes_of_one_process(
    tiny_recipe, tmp_path, portable_options
):
    recipe, plan = tmp_path / "recipe.gin", tmp_path / "plan.gin"
    recipe.write_text(RECIPE.format(tiny=tiny_recipe))
    plan.write_text(PLAN.format(recipe=recipe, options=portable_options))
    run_dir, several = tmp_path / "run", tmp_path / "several"

    # Killed while it segments: what it started ends with it.
    driver = _start(run_dir, plan, "run")
    _wait_for(run_dir / "segment" / "running.json", driver)
    started = _descendants(driver.pid)
    assert len(started) >= 2  # the stage, and what holds it to its driver
    driver.kill()
    driver.communicate()
    _wait_until_gone(started)
    assert not (run_dir / "segment" / "stage.json").exists()

    # Told to end while it trains: both processes save, and it ends with 42.
    driver = _start(run_dir, plan, "run")
    _wait_for(run_dir / "Myx" / "train" / "metrics.jsonl", driver)
    started = _descendants(driver.pid)
    assert len(started) >= 4
    driver.terminate()
    out, err = driver.communicate(timeout=100)
    assert driver.returncode == 42, err[-3000:]
    assert "world: 1 in" in out
    assert "the run was told to end, and with it stage Myx: run `humpback run" in err
    _wait_until_gone(started)
    assert claims.read_all(run_dir) == []

    out = _run(run_dir, plan, "run")
    assert "seed: 13 in = 12 out + 1 rejected (language 1) + 0 errors; done already" in out
    assert "M1: done by local" in out

    # In one process, with the same models: all else is computed anew, and the same.
    # Under the same name, as segments and configurations name their files.
    run_dir.rename(several)
    run_dir.mkdir()
    for name in TRAINED:
        shutil.copytree(several / name, run_dir / name)
    out = _run(run_dir, recipe, "run")
    for name in STAGES:
        (line,) = re.findall(f"^{name}: .* in = .*$", out, re.MULTILINE)
        assert line.endswith("done already") == (name in TRAINED)
    expected, found = _contents(run_dir), _contents(several)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert len([name for name in expected if name.startswith("augment/shards")]) == 4

    # Trained by one process: the same examples in the same order; sums of another order.
    shutil.rmtree(run_dir / "Myx")
    _run(run_dir, recipe, "train", "--model=Myx")
    of_one, of_two = _losses(run_dir / "Myx"), _losses(several / "Myx")
    assert len(of_one) == 12
    assert of_two == pytest.approx(of_one, rel=1e-3)
    of_one, of_two = ((folder / "Myx" / "examples.parquet") for folder in (run_dir, several))
    assert of_one.read_bytes() == of_two.read_bytes()

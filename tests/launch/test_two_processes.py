"""Two processes of four devices each train one model together, over jax.distributed."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest

from launch.main import main

DRIVER = pathlib.Path(__file__).parent / "signalled_run.py"
STEPS = 24
pytestmark = pytest.mark.slow


def _arguments(recipe, run_dir, *command):
    return [
        *command,
        f"--gin_file={recipe}",
        f'--gin.RUN_DIR="{run_dir}"',
        "--gin.MeshConfig.data=2",
        "--gin.MeshConfig.fsdp=-1",
        "--gin.MeshConfig.tensor=2",
        f"--gin.M0/TrainConfig.train_steps={STEPS}",
        "--gin.M0/TrainConfig.checkpoint_period=4",
    ]


def _environment(devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags}


def _alone(recipe, run_dir, *command):
    arguments = _arguments(recipe, run_dir, *command)
    done = subprocess.run(
        [sys.executable, "-m", "launch.main", *arguments],
        capture_output=True, text=True, check=False, env=_environment(8),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def _together(recipe, run_dir, signals=(("SIGTERM", 0), ("SIGTERM", 0))):
    """Trains M0 with two processes; returns their exit codes and what they said."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [
                sys.executable, str(DRIVER), name, str(step),
                *_arguments(recipe, run_dir, "train", "--model=M0"),
                f"--coordinator_address={address}", "--process_count=2", f"--process_index={index}",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(4),
        )
        for index, (name, step) in enumerate(signals)
    ]  # fmt: skip
    said = []
    try:
        said = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def _state(run_dir):
    """Returns the last checkpoint's checksums of every leaf, and where its data stand."""
    folder = run_dir / "M0" / f"checkpoint_{STEPS}"
    metadata = json.loads((folder / "_CHECKPOINT_METADATA").read_text())
    return metadata["custom_metadata"]["checksums"], (run_dir / "M0" / "model.json").read_text()


def _losses(run_dir):
    lines = (run_dir / "M0" / "train" / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def prepare(tiny_recipe, tmp_path_factory):
    """Returns a function that gives a new run directory whose base and seed are done."""
    folder = tmp_path_factory.mktemp("runs")
    prepared = folder / "prepared"
    for stage in ("world", "seed", "base"):
        assert main([stage, f"--gin_file={tiny_recipe}", f'--gin.RUN_DIR="{prepared}"']) == 0
    return lambda name: shutil.copytree(prepared, folder / name)


@pytest.fixture(scope="module")
def uninterrupted(tiny_recipe, prepare):
    run_dir = prepare("uninterrupted")
    codes, said = _together(tiny_recipe, run_dir)
    assert codes == [0, 0], said
    return run_dir


def test_two_processes_train_as_one(tiny_recipe, prepare, uninterrupted):
    alone = prepare("alone")
    _alone(tiny_recipe, alone, "train", "--model=M0")
    expected, found = _losses(alone), _losses(uninterrupted)
    assert found.keys() == expected.keys()
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, rel=1e-4), step
    assert (uninterrupted / "M0" / "stage.json").exists()
    of_one, of_two = (run / "M0" / "examples.parquet" for run in (alone, uninterrupted))
    assert of_one.read_bytes() == of_two.read_bytes()


@pytest.mark.parametrize(
    "signals", [(("SIGKILL", 7), ("SIGKILL", 7)), (("SIGTERM", 0), ("SIGTERM", 6))]
)
def test_after_a_signal_the_same_command_ends_in_the_same_state(
    tiny_recipe, prepare, uninterrupted, signals
):
    run_dir = prepare(signals[0][0])
    codes, said = _together(tiny_recipe, run_dir, signals)
    if signals[0][0] == "SIGTERM":
        assert codes == [42, 42], said
        assert all("is saved at step" in errors for _, errors in said)
    else:
        assert codes == [-9, -9]
    assert not (run_dir / "M0" / "stage.json").exists()
    assert list((run_dir / "M0").glob("checkpoint_*"))
    codes, said = _together(tiny_recipe, run_dir)
    assert codes == [0, 0], said
    assert _state(run_dir) == _state(uninterrupted)

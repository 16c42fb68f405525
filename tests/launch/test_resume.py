"""A run that is killed in every stage ends in the same bytes as one that is left alone."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

DRIVER = pathlib.Path(__file__).parent / "killed_run.py"
# Stage -> the write at which it is killed. The first two are config.json and running.json; a
# training's eighth is the metrics of step 3, when the checkpoint of step 2 is there.
KILLS = {
    "world": 4,
    "segment": 6,
    "seed": 3,
    "base": 3,
    "Myx": 8,
    "augment": 5,
    "M0": 8,
    "curate1": 5,
    "M1": 8,
    "curate2": 5,
    "M2": 8,
    "uncurated": 8,
    "evaluate": 4,
    "report": 3,
}
TIMED = {"seconds", "finished"}


def _command(recipe, *before):
    return [sys.executable, *before, "run", f"--gin_file={recipe}", '--gin.RUN_DIR="run"']


def _run(command, folder):
    """Runs a command in a folder of its own, so that two runs name their files alike."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "XLA_FLAGS": ""}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, cwd=folder
    )


def _without_times(value):
    if isinstance(value, dict):
        return {
            k: _without_times(v)
            for k, v in value.items()
            if k not in TIMED and not k.startswith("timing/")
        }
    return value


def _contents(run_dir):
    """Returns what each file says, but for times, TensorBoard's events and Orbax's folders."""
    found = {}
    for path in sorted(run_dir.rglob("*")):
        name = str(path.relative_to(run_dir))
        if path.is_dir() or "checkpoint_" in name or ".tmp-" in name or name.endswith(".html"):
            continue
        if "events.out.tfevents" in name:
            continue
        if path.suffix == ".jsonl" and path.parent.name == "train":
            rows = [_without_times(json.loads(line)) for line in path.read_text().splitlines()]
            found[name] = rows
        elif path.suffix == ".json":
            found[name] = _without_times(json.loads(path.read_text()))
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_in_the_same_bytes(tiny_recipe, tmp_path):
    left_alone, killed = tmp_path / "alone", tmp_path / "killed"
    whole = _command(tiny_recipe, "-m", "launch.main")
    done = _run(whole, left_alone)
    assert done.returncode == 0, done.stderr
    stages = json.loads((left_alone / "run" / "stages.json").read_text())
    assert set(stages) == set(KILLS)
    for stage in stages:
        result = _run(_command(tiny_recipe, str(DRIVER), stage, str(KILLS[stage])), killed)
        assert result.returncode == -9, (stage, result.stderr)
        assert not (killed / "run" / stage / "stage.json").exists(), stage
    assert _run(whole, killed).returncode == 0
    expected, found = _contents(left_alone / "run"), _contents(killed / "run")
    assert found.keys() == expected.keys()
    different = [name for name in expected if found[name] != expected[name]]
    assert different == []


def test_a_finished_run_is_skipped_and_a_changed_one_refused(tiny_recipe, tmp_path):
    command = _command(tiny_recipe, "-m", "launch.main")
    command[command.index("run")] = "world"
    assert _run(command, tmp_path).returncode == 0
    assert "done already" in _run(command, tmp_path).stdout
    changed = _run([*command, "--gin.WorldConfig.segments=70"], tmp_path)
    assert changed.returncode == 1
    assert "another configuration" in changed.stderr
    assert "segments 60 -> 70" in changed.stderr

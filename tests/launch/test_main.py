import json
import os
import subprocess
import sys

import pytest

from humpback_jax import rundir
from humpback_jax.rundir import Counts, StageDir
from launch import main

SEED = '{"instruction": "Why is the sky blue?", "output": "Because of Rayleigh scattering."}\n'


@pytest.fixture
def humpback(tmp_path, capsys):
    """Returns a function that runs a command line and returns (exit code, stdout, stderr)."""

    def run(*arguments):
        try:
            code = main.main(list(arguments))
        except SystemExit as exit_:  # argparse
            code = exit_.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def flags(tmp_path):
    """Returns the flags of a run with one seed pair, whose corpus and base are not there."""
    (tmp_path / "seed.jsonl").write_text(SEED * 4)
    values = {"RUN_DIR": "run", "CORPUS": "*.warc.gz", "SEED": "seed.jsonl", "BASE": "llama"}
    given = [f'--gin.{name}="{tmp_path / value}"' for name, value in values.items()]
    return ["--gin_file=recipes/humpback_7b.gin", *given]


def _one_sentence(code, out, err, expected, *words):
    assert code == expected, err
    assert err.startswith("humpback: ")
    assert err.count("\n") == 1
    for word in words:
        assert str(word) in err


def test_done_is_0_and_again_is_done_already(humpback, flags, tmp_path):
    code, out, err = humpback("seed", *flags)
    assert (code, err) == (0, "")
    assert out.startswith("seed: 4 in = ")
    assert "done in" in out
    code, out, _ = humpback("seed", *flags)
    assert code == 0
    assert "done already" in out
    assert (tmp_path / "run" / "config.gin").read_text().startswith("# Macros:")


def test_a_failure_is_1(humpback, flags, tmp_path):
    (tmp_path / "seed.jsonl").unlink()
    _one_sentence(*humpback("seed", *flags), 1, "there is no", tmp_path / "seed.jsonl")
    _one_sentence(*humpback("base", *flags), 1, "llama", "config.json")
    _one_sentence(*humpback("segment", *flags), 1, "*.warc.gz")


def test_a_stage_before_its_inputs_is_1(humpback, flags):
    _one_sentence(*humpback("train", "--model=M0", *flags), 1, "base", "humpback base")
    _one_sentence(*humpback("augment", *flags), 1, "segment", "humpback segment")
    _one_sentence(*humpback("report", *flags), 1, "is not done")


def test_a_run_directory_that_cannot_be_made_is_1(humpback, flags, tmp_path):
    (tmp_path / "file").write_text("")
    flags = [f for f in flags if "RUN_DIR" not in f] + [f'--gin.RUN_DIR="{tmp_path}/file/run"']
    _one_sentence(*humpback("seed", *flags), 1, "file/run", "could not be written")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gin.RUN_DIR"], ["--gin.RUN_DIR has no value"]),
        (["--gin.RUNDIR='x'"], ["'RUNDIR'", "RUN_DIR"]),
        (["--gin.NoConfig.x=1"], ["NoConfig"]),
        (["--gin.NUM_SHARDS=0"], ["0 shards"]),
        (["--gin_file=nowhere.gin"], ["'nowhere.gin'"]),
    ],
)
def test_wrong_usage_is_2_and_makes_nothing(humpback, flags, tmp_path, arguments, words):
    _one_sentence(*humpback("seed", *flags, *arguments), 2, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["RUN_DIR", "CORPUS", "SEED", "BASE"])
def test_a_required_value_that_is_missing_is_2(humpback, flags, tmp_path, missing):
    rest = [flag for flag in flags if not flag.startswith(f"--gin.{missing}")]
    _one_sentence(*humpback("seed", *rest), 2, f"--gin.{missing}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["train", "--model=nobody"], ["'nobody'", "(it has Myx, M0, M1, M2)"]),
        (["train", "--model=M3"], ["'M3'", "M2"]),
        (["curate", "--iteration=3"], ["'curate3'", "curate2"]),
        (["curate", "--iteration=-1"], ["'curate-1'", "curate1"]),
    ],
)
def test_what_the_recipe_lacks_is_2(humpback, flags, tmp_path, command, words):
    _one_sentence(*humpback(*command, *flags), 2, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["segment", "report", "curate1"])
def test_train_trains_models_only(humpback, flags, tmp_path, name):
    _one_sentence(*humpback("train", f"--model={name}", *flags), 2, f"'{name}'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["seed"],
        ["train", "--gin_file=recipes/quickstart.gin"],
        ["curate", "--gin_file=recipes/quickstart.gin", "--iteration=two"],
        ["seed", "--gin_file=recipes/quickstart.gin", "--gni.X=1"],
        ["status"],
    ],
)
def test_what_argparse_refuses_is_2(humpback, arguments):
    code, _, err = humpback(*arguments)
    assert code == 2
    assert "usage: humpback" in err


def test_help_is_0(humpback):
    code, out, _ = humpback("--help")
    assert code == 0
    assert all(command in out for command in ("run", "segment", "curate", "status", "--gin.NAME"))


# Status.


@pytest.mark.parametrize("name", [".", "nowhere", "seed.jsonl"])
def test_the_status_of_what_is_no_run_is_1(humpback, flags, tmp_path, name):
    path = tmp_path / name
    _one_sentence(*humpback("status", str(path)), 1, path, "is no run directory")


@pytest.mark.parametrize("name", ["stages.json", "seed/stage.json"])
def test_the_status_of_a_run_that_was_half_copied_is_1(humpback, flags, tmp_path, name):
    humpback("seed", *flags)
    damaged = tmp_path / "run" / name
    damaged.write_text(damaged.read_text()[:20])
    _one_sentence(*humpback("status", str(tmp_path / "run")), 1, damaged, "is damaged")


def test_the_status_of_a_run(humpback, flags, tmp_path):
    humpback("seed", *flags)
    run_dir = tmp_path / "run"
    running = StageDir(run_dir, "segment")
    running.begin({}, {})
    stopped = StageDir(run_dir, "augment")
    stopped.begin({}, {})
    (stopped.path / "running.json").unlink()
    stopped.write_shard(0, rundir.records.SeedPair, [], Counts(2, 0, {"empty": 2}), "f")
    training = StageDir(run_dir, "M0")
    training.begin({}, {})
    row = {"step": 7, "loss": 1.25}
    rundir.write_atomic(training.path / "train" / "metrics.jsonl", json.dumps(row) + "\n")
    code, out, _ = humpback("status", str(run_dir))
    assert code == 0
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert list(lines)[:3] == ["segment", "seed", "base"]
    assert lines["seed"].startswith("done")
    assert "4 in = " in lines["seed"]
    assert lines["segment"] == "running"
    assert lines["augment"].startswith("stopped")
    assert "1 shards, 2 in = 0 out + 2 rejected (empty 2)" in lines["augment"]
    assert lines["M0"].startswith("running")
    assert "step 7, loss 1.2500" in lines["M0"]
    assert lines["M2"] == "left"


def test_the_exit_code_is_that_of_the_process(tmp_path):
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "launch.main", "status", str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("humpback: ")
    assert "Traceback" not in done.stderr

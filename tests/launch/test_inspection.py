import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from humpback_jax import records, rundir
from humpback_jax.checkpoints import orbax


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Returns a run with two models, of which one has two steps and logs."""
    root = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    tree = {"layers": {"up": jnp.asarray(rng.normal(size=(2, 8, 16)), jnp.float32)}}
    orbax.save_params(root / "M0", 5, tree)
    for step in (10, 20):
        orbax.save_params(root / "M1", step, {"layers": {"up": tree["layers"]["up"] + step}})
    losses = [{"step": step, "loss": 2.0 - step / 20} for step in (5, 10, 20)]
    rundir.write_atomic(root / "M1" / "train" / "metrics.jsonl", records.to_jsonl(losses))
    held_out = [{"step": 10, "loss": 1.1}, {"step": 20, "loss": 1.4}]
    log = root / "M1" / "training_eval" / "validation" / "metrics.jsonl"
    rundir.write_atomic(log, records.to_jsonl(held_out))
    return root


def test_ls_of_a_run_of_a_model_and_of_a_step(ckpt, run_dir):
    code, said, _ = ckpt("ls", run_dir)
    rows = [line.split() for line in said.splitlines()]
    assert code == 0
    assert [row[:3] for row in rows[1:]] == [
        ["M0", "5", "committed"],
        ["M1", "10", "committed"],
        ["M1", "20", "committed"],
    ]
    assert rows[2][-3:] == ["1.5", "1.1", "best"]
    assert rows[3][-2:] == ["1", "1.4"]
    (step,) = json.loads(ckpt("ls", run_dir / "M1" / "checkpoint_20", "--json")[1])
    assert (step["step"], step["loss"], step["evaluation"], step["best"]) == (20, 1.0, 1.4, False)
    assert len(ckpt("ls", run_dir / "M1")[1].splitlines()) == 3


def test_show_as_table_and_as_json(ckpt, run_dir):
    path = run_dir / "M0" / "checkpoint_5"
    code, said, _ = ckpt("show", path)
    assert code == 0
    assert "params/layers/up  [2, 8, 16]  float32" in said
    assert "(all)" in said
    assert "256  1 KiB" in said
    (leaf,) = json.loads(ckpt("show", path, "--json")[1])
    assert (leaf["shape"], leaf["dtype"], leaf["bytes"]) == ([2, 8, 16], "float32", 1024)
    code, _, error = ckpt("show", path, "--only", "opt_state/*")
    assert (code, error.count("\n")) == (1, 1)
    assert "no array" in error


def test_stats_and_diff(ckpt, run_dir):
    first, second = (run_dir / "M1" / f"checkpoint_{step}" for step in (10, 20))
    (found,) = json.loads(ckpt("stats", second, "--json")[1])
    assert found["nan"] == found["inf"] == 0
    assert found["rms"] == pytest.approx(20, rel=0.02)
    code, said, _ = ckpt("diff", first, second)
    assert code == 1
    assert said.splitlines()[1].split() == ["params/layers/up", "10", "10", "256"]
    code, said, _ = ckpt("diff", first, first)
    assert code == 0
    assert said.splitlines()[-1] == "1 arrays, all equal"


def test_verify_is_0_for_what_was_saved_and_1_for_anything_else(ckpt, run_dir, tmp_path):
    path = tmp_path / "checkpoint_5"
    shutil.copytree(run_dir / "M0" / "checkpoint_5", path)
    code, said, _ = ckpt("verify", path)
    assert code == 0
    assert said.endswith("1 arrays, 1 KiB, all as they were saved\n")
    file = path / "state" / "_METADATA"
    file.write_bytes(file.read_bytes().replace(b"up", b"us"))
    code, said, error = ckpt("verify", path)
    assert (code, error) == (1, "")
    assert "state/_METADATA: its bytes are not those that were written" in said


@pytest.mark.parametrize("action", ["show", "stats", "verify"])
def test_a_parent_or_child_of_a_checkpoint_is_one_sentence(ckpt, run_dir, action):
    step = run_dir / "M0" / "checkpoint_5"
    for path, words in ((run_dir / "M0", step), (step / "state", step), (run_dir, "ckpt ls")):
        code, said, error = ckpt(action, path)
        assert (code, said, error.count("\n")) == (1, "", 1)
        assert str(words) in error

"""Bad input ends in one sentence with the remedy, and loses nothing that was done."""

import gzip
import json
import os
import shutil
import subprocess
import sys

import pytest

from humpback_jax import records, rundir
from humpback_jax.rundir import StageDir
from launch.main import main


@pytest.fixture
def humpback(tiny_recipe, tmp_path, capsys, monkeypatch):
    """Returns a function that runs a command and returns (exit code, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(command, *flags):
        capsys.readouterr()
        arguments = [*command.split(), f"--gin_file={tiny_recipe}", '--gin.RUN_DIR="run"', *flags]
        code = main(arguments)
        return code, capsys.readouterr().err

    return run


def _is_one_sentence(message: str) -> bool:
    return message.startswith("humpback: ") and message.count("\n") == 1 and ": " in message


def _warc(folder, content: bytes):
    path = folder / "pages.warc.gz"
    path.write_bytes(content)
    return f'--gin.CORPUS="{path}"'


def _world_warc(humpback, folder) -> bytes:
    assert humpback("world")[0] == 0
    return (folder / "run" / "world" / "corpus" / "web-00000.warc.gz").read_bytes()


def test_a_pattern_that_matches_nothing(humpback):
    code, message = humpback("segment", '--gin.CORPUS="nowhere/*.warc.gz"')
    assert code == 1, message
    assert "nowhere/*.warc.gz" in message
    assert _is_one_sentence(message)


@pytest.mark.parametrize(
    "content", [b"", b"this is no archive", gzip.compress(b"<html></html>", mtime=0)]
)
def test_a_file_that_is_no_warc(humpback, tmp_path, content):
    code, message = humpback("segment", _warc(tmp_path, content))
    assert code == 1, message
    assert "WARC" in message
    assert _is_one_sentence(message)


def test_a_truncated_member_is_counted_and_kept(humpback, tmp_path):
    whole = _world_warc(humpback, tmp_path)
    code, _ = humpback("segment", _warc(tmp_path, whole[: len(whole) * 2 // 3]))
    assert code == 0
    stage = StageDir(tmp_path / "run", "segment")
    pages = stage.summary()["pages"]
    assert pages["rejects"]["truncated"] == 1
    assert pages["records_in"] == pages["records_out"] + sum(pages["rejects"].values())
    assert any(reject.reason == "truncated" for reject in _rejects(stage))


def _rejects(stage):
    for path in stage.path.glob("rejects*/*.parquet"):
        yield from records.read_parquet(records.Reject, path)


@pytest.mark.parametrize("content", ["", "no json\n", '{"instruction": "", "output": ""}\n'])
def test_a_seed_without_a_usable_pair(humpback, tmp_path, content):
    path = tmp_path / "seed.jsonl"
    path.write_text(content)
    code, message = humpback("seed", f'--gin.SEED="{path}"')
    assert code == 1, message
    assert "seed.jsonl" in message
    assert _is_one_sentence(message)


def test_a_missing_seed_file(humpback):
    code, message = humpback("seed", '--gin.SEED="nowhere.jsonl"')
    assert code == 1, message
    assert "nowhere.jsonl" in message
    assert _is_one_sentence(message)


@pytest.mark.parametrize("missing", ["tokenizer.model", "config.json", "model.safetensors"])
def test_a_base_folder_that_lacks_a_file(humpback, tmp_path, packaged_base, missing):
    folder = shutil.copytree(packaged_base, tmp_path / "base")
    (folder / missing).unlink()
    code, message = humpback("base", f'--gin.BASE="{folder}"')
    assert code == 1, message
    assert missing.split(".")[-1] in message
    assert _is_one_sentence(message)


def test_an_unknown_macro(humpback):
    code, message = humpback("segment", "--gin.CORPSU='x'")
    assert code == 2
    assert "CORPSU" in message
    assert "CORPUS" in message
    assert _is_one_sentence(message)


def test_another_configuration_is_refused_and_nothing_lost(humpback, tmp_path):
    assert humpback("world")[0] == 0
    assert humpback("segment")[0] == 0
    before = StageDir(tmp_path / "run", "segment").summary()
    code, message = humpback("segment", "--gin.SegmentFilters.min_length=50")
    assert code == 1, message
    assert "min_length 40 -> 50" in message
    assert _is_one_sentence(message)
    assert StageDir(tmp_path / "run", "segment").summary() == before
    assert humpback("segment")[0] == 0


def test_a_full_disk_keeps_what_is_done(humpback, tmp_path, monkeypatch):
    assert humpback("world")[0] == 0
    whole, written = rundir.write_atomic, []

    def full_after_four(path, content):
        if len(written) == 4:
            raise rundir.UserError(f"{path} could not be written (No space left on device)")
        written.append(path)
        whole(path, content)

    monkeypatch.setattr(rundir, "write_atomic", full_after_four)
    code, message = humpback("segment")
    assert code == 1, message
    assert "No space left" in message
    monkeypatch.setattr(rundir, "write_atomic", whole)
    assert humpback("segment")[0] == 0


def test_a_stage_before_its_inputs_names_the_command(humpback):
    code, message = humpback("augment")
    assert code == 1, message
    assert "humpback segment" in message
    assert _is_one_sentence(message)


@pytest.fixture(scope="module")
def augmentable(tiny_recipe, tmp_path_factory):
    """A run directory whose segments are there, with the base in the backward model's place."""
    run_dir = tmp_path_factory.mktemp("augmentable") / "run"
    for stage in ("world", "segment", "base"):
        assert main([stage, f"--gin_file={tiny_recipe}", f'--gin.RUN_DIR="{run_dir}"']) == 0
    shutil.copytree(run_dir / "base", run_dir / "Myx")
    return run_dir


def _without_card(myx):
    (myx / "model.json").unlink()


def _without_weights(myx):
    shutil.rmtree(myx / "checkpoint_0")


def _without_a_part(myx):
    files = (path for path in (myx / "checkpoint_0").rglob("*") if path.is_file())
    max(files, key=lambda path: path.stat().st_size).unlink()


def _of_another_size(myx):
    card = json.loads((myx / "model.json").read_text())
    card["config"]["mlp_dim"] = 64
    (myx / "model.json").write_text(json.dumps(card))


@pytest.mark.parametrize("engine", ["beam", "pod"])
@pytest.mark.parametrize(
    ("spoil", "flags", "words"),
    [
        (_without_card, [], ["Myx is no model folder (neither model.json nor config.json of"]),
        (_without_weights, [], ["there is no checkpoint", "checkpoint_0: train or import"]),
        (_without_a_part, [], ["checkpoint_0 is damaged", "DATA_LOSS"]),
        (_of_another_size, [], ["344, 128]", "64, 128] is wanted", "belongs to another model"]),
        (
            lambda myx: None,
            ["--gin.EngineConfig.slots=100000000", "--gin.EngineConfig.warm_up=True"],
            ["100000000 slots of", "set EngineConfig.slots to at most"],
        ),
    ],
)
def test_what_augmenting_lacks(humpback, augmentable, tmp_path, spoil, flags, words, engine):
    myx = shutil.copytree(augmentable, tmp_path / "run") / "Myx"
    spoil(myx)
    code, message = humpback("augment", f"--engine={engine}", *flags)
    assert code == 1, message
    assert all(word in message for word in words), message
    assert _is_one_sentence(message)


def test_beam_says_nothing_before_the_one_sentence(tiny_recipe, augmentable, tmp_path):
    """In a process of its own: pytest takes what Beam would log."""
    run_dir = shutil.copytree(augmentable, tmp_path / "run")
    _without_weights(run_dir / "Myx")
    flags = [f"--gin_file={tiny_recipe}", f'--gin.RUN_DIR="{run_dir}"']
    done = subprocess.run(
        [sys.executable, "-m", "launch.main", "augment", *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": ""},
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert _is_one_sentence(done.stderr), done.stderr


def test_a_batch_that_was_refused_can_be_bound_anew(humpback):
    """Nothing is written before it is known that model, batch and mesh fit each other."""
    for stage in ("world", "seed", "base"):
        assert humpback(stage)[0] == 0
    train = "train --model=M0"
    code, message = humpback(train, "--gin.MeshConfig.fsdp=4", "--gin.BATCH_SIZE=6")
    assert code == 2
    assert "a batch of 6 rows cannot be split" in message
    assert _is_one_sentence(message)
    assert humpback(train, "--gin.MeshConfig.fsdp=4", "--gin.BATCH_SIZE=8")[0] == 0

import json
import pathlib
import shutil

import jinja2
import llama_variants
import numpy as np
import pytest
from safetensors.numpy import load_file

from humpback_jax.checkpoints import bundle
from humpback_jax.data.tokenizer_files import load_tokenizer
from humpback_jax.prompts import Prompts
from launch.main import main

META = pathlib.Path(llama_variants.__file__).parent / "meta" / "llama2"


def _files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _refused(result, *words):
    code, _, message = result
    assert code in (1, 2)
    assert message.startswith("humpback: ")
    assert message.count("\n") == 1
    for word in words:
        assert str(word) in message


def test_import_and_export(ckpt, packaged_base, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    code, said, message = ckpt("import", packaged_base, ours)
    assert code == 0, message
    assert "914,560 parameters in float32" in said
    assert bundle.load_model(ours).fingerprint in said
    code, said, message = ckpt("export", ours, theirs)
    assert code == 0, message
    assert "a llama folder" in said
    before, after = (load_file(f / "model.safetensors") for f in (packaged_base, theirs))
    assert {k: v.tobytes() for k, v in before.items()} == {k: v.tobytes() for k, v in after.items()}
    prompt = Prompts().render_forward("What is red?", *Prompts().tags)
    template = jinja2.Template((theirs / "chat_template.jinja").read_text())
    messages = [{"role": "user", "content": "What is red?"}]
    assert template.render(messages=messages) == "<s>" + prompt.rstrip(" ")


def test_the_same_command_again_does_nothing(ckpt, packaged_base, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for action, source, folder in (("import", packaged_base, ours), ("export", ours, theirs)):
        assert ckpt(action, source, folder)[0] == 0
        before = _files(folder)
        code, said, _ = ckpt(action, source, folder)
        assert (code, said) == (0, f"{folder} holds this {action} already\n")
        assert _files(folder) == before
        _refused(ckpt(action, source, folder, "--dtype=bfloat16"), folder, "other settings")
        assert _files(folder) == before


def test_a_command_that_was_killed_is_finished(ckpt, packaged_base, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert ckpt("import", packaged_base, ours)[0] == 0
    (ours / "model.json").unlink()
    shutil.rmtree(ours / "checkpoint_0")
    assert ckpt("import", packaged_base, ours)[0] == 0
    assert ckpt("export", ours, theirs)[0] == 0
    (theirs / "config.json").unlink()
    assert ckpt("export", ours, theirs)[0] == 0
    bundle.load_model(theirs)


def test_the_types_of_both_ways(ckpt, packaged_base, tmp_path):
    assert ckpt("import", packaged_base, tmp_path / "ours", "--dtype=bfloat16")[0] == 0
    assert bundle.read_card(tmp_path / "ours").config.param_dtype == "bfloat16"
    assert ckpt("export", tmp_path / "ours", tmp_path / "out", "--dtype=float16")[0] == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float16"
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float16")}


def test_the_prompts_of_a_run_are_in_the_template(ckpt, packaged_base, tmp_path):
    gin_file = tmp_path / "prompts.gin"
    gin_file.write_text('Prompts.assistant_tag = "Be {brief}."\n')
    assert ckpt("import", packaged_base, tmp_path / "ours")[0] == 0
    flags = [f"--gin_file={gin_file}", "--gin.Prompts.web_tag='Know.'"]
    assert ckpt("export", tmp_path / "ours", tmp_path / "out", *flags)[0] == 0
    assert '"Be {brief}. Know."' in (tmp_path / "out" / "chat_template.jinja").read_text()


def test_a_folder_of_metas(ckpt, packaged_base, tmp_path):
    folder = shutil.copytree(META, tmp_path / "llama" / "70B")
    shutil.copy(packaged_base / "tokenizer.model", folder.parent)
    _refused(ckpt("import", folder, tmp_path / "ours"), "960 pieces", "24 embeddings")
    assert not (tmp_path / "ours").exists()


def test_notes_are_said(ckpt, tmp_path, monkeypatch):
    folder = shutil.copytree(META, tmp_path / "70B")
    tokenizer = load_tokenizer(pathlib.Path(bundle.__file__).parents[1] / "microworld" / "base")
    monkeypatch.setattr(type(tokenizer), "vocab_size", 24)
    (folder / "tokenizer.model").write_bytes(tokenizer.model)
    code, said, message = ckpt("import", folder, tmp_path / "ours")
    assert code == 0, message
    assert "4096 tokens are taken" in said
    assert "in bfloat16, 2 layers" in said
    assert bundle.read_card(tmp_path / "ours").eos_ids == (2,)


def test_what_is_there_is_never_destroyed(ckpt, packaged_base, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.tex").write_text("years")
    _refused(ckpt("import", packaged_base, work), work, "thesis.tex")
    base = shutil.copytree(packaged_base, tmp_path / "base")
    before = _files(base)
    _refused(ckpt("export", packaged_base, base), base)
    _refused(ckpt("import", base, base), base)
    assert _files(base) == before
    assert _files(work) == {"thesis.tex": b"years"}


def test_bad_sources(ckpt, packaged_base, tmp_path):
    _refused(ckpt("import", tmp_path / "nowhere", tmp_path / "out"), "nowhere", "config.json")
    _refused(ckpt("export", tmp_path / "nowhere", tmp_path / "out"), "no model folder")
    _refused(ckpt("import", packaged_base, tmp_path / "out", "--max_length=9"), "--max_length")
    _refused(ckpt("import", META, tmp_path / "out", "--max_length=0"), "--max_length=0")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["import"], ["weigh", "a", "b"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["ckpt", *arguments])
    assert caught.value.code == 2

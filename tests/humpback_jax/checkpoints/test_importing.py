import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import llama_variants
import ml_dtypes
import numpy as np
import pytest
import small_tokenizers
from etils import epath
from safetensors.numpy import load_file, save_file

from humpback_jax.checkpoints import bundle, destination, huggingface, importing, orbax
from humpback_jax.checkpoints.safetensors_files import Planned, write_folder
from humpback_jax.models.init import flatten
from humpback_jax.partitioning import MeshConfig, make_mesh

GOLDENS = pathlib.Path(llama_variants.__file__).parent
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
TOKENIZER = small_tokenizers.packaged()


def _folder(path, name="plain", dtype="float32", files=1, **changes):
    """Writes a folder of a variant, large enough for the tokenizer's ids."""
    config = {**llama_variants._BASE, **llama_variants.VARIANTS[name], "vocab_size": 960, **changes}
    tensors = {k: v.astype(DTYPES[dtype]) for k, v in llama_variants.tensors(config).items()}
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.model").write_bytes(TOKENIZER.model)
    plan = [Planned(k, dtype, v.shape) for k, v in tensors.items()]
    largest = max(v.nbytes for v in tensors.values())
    total = sum(v.nbytes for v in tensors.values())
    write_folder(epath.Path(path), plan, tensors.values(), total if files == 1 else largest)
    return path


def _import(source, folder, mesh=None, **options):
    model, tokenizer = importing.open_folder(source, **options)
    return importing.import_model(model, tokenizer, folder, mesh)


def _export(folder, out, dtype=None):
    model = bundle.load_model(folder, make_mesh(MeshConfig(1, 4, tensor=2)), dtype)
    huggingface.write_model(out, model.config, model.params, model.eos_ids, model.tokenizer)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("name", ["plain", "qwen2"])
def test_there_and_back_is_byte_identical(dtype, files, name, tmp_path, tensor_bytes):
    source = _folder(tmp_path / "in", name, dtype, files)
    assert (len(list(source.glob("*.safetensors"))) > 1) == (files > 1)
    card = _import(source, tmp_path / "ours", make_mesh(MeshConfig(1, 4, tensor=2)))
    assert card.config.param_dtype == dtype
    _export(tmp_path / "ours", tmp_path / "out")
    assert tensor_bytes(tmp_path / "out") == tensor_bytes(source)
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == TOKENIZER.model


def test_every_family_comes_back(folder, tmp_path, tensor_bytes):
    model = huggingface.open_model(folder)
    card = importing.import_model(model, TOKENIZER, tmp_path / "ours", None)
    assert card == bundle.read_card(tmp_path / "ours")
    assert card.config == model.config
    _export(tmp_path / "ours", tmp_path / "out")
    assert tensor_bytes(tmp_path / "out") == tensor_bytes(folder)


def test_the_folder_is_the_model_on_any_mesh(tmp_path):
    source = _folder(tmp_path / "in", "head_dim")
    cards = [
        _import(source, tmp_path / str(i), mesh)
        for i, mesh in enumerate([None, make_mesh(MeshConfig(1, 8))])
    ]
    assert cards[0] == cards[1]
    ours, theirs = bundle.load_model(tmp_path / "0"), bundle.load_model(source)
    for name, leaf in flatten(ours.params).items():
        np.testing.assert_array_equal(leaf, flatten(theirs.params)[name], err_msg=name)
    assert cards[0].fingerprint == orbax.digest(theirs.params)


def test_another_type_may_be_asked_for(tmp_path, tensor_bytes):
    source = _folder(tmp_path / "in")
    card = _import(source, tmp_path / "ours", dtype="bfloat16")
    assert card.config.param_dtype == "bfloat16"
    _export(tmp_path / "ours", tmp_path / "out", "float16")
    half = {k: v[1] for k, v in tensor_bytes(tmp_path / "out").items()}
    assert half == {k: v[1] for k, v in tensor_bytes(source).items()}
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in load_file(source / "model.safetensors").items():
        expected = tensor.astype(ml_dtypes.bfloat16).astype(np.float16)
        np.testing.assert_array_equal(written[name], expected)


def _meta_folder(path):
    shutil.copytree(GOLDENS / "meta" / "llama1", path)
    return path


def test_a_folder_of_metas_has_its_tokenizer_above(tmp_path, refused):
    folder = _meta_folder(tmp_path / "7B")
    refused(lambda: importing.open_folder(folder), folder, "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(TOKENIZER.model)
    refused(lambda: importing.open_folder(folder), folder, "960 pieces", "24 embeddings")
    # LLaMA 3's own is no SentencePiece model; the one above is taken.
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    refused(lambda: importing.open_folder(folder), folder, "960 pieces", "24 embeddings")


def test_the_digest_of_a_folder_of_metas_sees_every_file(tmp_path):
    folder = _meta_folder(tmp_path / "7B")
    digests = [importing.source_digest(folder)]
    (tmp_path / "tokenizer.model").write_bytes(b"a")
    digests.append(importing.source_digest(folder))
    for name in ("params.json", "consolidated.00.pth"):
        with (folder / name).open("ab") as file:
            file.write(b" ")
        digests.append(importing.source_digest(folder))
    assert len({*digests}) == 4


def test_a_length_is_for_metas_folders(tmp_path, refused):
    source = _folder(tmp_path / "in")
    refused(lambda: importing.open_folder(source, max_length=7), source, "--max_length")


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path, refused, monkeypatch):
    source = _folder(tmp_path / "in", vocab_size=959)
    monkeypatch.setattr(np, "memmap", None)  # nothing is read before it
    refused(lambda: importing.open_folder(source), source, "960 pieces", "959 embeddings")


def test_an_import_that_was_killed_is_done_again(tmp_path, monkeypatch):
    source, ours = _folder(tmp_path / "in"), tmp_path / "ours"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bundle, "write_card", killed)
        with pytest.raises(KeyboardInterrupt):
            _import(source, ours)
    assert not (ours / "model.json").exists()
    card = _import(source, ours)
    assert bundle.load_model(ours).fingerprint == card.fingerprint


def test_a_destination_is_claimed_once(tmp_path, refused):
    folder, made_of = tmp_path / "a" / "b", {"source": "x", "n": (1,)}
    claim = destination.claim
    assert not claim(folder, "import", made_of, "model.json")
    assert not claim(folder, "import", made_of, "model.json")
    (folder / "model.json").touch()
    assert claim(folder, "import", made_of, "model.json")
    refused(lambda: claim(folder, "import", {**made_of, "n": (2,)}, "model.json"), folder, "of x")
    refused(lambda: claim(folder, "export", made_of, "config.json"), folder, "import.json")


def test_the_work_of_others_is_left_alone(tmp_path, refused):
    (tmp_path / "thesis.tex").write_text("years")
    refused(lambda: destination.claim(tmp_path, "import", {}, "a"), tmp_path, "thesis.tex")
    refused(lambda: destination.claim(tmp_path / "thesis.tex", "import", {}, "a"), "is a file")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_an_import_holds_little_more_than_the_parameters(tmp_path, devices):
    """Its peak is below 1.5 times the largest stacked parameter plus the parameters."""
    tiny = _folder(tmp_path / "tiny")
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 20}
    source = _folder(tmp_path / "in", **wide)
    sizes = [path.stat().st_size for path in source.glob("*.safetensors")]
    stacked = 20 * 512 * 2048 * 4
    assert sum(sizes) > 330e6
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        # glibc keeps freed blocks of less than 32 MB for itself; a real model's are larger.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "MALLOC_MMAP_MAX_": "65536",
    }
    script = pathlib.Path(__file__).parent / "imported_peak.py"
    done = subprocess.run(
        [sys.executable, script, tiny, source, tmp_path / "ours"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split("PEAK ")[1])
    assert peak < sum(sizes) + 1.5 * stacked, peak / 2**20
    loaded = bundle.load_model(tmp_path / "ours")
    assert sum(x.nbytes for x in jax.tree.leaves(loaded.params)) > 330e6


def test_an_unused_file_does_not_matter(tmp_path):
    source = _folder(tmp_path / "in")
    save_file({"a": np.ones(1, np.float32)}, source / "adapter.safetensors")
    assert importing.open_folder(source)[0].config.num_layers == 3

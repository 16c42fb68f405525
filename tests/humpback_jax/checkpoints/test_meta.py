import json
import os
import pathlib
import pickle
import shutil
import zipfile

import jax
import jax.numpy as jnp
import llama_variants
import numpy as np
import pytest
import small_tokenizers
from etils import epath

from humpback_jax.checkpoints import foreign, huggingface, meta, torch_files
from humpback_jax.models.config import RopeScaling
from humpback_jax.models.llama import Llama
from humpback_jax.partitioning import MeshConfig, make_mesh

GOLDENS = pathlib.Path(llama_variants.__file__).parent / "meta"
NAMES = ("llama1", "llama2", "llama3")
TOKENS = jnp.asarray(llama_variants.TOKENS % 24)
POSITIONS = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)


def _logits(config, params):
    with jax.default_matmul_precision("highest"):
        logits, _ = Llama(config).apply({"params": params}, TOKENS, POSITIONS)
    return np.asarray(logits)[:, llama_variants.POSITIONS]


def _params(model, mesh=None):
    return model.params(foreign.targets(model.config, mesh))


@pytest.fixture
def copy(tmp_path):
    """Returns a copy of LLaMA 2's folder that may be broken."""
    return shutil.copytree(GOLDENS / "llama2", tmp_path / "llama2")


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_metas_form_of_the_model(name):
    """Meta rotates neighbours, as complex numbers; ours are the same numbers in another order."""
    model = meta.open_model(GOLDENS / name, "float32")
    golden = np.load(GOLDENS / name / "logits.npz")["logits"]
    logits = _logits(model.config, _params(model))
    np.testing.assert_allclose(logits, golden, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_those_of_the_same_weights_as_a_hugging_face_folder(name, tmp_path):
    model = meta.open_model(GOLDENS / name)
    params, tokenizer = _params(model), small_tokenizers.packaged()
    huggingface.write_model(tmp_path, model.config, params, (2,), tokenizer)
    again = huggingface.read_model(tmp_path)
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_unpermuted_queries_are_seen():
    model = meta.open_model(GOLDENS / "llama1", "float32")
    places = dict(model.places)
    for name in ("query", "key"):
        place = places[f"layers/attention/{name}"]
        plain = places["layers/attention/value"]
        places[f"layers/attention/{name}"] = foreign.Place(
            place.name, plain.shape, plain.split, plain.axes
        )
    golden = np.load(GOLDENS / "llama1" / "logits.npz")["logits"]
    wrong = foreign.ForeignModel(model.folder, model.config, (), model.tensors, places)
    assert np.abs(_logits(model.config, _params(wrong)) - golden).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama1", {"num_kv_heads": 4, "param_dtype": "float16", "max_length": 2048}),
        ("llama2", {"num_kv_heads": 2, "param_dtype": "bfloat16", "max_length": 4096}),
        ("llama3", {"rope_theta": 500000.0, "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 8192)}),
    ],
)
def test_the_configuration_is_that_of_params_json(name, expected):
    model = meta.open_model(GOLDENS / name)
    assert {key: getattr(model.config, key) for key in expected} == expected
    assert (model.config.vocab_size, model.config.mlp_dim, model.config.num_layers) == (24, 32, 2)
    assert str(model.config.max_length) in model.notes[0]


def test_the_length_may_be_given():
    model = meta.open_model(GOLDENS / "llama1", max_length=777)
    assert model.config.max_length == 777
    assert model.notes == ()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mesh", [MeshConfig(1, 8), MeshConfig(2, 2, tensor=2)])
def test_each_device_is_given_its_part(name, mesh):
    model = meta.open_model(GOLDENS / name)
    spread = _params(model, make_mesh(mesh))
    jax.tree.map(np.testing.assert_array_equal, spread, _params(model))


def test_without_an_output_the_embedding_is_tied(tmp_path):
    tensors = torch_files.read_tensors(epath.Path(GOLDENS / "llama1/consolidated.00.pth"))
    tensors.pop("output.weight")
    raw = json.loads((GOLDENS / "llama1" / "params.json").read_text())
    assert meta._our_config(raw, tensors).tie_embeddings


def test_tensors_are_those_that_torch_saved():
    path = epath.Path(GOLDENS / "llama1" / "consolidated.00.pth")
    tensors = torch_files.read_tensors(path)
    freqs = tensors["rope.freqs"]
    assert (freqs.dtype, freqs.shape) == (np.float16, (2,))
    out = np.zeros(2, np.float32)
    freqs.read((slice(0, 2),), out)
    assert out.tolist() == [1.0, 1.0]


def test_missing_files_are_named(copy, refused, tmp_path):
    (copy / "consolidated.00.pth").unlink()
    refused(lambda: meta.open_model(copy), copy, "no consolidated.00.pth")
    (copy / "consolidated.01.pth").unlink()
    refused(lambda: meta.open_model(copy), copy, "no consolidated.00.pth")
    refused(lambda: meta.open_model(tmp_path), tmp_path, "no params.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": 32}, ["tok_embeddings.weight", "[24, 16]", "[24, 32]"]),
        ({"n_layers": 3}, ["layers.2.", "incomplete"]),
        ({"n_layers": 1}, ["layers.1.", "do not belong together"]),
        ({"n_heads": 3}, ["num_kv_heads"]),
        ({"n_kv_heads": 4}, ["wk.weight", "[8, 16]", "[16, 16]"]),
        ({"vocab_size": 25}, ["tok_embeddings.weight", "[24, 16]", "[25, 16]"]),
        ({"norm_eps": None}, ["params.json"]),
        ({"dim": "wide"}, ["params.json"]),
    ],
)
def test_a_configuration_of_another_model_is_named(copy, refused, changes, words):
    path = copy / "params.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    refused(lambda: meta.open_model(copy), *words)


@pytest.mark.parametrize("content", ["", "[1]", "{}"])
def test_a_broken_params_json_is_named(copy, refused, content):
    (copy / "params.json").write_text(content)
    refused(lambda: meta.open_model(copy), copy / "params.json")


def test_files_of_two_models_are_refused(copy, refused):
    shutil.copy(GOLDENS / "llama1" / "consolidated.00.pth", copy / "consolidated.01.pth")
    refused(lambda: meta.open_model(copy), "not of one model")


@pytest.mark.parametrize("size", [0, 100, 6000, -20])
def test_a_cut_file_is_named(copy, refused, size):
    path = copy / "consolidated.01.pth"
    path.write_bytes(path.read_bytes()[:size])
    refused(lambda: meta.open_model(copy), path, "copy it again")


class _Harmful:
    def __reduce__(self):
        return os.system, ("touch harm-was-done",)


def _archive(path, pickled, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", b"\0" * 64)


@pytest.mark.parametrize("harmful", [_Harmful(), {"norm.weight": _Harmful()}, [{"a": _Harmful()}]])
def test_a_file_that_runs_something_is_refused(copy, refused, tmp_path, monkeypatch, harmful):
    monkeypatch.chdir(tmp_path)
    path = copy / "consolidated.00.pth"
    _archive(path, pickle.dumps(harmful))
    refused(lambda: meta.open_model(copy), path, "posix.system", "refused")
    assert not (tmp_path / "harm-was-done").exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cos\nsystem\n.",
        b"ccollections\nOrderedDict.fromkeys\n.",
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.",
        b"ctorch._utils\n_rebuild_tensor\n.",
        b"ctorch\nload\n.",
        b"(i__builtin__\nexec\n.",
    ],
)
def test_every_other_name_is_refused(tmp_path, refused, pickled):
    path = epath.Path(tmp_path / "a.pth")
    _archive(path, pickled)
    refused(lambda: torch_files.read_tensors(path), path, "refused")


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"garbage",
        pickle.dumps(3),
        pickle.dumps({"a": 1}),
        # Attributes set on what stands for torch's function, and on a class.
        b"ctorch._utils\n_rebuild_tensor_v2\n(dS'__call__'\nI1\nsb.",
        b"ccollections\nOrderedDict\n(dS'fromkeys'\nI1\nsb.",
    ],
)
def test_what_is_no_dictionary_of_tensors_is_named(tmp_path, refused, pickled):
    path = epath.Path(tmp_path / "a.pth")
    _archive(path, pickled)
    refused(lambda: torch_files.read_tensors(path), path)


def _tensor(shape, strides, offset=0, count=16, key="0", kind="FloatStorage"):
    """Returns the pickle of {"a": tensor} as torch.save writes it, opcode by opcode."""

    def numbers(values):
        return b"(" + b"".join(b"I%d\n" % n for n in values) + b"t"

    storage = b"(S'storage'\nctorch\n%s\nS'%s'\nS'cpu'\nI%d\ntQ"
    storage %= kind.encode(), key.encode(), count
    arguments = b"(" + storage + b"I%d\n" % offset + numbers(shape) + numbers(strides)
    call = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"I00\nNtR"
    return b"(dS'a'\n" + call + b"s."


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (((4, 4), (1, 4)), "strides"),
        (((4, 5), (5, 1)), "larger than its storage"),
        (((4, 4), (4, 1), 1), "larger than its storage"),
        (((4, 4), (4, 1), -1), "larger than its storage"),
        (((4, 4), (4, 1), 0, 17), "17 numbers"),
        (((4, 4), (4, 1), 0, 16, "1"), "copy it again"),
        (((4, 4), (4, 1), 0, 16, "0", "WeirdStorage"), "torch.WeirdStorage"),
    ],
)
def test_a_tensor_that_is_not_there_is_named(tmp_path, refused, arguments, word):
    path = epath.Path(tmp_path / "a.pth")
    _archive(path, _tensor((4, 4), (4, 1)))
    (tensor,) = torch_files.read_tensors(path).values()
    assert tensor.shape == (4, 4)
    _archive(path, _tensor(*arguments))
    refused(lambda: torch_files.read_tensors(path), path, word)


def test_a_compressed_archive_is_refused(tmp_path, refused):
    path = epath.Path(tmp_path / "a.pth")
    _archive(path, _tensor((4, 4), (4, 1)), zipfile.ZIP_DEFLATED)
    refused(lambda: torch_files.read_tensors(path), path, "compressed")

import json

import jax
import llama_variants
import ml_dtypes
import numpy as np
import pytest
import small_tokenizers
from safetensors.numpy import load_file, save_file

from humpback_jax.checkpoints import foreign, huggingface, stored
from humpback_jax.models.init import abstract_params, flatten
from humpback_jax.partitioning import MeshConfig, make_mesh
from humpback_jax.prompts import Prompts

TOKENIZER = small_tokenizers.packaged()


def _export(model, folder, **options):
    huggingface.write_model(folder, model.config, model.params, model.eos_ids, TOKENIZER, **options)


def test_every_tensor_comes_back_byte_by_byte(folder, tmp_path, tensor_bytes):
    model = huggingface.read_model(folder)
    _export(model, tmp_path / "out")
    assert tensor_bytes(tmp_path / "out") == tensor_bytes(folder)
    again = huggingface.read_model(tmp_path / "out")
    assert again.config == model.config
    assert again.eos_ids == model.eos_ids == (2,)
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == TOKENIZER.model


def test_the_parameters_are_those_of_the_model(folder):
    model = huggingface.read_model(folder)
    expected = {name: leaf.shape for name, leaf in flatten(abstract_params(model.config)).items()}
    assert {name: leaf.shape for name, leaf in flatten(model.params).items()} == expected


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_comes_back_byte_by_byte(
    plain, tmp_path, change_weights, tensor_bytes, dtype
):
    change_weights(plain, lambda tensors: tensors.update(_cast(tensors, dtype)))
    model = huggingface.read_model(plain)
    assert model.config.param_dtype == np.dtype(dtype).name
    _export(model, tmp_path / "out")
    assert tensor_bytes(tmp_path / "out") == tensor_bytes(plain)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["torch_dtype"] == np.dtype(dtype).name


def _cast(tensors, dtype):
    return {name: tensor.astype(dtype) for name, tensor in tensors.items()}


def test_mixed_types_become_the_widest(plain, change_weights):
    def mix(tensors):
        tensors.update(_cast(tensors, ml_dtypes.bfloat16))
        tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float32)

    change_weights(plain, mix)
    model = huggingface.open_model(plain)
    assert model.config.param_dtype == "float32"
    assert model.notes == ("the tensors are of bfloat16 and float32: all become float32",)
    assert not huggingface.open_model(plain, "bfloat16").notes
    change_weights(plain, lambda t: t.update({"model.norm.weight": np.ones(32, np.float16)}))
    assert huggingface.open_model(plain).config.param_dtype == "float32"


def test_parameters_are_cast_as_they_are_read(plain):
    whole = huggingface.read_model(plain)
    model = huggingface.open_model(plain, "bfloat16")
    params = model.params(foreign.targets(model.config, None))
    jax.tree.map(
        lambda narrow, wide: np.testing.assert_array_equal(narrow, wide.astype("bfloat16")),
        params,
        whole.params,
    )


@pytest.mark.parametrize("mesh", [MeshConfig(1, 8), MeshConfig(2, 2, tensor=2)])
def test_each_device_is_given_its_part(folder, mesh, tmp_path, tensor_bytes):
    model = huggingface.open_model(folder)
    targets = foreign.targets(model.config, make_mesh(mesh))
    params = model.params(targets)
    alone = huggingface.read_model(folder).params
    for (name, spread), whole, target in zip(
        flatten(params).items(), jax.tree.leaves(alone), jax.tree.leaves(targets), strict=True
    ):
        assert spread.sharding == target.sharding, name
        np.testing.assert_array_equal(spread, whole, err_msg=name)
    huggingface.write_model(tmp_path / "out", model.config, params, (2,), TOKENIZER)
    assert tensor_bytes(tmp_path / "out") == tensor_bytes(folder)


def test_what_is_not_asked_for_is_not_read(plain, monkeypatch):
    """A process of several reads the rows that its devices hold."""
    rows, whole = [], stored.StoredTensor._rows

    def count(self, start, stop, row_bytes):
        rows.append(stop - start)
        return whole(self, start, stop, row_bytes)

    monkeypatch.setattr(stored.StoredTensor, "_rows", count)
    model = huggingface.open_model(plain)
    assert rows == []
    place, out = model.places["layers/mlp/up"], np.empty((32, 7), np.float32)
    name = "model.layers.1.mlp.up_proj.weight"
    place.read(model.tensors[name], (slice(0, 32), slice(7, 14)), out)
    assert rows == [7]
    assert np.array_equal(out.T, load_file(plain / "model.safetensors")[name][7:14])


def test_large_tensors_are_read_in_blocks(folder, monkeypatch):
    whole = huggingface.read_model(folder)
    monkeypatch.setattr(stored, "_BLOCK_BYTES", 300)
    jax.tree.map(np.testing.assert_array_equal, whole.params, huggingface.read_model(folder).params)


def test_weights_may_lie_in_several_files(plain):
    whole = huggingface.read_model(plain)
    tensors = load_file(plain / "model.safetensors")
    (plain / "model.safetensors").unlink()
    names = sorted(tensors)
    for i in range(2):
        part = {name: tensors[name] for name in names[i::2]}
        save_file(part, plain / f"model-0000{i + 1}-of-00002.safetensors")
    save_file({"norm.weight": tensors["model.norm.weight"]}, plain / "consolidated.safetensors")
    jax.tree.map(np.testing.assert_array_equal, whole.params, huggingface.read_model(plain).params)


def test_weights_are_written_into_files_of_bounded_size(folder, tmp_path, tensor_bytes):
    model, out = huggingface.read_model(folder), tmp_path / "out"
    _export(model, out, max_file_bytes=20000)
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    for path in out.glob("*.safetensors"):
        tensors = load_file(path)
        assert sum(t.nbytes for t in tensors.values()) <= 20000 or len(tensors) == 1
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * model.config.num_parameters
    assert {n: name for name in files for n in load_file(out / name)} == index["weight_map"]
    assert tensor_bytes(out) == tensor_bytes(folder)
    again = huggingface.read_model(out)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_an_earlier_export_leaves_nothing(plain, tmp_path):
    model, out = huggingface.read_model(plain), tmp_path / "out"
    _export(model, out, max_file_bytes=20000)
    _export(model, out, prompts=Prompts())
    assert sorted(path.name for path in out.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.model",
        "tokenizer_config.json",
    ]


def test_a_broken_export_is_no_model(plain, tmp_path, monkeypatch, refused):
    model, out = huggingface.read_model(plain), tmp_path / "out"
    _export(model, out)

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface.safetensors_files, "_write_file", no_room)
    refused(lambda: _export(model, out), "model.safetensors", "No space left")
    assert not (out / "config.json").exists()
    assert not list(out.glob(".tmp-*"))


def test_eos_and_bos_are_written(plain, tmp_path):
    model = huggingface.read_model(plain)
    huggingface.write_model(tmp_path, model.config, model.params, (5, 7), TOKENIZER)
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / name).read_text())
        assert written["eos_token_id"] == [5, 7]
        assert written["bos_token_id"] == 1


def test_missing_files_are_named(plain, refused):
    (plain / "model.safetensors").unlink()
    refused(lambda: huggingface.open_model(plain), plain, "no *.safetensors")
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (plain / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(lambda: huggingface.open_model(plain), plain, "no model-00001-of-00002.safetensors")
    (plain / "model.safetensors.index.json").write_text("[]")
    refused(lambda: huggingface.open_model(plain), "index.json", "weight_map")


@pytest.mark.parametrize(
    "name",
    [
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.0.input_layernorm.weight",
    ],
)
def test_a_missing_tensor_is_named(plain, change_weights, refused, name):
    change_weights(plain, lambda tensors: tensors.pop(name))
    refused(lambda: huggingface.open_model(plain), plain, f"'{name}'")


def test_a_missing_bias_is_named(tmp_path, change_weights, refused):
    llama_variants.write_folder("qwen2", tmp_path)
    name = "model.layers.1.self_attn.k_proj.bias"
    change_weights(tmp_path, lambda tensors: tensors.pop(name))
    refused(lambda: huggingface.open_model(tmp_path), f"'{name}' [16]")


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("model.layers.1.self_attn.k_proj.weight", (16, 32), "[32, 32]"),
        ("model.layers.1.mlp.up_proj.weight", (32, 56), "[56, 32]"),  # [in, out] for [out, in]
        ("model.embed_tokens.weight", (32, 96), "[96, 32]"),
        ("model.norm.weight", (33,), "[32]"),
    ],
)
def test_a_tensor_of_another_shape_is_named(plain, change_weights, refused, name, shape, wanted):
    change_weights(plain, lambda tensors: tensors.update({name: np.zeros(shape, np.float32)}))
    words = [f"'{name}'", list(shape), wanted, "do not belong together"]
    refused(lambda: huggingface.open_model(plain), *words)


def test_a_tensor_too_many_is_named(plain, change_weights, refused):
    bias = np.zeros(32, np.float32)
    extra = {f"model.layers.{i}.self_attn.q_proj.bias": bias for i in range(3)}
    change_weights(plain, lambda tensors: tensors.update(extra))
    words = ["'model.layers.0.self_attn.q_proj.bias' [32]", "and 2 more"]
    refused(lambda: huggingface.open_model(plain), *words)


def test_known_leftovers_are_ignored(tmp_path, change_weights):
    """Buffers of old versions, and a table beside the one that it is tied to."""
    llama_variants.write_folder("grouped_tied", tmp_path)
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
        "lm_head.weight": np.ones((96, 32), np.float32),
    }
    change_weights(tmp_path, lambda tensors: tensors.update(extra))
    assert "output" not in huggingface.read_model(tmp_path).params


def test_quantized_tensors_are_refused(plain, change_weights, refused):
    codes = {"model.layers.0.mlp.up_proj.weight": np.ones((56, 32), np.int8)}
    change_weights(plain, lambda tensors: tensors.update(codes))
    refused(lambda: huggingface.open_model(plain), "up_proj", "unquantized")


def test_a_tensor_in_two_files_is_named(plain, refused):
    tensors = load_file(plain / "model.safetensors")
    (plain / "model.safetensors").rename(plain / "a.safetensors")
    save_file({"model.norm.weight": tensors["model.norm.weight"]}, plain / "b.safetensors")
    refused(lambda: huggingface.open_model(plain), "'model.norm.weight'", "a.saf", "b.saf")


@pytest.mark.parametrize("size", [0, 4, 1000, -4])
def test_a_cut_weight_file_is_named(plain, refused, size):
    path = plain / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refused(lambda: huggingface.open_model(plain), path, "copy it again")


def test_a_garbled_header_is_named(plain, refused):
    path = plain / "model.safetensors"
    for old, new in ((b"data_offsets", b"data_offset_"), (b'"F32"', b'"F16"'), (b"{", b"<")):
        content = path.read_bytes()
        path.write_bytes(content.replace(old, new, 1))
        refused(lambda: huggingface.open_model(plain), path, "copy it again")
        path.write_bytes(content)


def test_the_digest_sees_every_file(plain):
    (plain / "tokenizer.model").write_bytes(TOKENIZER.model)
    digests = [huggingface.folder_digest(plain)]
    (plain / "README.md").write_text("not part of the model")
    assert huggingface.folder_digest(plain) == digests[0]
    for name in ("config.json", "tokenizer.model", "model.safetensors"):
        path = plain / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
        digests.append(huggingface.folder_digest(plain))
    assert len({*digests}) == 4


def test_a_real_folder(shared, tmp_path, tensor_bytes):
    """stories260K, written by transformers 5."""
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("no stories260K in ../shared/models")
    model = huggingface.read_model(folder)
    assert (model.config.num_layers, model.config.num_kv_heads, model.config.head_dim) == (5, 4, 8)
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == model.config.num_parameters
    _export(model, tmp_path / "out")
    assert tensor_bytes(tmp_path / "out") == tensor_bytes(folder)

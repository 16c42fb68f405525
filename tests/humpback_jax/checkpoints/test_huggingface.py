import json

import jax
import llama_variants
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from humpback_jax.checkpoints import huggingface
from humpback_jax.errors import UserError
from humpback_jax.models.config import RopeScaling
from humpback_jax.models.init import abstract_params, flatten

TOKENIZER = b"the tokenizer's bytes"


@pytest.fixture(params=llama_variants.VARIANTS)
def folder(request, tmp_path):
    path = tmp_path / request.param
    llama_variants.write_folder(request.param, path)
    return path


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain"
    llama_variants.write_folder("plain", path)
    return path


def _change_config(folder, **changes):
    """Binds keys of config.json; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def _change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _export(model, folder):
    huggingface.write_model(folder, model.config, model.params, model.eos_ids, 1, TOKENIZER)


def _bytes(folder):
    return {
        name: (tensor.dtype, tensor.shape, tensor.tobytes())
        for name, tensor in load_file(folder / "model.safetensors").items()
    }


def _refused(call, *words):
    """Checks that a call raises a UserError of one line that holds all words."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def test_every_tensor_comes_back_byte_by_byte(folder, tmp_path):
    model = huggingface.read_model(folder)
    _export(model, tmp_path / "out")
    assert _bytes(tmp_path / "out") == _bytes(folder)
    again = huggingface.read_model(tmp_path / "out")
    assert again.config == model.config
    assert again.eos_ids == model.eos_ids == (2,)
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == TOKENIZER


def test_the_parameters_are_those_of_the_model(folder):
    model = huggingface.read_model(folder)
    expected = {name: leaf.shape for name, leaf in flatten(abstract_params(model.config)).items()}
    assert {name: leaf.shape for name, leaf in flatten(model.params).items()} == expected


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_comes_back_byte_by_byte(plain, tmp_path, dtype):
    def narrow(tensors):
        tensors.update({name: tensor.astype(dtype) for name, tensor in tensors.items()})

    _change_weights(plain, narrow)
    _export(huggingface.read_model(plain), tmp_path / "out")
    assert _bytes(tmp_path / "out") == _bytes(plain)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["torch_dtype"] == np.dtype(dtype).name


def test_parameters_on_devices_are_exported_alike(plain, tmp_path):
    model = huggingface.read_model(plain)
    huggingface.write_model(
        tmp_path / "out", model.config, jax.device_put(model.params), (2,), 1, TOKENIZER
    )
    assert _bytes(tmp_path / "out") == _bytes(plain)


def test_weights_may_lie_in_several_files(plain, tmp_path):
    whole = huggingface.read_model(plain)
    tensors = load_file(plain / "model.safetensors")
    (plain / "model.safetensors").unlink()
    names = sorted(tensors)
    for i in range(2):
        part = {name: tensors[name] for name in names[i::2]}
        save_file(part, plain / f"model-0000{i + 1}-of-00002.safetensors")
    parts = huggingface.read_model(plain)
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)


def test_a_config_of_transformers_5_is_read_like_one_of_4(folder, tmp_path):
    before, _ = huggingface.read_config(folder)
    raw = json.loads((folder / "config.json").read_text())
    rope = raw.pop("rope_scaling", None) or {"rope_type": "default"}
    rope["rope_theta"] = raw.pop("rope_theta")
    raw["dtype"] = raw.pop("torch_dtype")
    (folder / "config.json").write_text(json.dumps({**raw, "rope_parameters": rope}))
    after, _ = huggingface.read_config(folder)
    assert after == before


def test_the_keys_of_transformers_4_are_written(tmp_path):
    """transformers 4 reads the keys of 5 as rope_theta 10000 without scaling, silently."""
    llama_variants.write_folder("llama3_rope", tmp_path / "in")
    _export(huggingface.read_model(tmp_path / "in"), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["rope_theta"] == 500000.0
    assert written["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    assert written["torch_dtype"] == "float32"
    assert "rope_parameters" not in written
    before = json.loads((tmp_path / "in" / "config.json").read_text())
    assert {k: written[k] for k in before} == before


def test_llama3_scaling_is_read(tmp_path):
    llama_variants.write_folder("llama3_rope", tmp_path)
    config, _ = huggingface.read_config(tmp_path)
    assert config.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 32)
    assert config.rope_theta == 500000.0


@pytest.mark.parametrize(
    ("given", "expected"), [(2, (2,)), ([128001, 128009], (128001, 128009)), (None, (2,))]
)
def test_eos_may_be_one_id_or_several(plain, tmp_path, given, expected):
    _change_config(plain, eos_token_id=given)
    model = huggingface.read_model(plain)
    assert model.eos_ids == expected
    _export(model, tmp_path / "out")
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / "out" / name).read_text())
        assert written["eos_token_id"] == (given or 2)
        assert written["bos_token_id"] == 1


def test_eos_may_be_null(plain):
    raw = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps({**raw, "eos_token_id": None}))
    assert huggingface.read_config(plain)[1] == (2,)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mistral"},
        {"model_type": None},
        {"attention_bias": True},
        {"mlp_bias": True},
    ],
)
def test_another_model_is_refused(plain, changes):
    _change_config(plain, **changes)
    _refused(lambda: huggingface.read_config(plain), plain / "config.json", "only LLaMA")


def test_another_scaling_is_refused(plain):
    _change_config(plain, rope_scaling={"type": "linear", "factor": 2.0})
    _refused(lambda: huggingface.read_config(plain), "'linear'", "llama3")


@pytest.mark.parametrize(
    "key", ["vocab_size", "hidden_size", "num_hidden_layers", "rms_norm_eps", "intermediate_size"]
)
def test_a_missing_key_of_the_config_is_named(plain, key):
    _change_config(plain, **{key: None})
    _refused(lambda: huggingface.read_config(plain), plain / "config.json", key)


def test_a_missing_key_of_the_scaling_is_named(plain):
    _change_config(plain, rope_scaling={"rope_type": "llama3", "factor": 2.0})
    _refused(lambda: huggingface.read_config(plain), plain / "config.json", "low_freq_factor")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_broken_config_is_named(plain, content):
    (plain / "config.json").write_bytes(content)
    _refused(lambda: huggingface.read_config(plain), plain / "config.json")


def test_missing_files_are_named(plain):
    (plain / "model.safetensors").unlink()
    _refused(lambda: huggingface.read_model(plain), plain, "no *.safetensors")
    (plain / "config.json").unlink()
    _refused(lambda: huggingface.read_model(plain), plain, "no config.json")
    _refused(lambda: huggingface.read_model(plain / "nowhere"), "nowhere", "no config.json")


@pytest.mark.parametrize(
    "name",
    [
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.0.input_layernorm.weight",
    ],
)
def test_a_missing_tensor_is_named(plain, name):
    _change_weights(plain, lambda tensors: tensors.pop(name))
    _refused(lambda: huggingface.read_model(plain), plain, f"'{name}'")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.1.self_attn.k_proj.weight", (16, 32)),
        ("model.layers.1.mlp.up_proj.weight", (32, 56)),  # [in, out] where [out, in] is meant
        ("model.embed_tokens.weight", (32, 96)),
        ("model.norm.weight", (33,)),
    ],
)
def test_a_tensor_of_another_shape_is_named(plain, name, shape):
    _change_weights(plain, lambda tensors: tensors.update({name: np.zeros(shape, np.float32)}))
    _refused(lambda: huggingface.read_model(plain), f"'{name}'", "do not belong together")


@pytest.mark.parametrize("size", [0, 4, 1000])
def test_a_cut_weight_file_is_named(plain, size):
    path = plain / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    _refused(lambda: huggingface.read_model(plain), path, "copy it again")


def test_the_digest_sees_every_file(plain):
    (plain / "tokenizer.model").write_bytes(TOKENIZER)
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


def test_a_real_folder(shared, tmp_path):
    """stories260K, written by transformers 5."""
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("no stories260K in ../shared/models")
    model = huggingface.read_model(folder)
    assert (model.config.num_layers, model.config.num_kv_heads, model.config.head_dim) == (5, 4, 8)
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == model.config.num_parameters
    _export(model, tmp_path / "out")
    assert _bytes(tmp_path / "out") == _bytes(folder)

import dataclasses
import json

import llama_variants
import pytest

from humpback_jax.checkpoints.huggingface_config import family_of, read_config, to_json
from humpback_jax.errors import UserError
from humpback_jax.models.config import RopeScaling


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", {"norm_eps": 1e-6, "num_kv_heads": 4, "head_dim": 8, "tie_embeddings": False}),
        ("tinyllama", {"num_heads": 8, "num_kv_heads": 2, "head_dim": 4}),
        ("head_dim", {"head_dim": 16, "num_kv_heads": 1}),
        ("llama3_rope", {"rope_theta": 500000.0, "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 32)}),
        ("mistral", {"max_length": 64, "qkv_bias": False}),
        ("qwen2", {"max_length": 256, "qkv_bias": True, "tie_embeddings": True}),
        ("qwen3", {"qk_norm": True, "qkv_bias": False, "head_dim": 16}),
    ],
)
def test_each_family_is_a_llama_with_flags(name, expected, tmp_path):
    llama_variants.write_folder(name, tmp_path)
    config, _ = read_config(tmp_path)
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "changes", "length"),
    [
        ("mistral", {"sliding_window": 4096}, 256),
        ("mistral", {"sliding_window": None, "max_position_embeddings": 32768}, 4096),
        ("qwen2", {"use_sliding_window": True}, 16),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 99}, 99),
        ("plain", {"sliding_window": 16}, 256),
    ],
)
def test_the_length_is_that_of_the_window(name, changes, length, tmp_path, change_config):
    """Within its window a model attends to everything, as ours does."""
    llama_variants.write_folder(name, tmp_path)
    change_config(tmp_path, **changes)
    assert read_config(tmp_path)[0].max_length == length


def test_no_window_is_no_window(tmp_path):
    llama_variants.write_folder("mistral", tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "sliding_window": None}))
    assert read_config(tmp_path)[0].max_length == 256


def test_a_config_of_transformers_5_is_read_like_one_of_4(folder):
    before, _ = read_config(folder)
    raw = json.loads((folder / "config.json").read_text())
    rope = raw.pop("rope_scaling", None) or {"rope_type": "default"}
    rope["rope_theta"] = raw.pop("rope_theta")
    raw["dtype"] = raw.pop("torch_dtype")
    (folder / "config.json").write_text(json.dumps({**raw, "rope_parameters": rope}))
    after, _ = read_config(folder)
    assert after == before


def test_what_is_written_is_read_as_the_same(folder, tmp_path):
    before, _ = read_config(folder)
    written = to_json(before, "float32")
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert read_config(tmp_path)[0] == before
    # transformers 4 reads the keys of 5 as rope_theta 10000 without scaling, silently.
    assert "rope_parameters" not in written
    assert written["rope_theta"] == before.rope_theta
    assert written["torch_dtype"] == "float32"


def test_the_keys_of_transformers_4_are_written(tmp_path):
    llama_variants.write_folder("llama3_rope", tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    special = {"bos_token_id": 1, "eos_token_id": 2}
    written = {**to_json(read_config(tmp_path)[0], "float32"), **special}
    assert {key: written[key] for key in before} == before


@pytest.mark.parametrize(
    ("name", "family"),
    [("plain", "llama"), ("mistral", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")],
)
def test_the_family_is_written_by_the_flags(name, family, tmp_path):
    llama_variants.write_folder(name, tmp_path)
    config, _ = read_config(tmp_path)
    assert family_of(config) == to_json(config, "float32")["model_type"] == family


def test_both_flags_are_no_family(tmp_path, refused):
    llama_variants.write_folder("qwen2", tmp_path)
    config = dataclasses.replace(read_config(tmp_path)[0], qk_norm=True)
    refused(lambda: to_json(config, "float32"), "both biases and norms")


@pytest.mark.parametrize(
    ("given", "generation", "expected"),
    [
        (2, None, (2,)),
        ([128001, 128009], None, (128001, 128009)),
        (None, None, ()),
        (151643, [151645, 151643], (151645, 151643)),
        (2, 7, (7,)),
    ],
)
def test_eos_may_be_one_id_or_several(plain, change_config, given, generation, expected):
    change_config(plain, eos_token_id=given, vocab_size=152000)
    if generation is not None:
        text = json.dumps({"eos_token_id": generation})
        (plain / "generation_config.json").write_text(text)
    assert read_config(plain)[1] == expected


def test_eos_may_be_null(plain):
    raw = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps({**raw, "eos_token_id": None}))
    assert read_config(plain)[1] == ()


@pytest.mark.parametrize("given", [96, -1, "2", [2, 99999]])
def test_eos_is_a_token_of_the_model(plain, change_config, given):
    change_config(plain, eos_token_id=given)
    with pytest.raises(UserError, match="as eos_token_id, where an id below 96 was expected"):
        read_config(plain)


@pytest.mark.parametrize("change", [{"rope_theta": "x"}, {"head_dim": "32"}, {"rope_scaling": [1]}])
def test_a_value_of_the_wrong_kind_is_one_sentence(plain, change_config, change):
    change_config(plain, **change)
    with pytest.raises(UserError, match="has a value of the wrong kind"):
        read_config(plain)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, ["'gpt2'", "llama, mistral, qwen2, qwen3"]),
        ({"model_type": None}, ["None"]),
        ({"attention_bias": True}, ["attention_bias"]),
        ({"mlp_bias": True}, ["mlp_bias"]),
        ({"model_type": "qwen3", "head_dim": 8, "attention_bias": True}, ["qwen3"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "'gelu'"]),
        ({"quantization_config": {"bits": 4}}, ["quantized"]),
        ({"partial_rotary_factor": 0.5}, ["part of each head"]),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, ["'linear'", "llama3"]),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, ["'yarn'", "llama3"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, ["low_freq_factor"]),
        ({"hidden_size": "32"}, ["'32'", "hidden_size"]),
        ({"num_hidden_layers": 0}, ["num_layers"]),
        ({"num_key_value_heads": 3}, ["num_kv_heads"]),
    ],
)
def test_what_we_cannot_run_is_named(plain, change_config, refused, changes, words):
    change_config(plain, **changes)
    refused(lambda: read_config(plain), plain / "config.json", *words)


@pytest.mark.parametrize(
    "key",
    ["vocab_size", "hidden_size", "num_hidden_layers", "rms_norm_eps", "max_position_embeddings"],
)
def test_a_missing_key_is_named(plain, change_config, refused, key):
    change_config(plain, **{key: None})
    refused(lambda: read_config(plain), plain / "config.json", key)


@pytest.mark.parametrize(
    ("name", "key"), [("mistral", "num_key_value_heads"), ("qwen3", "head_dim")]
)
def test_what_transformers_would_guess_is_asked_for(name, key, tmp_path, change_config, refused):
    """Its defaults are 8 heads and a size of 128, whatever the other sizes are."""
    llama_variants.write_folder(name, tmp_path)
    change_config(tmp_path, **{key: None})
    refused(lambda: read_config(tmp_path), tmp_path / "config.json", key)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_broken_config_is_named(plain, refused, content):
    (plain / "config.json").write_bytes(content)
    refused(lambda: read_config(plain), plain / "config.json")


def test_a_missing_config_is_named(tmp_path, refused):
    refused(lambda: read_config(tmp_path / "nowhere"), "nowhere", "no config.json")

"""Small folders of each family with wide random weights, the same here and where goldens are made.

Weights are wide so that what is left out or turned shows: matrices that nearly keep the size of
what they multiply, biases and norms far from 0 and 1. Wider ones would make more of float32's own
rounding than the tolerance of the tests.
"""

import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

_BASE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}

# Named for what each has that the one before has not.
VARIANTS = {
    "plain": {},  # LLaMA 1
    "llama2": {"rms_norm_eps": 1e-5},
    "tinyllama": {"num_attention_heads": 8, "num_key_value_heads": 2, "rms_norm_eps": 1e-5},
    "grouped_tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "head_dim": {"head_dim": 16, "num_key_value_heads": 1},
    "llama3_rope": {
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "num_key_value_heads": 2,
        "sliding_window": 64,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_theta": 1000000.0,
        "use_sliding_window": False,
        "sliding_window": 16,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_theta": 1000000.0,
    },
}

TOKENS = np.random.default_rng(7).integers(3, 96, (2, 48)).astype(np.int32)
POSITIONS = slice(5, None, 14)  # those whose states and logits are kept


def write_folder(name: str, folder: pathlib.Path) -> None:
    """Writes config.json and model.safetensors of a variant."""
    config = {**_BASE, **VARIANTS[name]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors(config), folder / "model.safetensors", metadata={"format": "pt"})


def tensors(config: dict) -> dict[str, np.ndarray]:
    """Returns random weights of a config.json."""
    rng = np.random.default_rng(3)
    width, heads = config["hidden_size"], config["num_attention_heads"]
    size, mlp = config.get("head_dim", width // heads), config["intermediate_size"]
    queries, keys = heads * size, config["num_key_value_heads"] * size
    found = {}

    def matrix(name, *shape):
        found[f"{name}.weight"] = rng.normal(0, 0.15, shape).astype(np.float32)

    def scale(name, length=width):
        found[f"{name}.weight"] = rng.uniform(0.5, 1.5, length).astype(np.float32)

    matrix("model.embed_tokens", config["vocab_size"], width)
    scale("model.norm")
    if not config["tie_word_embeddings"]:
        matrix("lm_head", config["vocab_size"], width)
    for i in range(config["num_hidden_layers"]):
        layer, attention = f"model.layers.{i}.", f"model.layers.{i}.self_attn."
        for kind, rows in (("q", queries), ("k", keys), ("v", keys)):
            matrix(f"{attention}{kind}_proj", rows, width)
            if config["model_type"] == "qwen2":
                bias = rng.normal(0, 0.5, rows).astype(np.float32)
                found[f"{attention}{kind}_proj.bias"] = bias
        matrix(attention + "o_proj", width, queries)
        if config["model_type"] == "qwen3":
            scale(attention + "q_norm", size)
            scale(attention + "k_norm", size)
        matrix(layer + "mlp.gate_proj", mlp, width)
        matrix(layer + "mlp.up_proj", mlp, width)
        matrix(layer + "mlp.down_proj", width, mlp)
        scale(layer + "input_layernorm")
        scale(layer + "post_attention_layernorm")
    return found

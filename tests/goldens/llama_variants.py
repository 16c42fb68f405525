"""Small LLaMA folders with wide random weights, the same here and where goldens are made."""

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
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}

VARIANTS = {
    "plain": {},
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
}

TOKENS = np.random.default_rng(7).integers(3, 96, (2, 48)).astype(np.int32)


def write_folder(name: str, folder: pathlib.Path) -> None:
    """Writes config.json and model.safetensors of a variant; weights are wide, to show errors."""
    config = {**_BASE, **VARIANTS[name]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(3)
    width, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim", width // heads)
    queries, keys = heads * size, config["num_key_value_heads"] * size

    def matrix(*shape):
        return rng.normal(0, 0.2, shape).astype(np.float32)

    def scale():
        return rng.uniform(0.5, 1.5, width).astype(np.float32)

    tensors = {"model.embed_tokens.weight": matrix(96, width), "model.norm.weight": scale()}
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = matrix(96, width)
    for i in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        mlp = config["intermediate_size"]
        tensors |= {
            prefix + "self_attn.q_proj.weight": matrix(queries, width),
            prefix + "self_attn.k_proj.weight": matrix(keys, width),
            prefix + "self_attn.v_proj.weight": matrix(keys, width),
            prefix + "self_attn.o_proj.weight": matrix(width, queries),
            prefix + "mlp.gate_proj.weight": matrix(mlp, width),
            prefix + "mlp.up_proj.weight": matrix(mlp, width),
            prefix + "mlp.down_proj.weight": matrix(width, mlp),
            prefix + "input_layernorm.weight": scale(),
            prefix + "post_attention_layernorm.weight": scale(),
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

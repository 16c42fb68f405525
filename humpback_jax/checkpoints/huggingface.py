"""LLaMA folders of Hugging Face: config.json, *.safetensors and tokenizer.model, both ways.

Weights are stored [out, in] there and [in, heads, head size] here, one layer at a time there and
stacked over L here. Rotary positions are half-split on both sides, so nothing is permuted.
Configs of transformers 4 (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, dtype)
are read; the keys of 4 are written, since transformers 4 misreads the new ones without an error.
"""

import dataclasses
import hashlib
import json
import math
from typing import Any

import ml_dtypes  # noqa: F401  makes numpy know bfloat16
import numpy as np
from etils import epath
from safetensors import safe_open
from safetensors.numpy import save

from humpback_jax import rundir
from humpback_jax.errors import UserError
from humpback_jax.models.config import LlamaConfig, RopeScaling

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

# Ours under layers/ -> theirs under model.layers.N., and the shape of ours as [in, out] matrix.
_LAYER_NAMES = {
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "attention_norm/scale": "input_layernorm",
    "mlp/gate": "mlp.gate_proj",
    "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj",
    "mlp_norm/scale": "post_attention_layernorm",
}


@dataclasses.dataclass(frozen=True)
class HuggingFaceModel:
    """A folder's content: the configuration, parameters as numpy arrays, and the ids of EOS."""

    config: LlamaConfig
    params: dict[str, Any]
    eos_ids: tuple[int, ...]


def read_config(folder: epath.PathLike) -> tuple[LlamaConfig, tuple[int, ...]]:
    """Returns (configuration, EOS ids) of a folder; raises UserError for what we cannot run."""
    path = epath.Path(folder) / CONFIG_NAME
    if not path.exists():
        raise UserError(f"{folder} has no {CONFIG_NAME}: give a Hugging Face LLaMA folder")
    try:
        raw = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): copy it again") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no JSON object: copy it again")
    if raw.get("model_type") != "llama" or raw.get("attention_bias") or raw.get("mlp_bias"):
        raise UserError(
            f"{path} describes a {raw.get('model_type')!r} model (or one with biases): only LLaMA "
            "without biases can be imported"
        )
    try:
        config = _our_config(raw, path)
    except KeyError as error:
        raise UserError(f"{path} has no {error}: copy it again") from error
    eos = raw.get("eos_token_id")
    if eos is None:
        eos = 2
    return config, tuple(eos) if isinstance(eos, list) else (eos,)


def _our_config(raw: dict[str, Any], path: epath.Path) -> LlamaConfig:
    heads = raw["num_attention_heads"]
    rope = raw.get("rope_parameters") or {}
    return LlamaConfig(
        vocab_size=raw["vocab_size"],
        embed_dim=raw["hidden_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        mlp_dim=raw["intermediate_size"],
        max_length=raw["max_position_embeddings"],
        rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0),
        rope_scaling=_rope_scaling(raw.get("rope_scaling") or rope, path),
        norm_eps=raw["rms_norm_eps"],
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        initializer_range=raw.get("initializer_range", 0.02),
    )


def _rope_scaling(raw: dict[str, Any], path: epath.Path) -> RopeScaling | None:
    kind = raw.get("rope_type") or raw.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise UserError(f"{path} scales RoPE by {kind!r}: only 'llama3' is known")
    return RopeScaling(
        factor=raw["factor"],
        low_freq_factor=raw["low_freq_factor"],
        high_freq_factor=raw["high_freq_factor"],
        original_max_position=raw["original_max_position_embeddings"],
    )


def read_model(folder: epath.PathLike) -> HuggingFaceModel:
    """Reads a folder's configuration and weights; raises UserError naming what is missing."""
    config, eos_ids = read_config(folder)
    tensors = _Tensors(epath.Path(folder))
    params: dict[str, Any] = {
        "embedding": _shaped(tensors, "model.embed_tokens", (config.vocab_size, config.embed_dim)),
        "norm": {"scale": _shaped(tensors, "model.norm", (config.embed_dim,))},
        "layers": {},
    }
    if not config.tie_embeddings:
        shape = (config.embed_dim, config.vocab_size)
        params["output"] = _shaped(tensors, "lm_head", shape)
    for ours, theirs in _LAYER_NAMES.items():
        group, leaf = ours.split("/")
        shape = _layer_shapes(config)[ours]
        names = [f"model.layers.{i}.{theirs}" for i in range(config.num_layers)]
        stacked = np.stack([_shaped(tensors, name, shape) for name in names])
        params["layers"].setdefault(group, {})[leaf] = stacked
    return HuggingFaceModel(config, params, eos_ids)


def _layer_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    c = config
    return {
        "attention/query": (c.embed_dim, c.num_heads, c.head_dim),
        "attention/key": (c.embed_dim, c.num_kv_heads, c.head_dim),
        "attention/value": (c.embed_dim, c.num_kv_heads, c.head_dim),
        "attention/out": (c.num_heads, c.head_dim, c.embed_dim),
        "attention_norm/scale": (c.embed_dim,),
        "mlp/gate": (c.embed_dim, c.mlp_dim),
        "mlp/up": (c.embed_dim, c.mlp_dim),
        "mlp/down": (c.mlp_dim, c.embed_dim),
        "mlp_norm/scale": (c.embed_dim,),
    }


class _Tensors:
    """All safetensors files of a folder, by tensor name."""

    def __init__(self, folder: epath.Path):
        self._folder = folder
        self._files = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                handle = safe_open(path, "np")
            except Exception as error:
                raise UserError(
                    f"{path} is no safetensors file ({error}): copy it again"
                ) from error
            self._files.update(dict.fromkeys(handle.keys(), handle))
        if not self._files:
            raise UserError(f"{folder} has no *.safetensors: convert the weights to safetensors")

    def get(self, name: str) -> np.ndarray:
        if name not in self._files:
            raise UserError(f"{self._folder} has no tensor '{name}': the weights are incomplete")
        return self._files[name].get_tensor(name)


def _shaped(tensors: _Tensors, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a tensor in our shape: matrices but the embedding are transposed."""
    tensor = tensors.get(f"{name}.weight")
    if tensor.ndim == 2 and name != "model.embed_tokens":
        tensor = tensor.T
    # [in, out], except for norms; only o_proj has its heads among the inputs.
    inputs = -1 if name.endswith("o_proj") else 1
    matrix = (math.prod(shape[:inputs]), math.prod(shape[inputs:])) if len(shape) > 1 else shape
    if tensor.shape != matrix:
        raise UserError(
            f"tensor '{name}.weight' has the shape {list(tensor.shape)}, the configuration wants "
            f"{list(matrix)} (inputs first): config.json and the weights do not belong together"
        )
    return np.ascontiguousarray(tensor).reshape(shape)


def write_model(
    folder: epath.PathLike,
    config: LlamaConfig,
    params: Any,
    eos_ids: tuple[int, ...],
    bos_id: int,
    tokenizer_model: bytes,
) -> None:
    """Writes a folder that transformers loads: weights first, config.json last.

    Args:
      folder: made if absent; its files are replaced.
      config: of the model.
      params: our parameter tree, arrays on one host.
      eos_ids: EOS of config.json and generation_config.json.
      bos_id: BOS of both.
      tokenizer_model: the content of tokenizer.model.
    """
    folder = epath.Path(folder)
    tensors = dict(_their_tensors(config, params))
    content = save(tensors, metadata={"format": "pt"})
    rundir.write_atomic(folder / WEIGHTS_NAME, content)
    rundir.write_atomic(folder / "tokenizer.model", tokenizer_model)
    eos = eos_ids[0] if len(eos_ids) == 1 else list(eos_ids)
    special = {"bos_token_id": bos_id, "eos_token_id": eos}
    rundir.write_json(folder / "generation_config.json", special)
    dtype = str(np.asarray(params["embedding"]).dtype)
    rundir.write_json(
        folder / CONFIG_NAME, {**_their_config(config), **special, "torch_dtype": dtype}
    )


def _their_tensors(config: LlamaConfig, params: Any):
    yield "model.embed_tokens.weight", np.asarray(params["embedding"])
    yield "model.norm.weight", np.asarray(params["norm"]["scale"])
    if not config.tie_embeddings:
        yield "lm_head.weight", _transposed(params["output"], config.embed_dim)
    for ours, theirs in _LAYER_NAMES.items():
        group, leaf = ours.split("/")
        shape = _layer_shapes(config)[ours]
        inputs = int(np.prod(shape[:2])) if leaf == "out" else shape[0]
        for i, layer in enumerate(np.asarray(params["layers"][group][leaf])):
            name = f"model.layers.{i}.{theirs}.weight"
            yield name, layer if len(shape) == 1 else _transposed(layer, inputs)


def _transposed(kernel: Any, inputs: int) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(kernel).reshape(inputs, -1).T)


def _their_config(config: LlamaConfig) -> dict[str, Any]:
    scaling = None
    if config.rope_scaling is not None:
        scaling = dataclasses.asdict(config.rope_scaling)
        scaling["original_max_position_embeddings"] = scaling.pop("original_max_position")
        scaling["rope_type"] = "llama3"
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim,
        "max_position_embeddings": config.max_length,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.initializer_range,
    }


def folder_digest(folder: epath.PathLike) -> str:
    """Returns 16 hex digits of a folder's configuration, weights and tokenizer."""
    total = hashlib.sha256()
    folder = epath.Path(folder)
    for path in sorted(
        [folder / CONFIG_NAME, folder / "tokenizer.model", *folder.glob("*.safetensors")]
    ):
        if path.exists():
            total.update(path.name.encode())
            with path.open("rb") as file:
                while chunk := file.read(1 << 24):
                    total.update(chunk)
    return total.hexdigest()[:16]

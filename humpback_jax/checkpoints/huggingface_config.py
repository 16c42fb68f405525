"""config.json of Hugging Face, both ways: which families are read, and what is written.

A family is LLaMA with a flag or two:

    llama     LLaMA 1, 2, 3, 3.1 (rope_type "llama3"), TinyLlama
    mistral   attends no further back than `sliding_window`; up to that length it is a LLaMA
    qwen2     biases of queries, keys and values, which model_type alone tells
    qwen3     RMSNorm of each head's queries and keys

transformers 5 writes rope_parameters and dtype; transformers 4 reads such a file as rope_theta
10000 without scaling, and says nothing. So the keys of 4 are written, which both read.
"""

import dataclasses
import json
from typing import Any

from etils import epath

from humpback_jax.errors import UsageError, UserError
from humpback_jax.models.config import LlamaConfig, RopeScaling

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

_MISTRAL_WINDOW = 4096  # what transformers takes when the key is absent


def read_config(folder: epath.PathLike) -> tuple[LlamaConfig, tuple[int, ...]]:
    """Returns (configuration, EOS ids) of a folder; raises UserError for what we cannot run.

    The EOS ids are those of generation_config.json if it has any: chat models end a turn with
    more tokens than config.json names. Where neither names one they are ().
    """
    path = epath.Path(folder) / CONFIG_NAME
    if not path.exists():
        raise UserError(
            f"{folder} has no {CONFIG_NAME}: give a Hugging Face folder of a LLaMA, Mistral, Qwen2 "
            "or Qwen3, or one of Meta's with params.json"
        )
    raw = _read_json(path)
    _check_family(raw, path)
    try:
        config = _our_config(raw, path)
    except KeyError as error:
        raise UserError(f"{path} has no {error}: copy it again") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} has a value of the wrong kind ({error}): correct it") from error
    except UsageError as error:
        raise UserError(f"{path} describes no model that can be ({error})") from error
    generation = epath.Path(folder) / GENERATION_NAME
    eos = _read_json(generation).get("eos_token_id") if generation.exists() else None
    if eos is None:
        eos = raw.get("eos_token_id")
    return config, _token_ids(eos, config.vocab_size, path)


def _token_ids(value: Any, vocab_size: int, path: epath.Path) -> tuple[int, ...]:
    """Returns EOS as a tuple of ids, () if nothing is named."""
    ids = () if value is None else tuple(value) if isinstance(value, list) else (value,)
    for token in ids:
        if not isinstance(token, int) or not 0 <= token < vocab_size:
            raise UserError(
                f"{path} or the {GENERATION_NAME} beside it names {token!r} as eos_token_id, where "
                f"an id below {vocab_size} was expected: correct it"
            )
    return ids


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): copy it again") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no JSON object: copy it again")
    return raw


def _check_family(raw: dict[str, Any], path: epath.Path) -> None:
    """Raises UserError for an architecture that our model does not compute."""
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise UserError(
            f"{path} describes a {family!r} model: {', '.join(FAMILIES)} can be imported"
        )
    for key in ("attention_bias", "mlp_bias"):
        if raw.get(key):
            raise UserError(
                f"{path} sets {key}, which our {family} model does not have: only qwen2's biases "
                "of queries, keys and values can be imported"
            )
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise UserError(f"{path} has hidden_act {activation!r}: only 'silu' can be imported")
    if raw.get("quantization_config"):
        raise UserError(f"{path} is of quantized weights: give the model as it was before")
    if raw.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"{path} rotates a part of each head: only whole heads can be imported")


def _our_config(raw: dict[str, Any], path: epath.Path) -> LlamaConfig:
    def number(key: str) -> int:
        if not isinstance(raw[key], int):
            raise UserError(f"{path} has {raw[key]!r} as {key}, a whole number was expected")
        return raw[key]

    family, rope = raw["model_type"], raw.get("rope_parameters") or {}
    heads, width = number("num_attention_heads"), number("hidden_size")
    # Defaults of transformers that no model of the family has are no defaults here.
    kv_heads = raw.get("num_key_value_heads") if family == "llama" else raw["num_key_value_heads"]
    size = raw["head_dim"] if family == "qwen3" else raw.get("head_dim")
    return LlamaConfig(
        vocab_size=number("vocab_size"),
        embed_dim=width,
        num_layers=number("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads or heads,
        head_dim=size or width // max(heads, 1),
        mlp_dim=number("intermediate_size"),
        max_length=_max_length(raw, number("max_position_embeddings")),
        rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0),
        rope_scaling=_rope_scaling(raw.get("rope_scaling") or rope, path),
        norm_eps=float(raw["rms_norm_eps"]),
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        initializer_range=raw.get("initializer_range", 0.02),
    )


def _max_length(raw: dict[str, Any], positions: int) -> int:
    """Returns the length up to which full attention is the model's: within its window."""
    window = None
    if raw["model_type"] == "mistral":
        window = raw.get("sliding_window", _MISTRAL_WINDOW)
    elif raw.get("use_sliding_window"):
        window = raw.get("sliding_window")
    return min(positions, window) if window else positions


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


def family_of(config: LlamaConfig) -> str:
    """Returns the model_type that computes what our model computes.

    A Mistral within its window is a LLaMA, and is written as one.

    Raises:
      UserError: no family has both of our flags.
    """
    if config.qkv_bias and config.qk_norm:
        raise UserError(
            "the model has both biases and norms of queries and keys: no family of Hugging Face's "
            "has, so it stays a folder of ours"
        )
    return "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"


_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def to_json(config: LlamaConfig, dtype: str) -> dict[str, Any]:
    """Returns config.json of a configuration, for transformers 4 and 5 alike.

    Args:
      config: of the model.
      dtype: of the weights as they are written.
    """
    scaling = None
    if config.rope_scaling is not None:
        scaling = dataclasses.asdict(config.rope_scaling)
        scaling["original_max_position_embeddings"] = scaling.pop("original_max_position")
        scaling["rope_type"] = "llama3"
    family = family_of(config)
    own = {"use_sliding_window": False} if family != "llama" else {"mlp_bias": False}
    if family != "qwen2":
        own["attention_bias"] = False
    return {
        **own,
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "hidden_act": "silu",
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
        "torch_dtype": dtype,
    }

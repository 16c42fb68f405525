"""Tiny LLaMAs as Meta gives them, and Meta's form of the model; only where goldens are made.

The files are written by torch.save itself, so that what reads them is tested on the real thing.
"""

import json
import pathlib

import numpy as np
import torch

_BASE = {"dim": 16, "n_layers": 2, "n_heads": 4, "norm_eps": 1e-6, "multiple_of": 8}

VARIANTS = {
    # One file, as LLaMA 1 7B.
    "llama1": {"params": {**_BASE, "vocab_size": -1}, "files": 1, "dtype": "float16"},
    # Two files, the embedding by columns, heads grouped, as LLaMA 2 70B.
    "llama2": {
        "params": {**_BASE, "vocab_size": -1, "n_kv_heads": 2, "norm_eps": 1e-5},
        "files": 2,
        "dtype": "bfloat16",
    },
    # Two files, the embedding by rows, scaled RoPE, as LLaMA 3.1.
    "llama3": {
        "params": {
            **_BASE,
            "vocab_size": 24,
            "n_kv_heads": 2,
            "norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "use_scaled_rope": True,
        },
        "files": 2,
        "dtype": "bfloat16",
    },
}
_VOCAB, _MLP = 24, 32


def weights(name: str) -> dict[str, torch.Tensor]:
    """Returns the whole tensors of a variant, wide, in its dtype."""
    variant = VARIANTS[name]
    params, generator = variant["params"], torch.Generator().manual_seed(5)
    dim, size = params["dim"], params["dim"] // params["n_heads"]
    keys = params.get("n_kv_heads", params["n_heads"]) * size

    def matrix(*shape):
        return torch.randn(shape, generator=generator) * 0.3

    found = {"tok_embeddings.weight": matrix(_VOCAB, dim), "output.weight": matrix(_VOCAB, dim)}
    found["norm.weight"] = 1 + matrix(dim)
    for i in range(params["n_layers"]):
        attention, mlp = f"layers.{i}.attention.", f"layers.{i}.feed_forward."
        found |= {
            attention + "wq.weight": matrix(dim, dim),
            attention + "wk.weight": matrix(keys, dim),
            attention + "wv.weight": matrix(keys, dim),
            attention + "wo.weight": matrix(dim, dim),
            mlp + "w1.weight": matrix(_MLP, dim),
            mlp + "w2.weight": matrix(dim, _MLP),
            mlp + "w3.weight": matrix(_MLP, dim),
            f"layers.{i}.attention_norm.weight": 1 + matrix(dim),
            f"layers.{i}.ffn_norm.weight": 1 + matrix(dim),
        }
    if name != "llama3":
        found["rope.freqs"] = torch.ones(size // 2)
    return {key: tensor.to(getattr(torch, variant["dtype"])) for key, tensor in found.items()}


def write_folder(name: str, folder: pathlib.Path) -> None:
    """Writes params.json and consolidated.*.pth."""
    variant = VARIANTS[name]
    (folder / "params.json").write_text(json.dumps(variant["params"]))
    parts: list[dict] = [{} for _ in range(variant["files"])]
    for key, tensor in weights(name).items():
        by_columns = key.endswith(("wo.weight", "w2.weight"))
        if key == "tok_embeddings.weight":
            by_columns = name != "llama3"
        for part, piece in zip(
            parts, tensor.chunk(len(parts), int(by_columns) if tensor.ndim == 2 else 0), strict=True
        ):
            part[key] = (tensor if tensor.ndim == 1 else piece).contiguous().clone()
    for i, part in enumerate(parts):
        torch.save(part, folder / f"consolidated.{i:02d}.pth")


def logits(name: str, tokens: np.ndarray) -> np.ndarray:
    """Returns the logits of Meta's form of the model, in float32."""
    params = VARIANTS[name]["params"]
    w = {key: tensor.float() for key, tensor in weights(name).items()}
    heads, size = params["n_heads"], params["dim"] // params["n_heads"]
    batch, length = tokens.shape
    rotation = _rotation(params, size, length)

    def norm(x, key):
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + params["norm_eps"])
        return scaled * w[key]

    def split(x, key):
        return torch.nn.functional.linear(x, w[key]).view(batch, length, -1, size)

    def rotate(x):
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * rotation[None, :, None]).flatten(3)

    x = w["tok_embeddings.weight"][torch.tensor(tokens, dtype=torch.long)]
    mask = torch.full((length, length), float("-inf")).triu(1)
    for i in range(params["n_layers"]):
        attention, mlp = f"layers.{i}.attention.", f"layers.{i}.feed_forward."
        normed = norm(x, f"layers.{i}.attention_norm.weight")
        query = rotate(split(normed, attention + "wq.weight"))
        key = rotate(split(normed, attention + "wk.weight"))
        value = split(normed, attention + "wv.weight")
        key, value = (t.repeat_interleave(heads // t.shape[2], 2) for t in (key, value))
        scores = torch.einsum("btnh,bsnh->bnts", query, key) / size**0.5 + mask
        out = torch.einsum("bnts,bsnh->btnh", scores.softmax(-1), value).flatten(2)
        x = x + torch.nn.functional.linear(out, w[attention + "wo.weight"])
        normed = norm(x, f"layers.{i}.ffn_norm.weight")
        gate = torch.nn.functional.silu(normed @ w[mlp + "w1.weight"].T)
        x = x + (gate * (normed @ w[mlp + "w3.weight"].T)) @ w[mlp + "w2.weight"].T
    return (norm(x, "norm.weight") @ w["output.weight"].T).numpy()


def _rotation(params: dict, size: int, length: int) -> torch.Tensor:
    """Returns each position's rotation of each pair of neighbours, as complex numbers."""
    theta = params.get("rope_theta", 10000.0)
    angles = 1.0 / theta ** (torch.arange(0, size, 2).float() / size)
    if params.get("use_scaled_rope"):
        scaled = []
        for angle in angles:
            waves = 8192 * angle / (2 * torch.pi)  # of this pair in the first training's length
            blend = ((waves - 1.0) / (4.0 - 1.0)).clamp(0, 1)
            scaled.append((1 - blend) * angle / 8.0 + blend * angle)
        angles = torch.stack(scaled)
    angles = torch.outer(torch.arange(length).float(), angles)
    return torch.polar(torch.ones_like(angles), angles)

"""LLaMA as Meta gives it: params.json and consolidated.*.pth, one file for each of their GPUs.

Each file holds a part of every matrix: rows of wq, wk, wv, w1, w3 and output, columns of wo and
w2, columns of tok_embeddings in LLaMA 1 and 2 and rows of it in LLaMA 3. Norms are in all files.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from humpback_jax.checkpoints import foreign, layouts, torch_files
from humpback_jax.checkpoints.foreign import ForeignModel
from humpback_jax.checkpoints.stored import Concatenated, StoredTensor, Tensor
from humpback_jax.errors import UsageError, UserError
from humpback_jax.models.config import LlamaConfig, RopeScaling

PARAMS_NAME = "params.json"

_BY_COLUMNS = ("wo.weight", "w2.weight")
_REPLICATED = ("norm.weight", "rope.freqs")
_IGNORED = ("rope.freqs",)  # made of the configuration anyway


def open_model(
    folder: epath.PathLike, dtype: str | None = None, max_length: int | None = None
) -> ForeignModel:
    """Reads params.json and the heads of the weight files, and checks that they belong together.

    Args:
      folder: with params.json and consolidated.*.pth.
      dtype: of the parameters; None takes the files'.
      max_length: tokens that the model was made for; no file says it, so by default it follows
        from what tells LLaMA 1, 2, 3 and 3.1 apart.

    Raises:
      UserError: something is missing, cut off, refused, or of another model.
    """
    folder = epath.Path(folder)
    raw = _read_params(folder / PARAMS_NAME)
    tensors = _read_shards(folder)
    try:
        config = _our_config(raw, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / PARAMS_NAME} lacks or garbles {error}: copy it again"
        ) from error
    except UsageError as error:
        raise UserError(
            f"{folder / PARAMS_NAME} describes no model that can be ({error})"
        ) from error
    guessed = max_length is None
    config = _with_length(config, raw, max_length)
    tensors = {name: t for name, t in tensors.items() if name not in _IGNORED}
    places = layouts.meta(config)
    foreign.check_tensors(folder, config, tensors, places, PARAMS_NAME)
    config, notes = foreign.settle_dtype(config, tensors, dtype)
    if guessed:
        note = f"{PARAMS_NAME} does not say for what length: {config.max_length} tokens are taken"
        notes = (*notes, note)
    return ForeignModel(folder, config, (), tensors, places, notes)


def _read_params(path: epath.Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path.parent} has no {PARAMS_NAME}: give a folder of Meta's weights")
    try:
        raw = json.loads(path.read_text())
        return dict(raw)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is no JSON object ({error}): copy it again") from error


def _read_shards(folder: epath.Path) -> dict[str, Tensor]:
    """Returns the whole tensors by name, each over all the files that have a part of it."""
    paths = sorted(folder.glob("consolidated.*.pth"))
    wanted = [f"consolidated.{i:02d}.pth" for i in range(max(len(paths), 1))]
    if missing := sorted({*wanted} - {path.name for path in paths}):
        raise UserError(f"{folder} has no {missing[0]}: copy all of the model's consolidated.*.pth")
    shards = [torch_files.read_tensors(path) for path in paths]
    for path, shard in zip(paths, shards, strict=True):
        if differing := shard.keys() ^ shards[0].keys():
            raise UserError(
                f"{path} and {paths[0].name} do not have the same tensors ('{min(differing)}' is "
                "in one of them alone): copy both again"
            )
    width = shards[0].get("norm.weight")
    return {
        name: _joined(name, tuple(shard[name] for shard in shards), width) for name in shards[0]
    }


def _joined(name: str, parts: tuple[StoredTensor, ...], norm: StoredTensor | None) -> Tensor:
    if len(parts) == 1 or name.endswith(_REPLICATED) or not all(len(p.shape) == 2 for p in parts):
        return parts[0]
    axis = 1 if name.endswith(_BY_COLUMNS) else 0
    if name == "tok_embeddings.weight" and norm is not None:
        axis = 0 if parts[0].shape[1:] == norm.shape else 1
    other = {part.shape[1 - axis] for part in parts}
    if len(other) > 1 or len({part.dtype for part in parts}) > 1:
        shapes = " and ".join(sorted({f"{list(part.shape)} {part.dtype}" for part in parts}))
        raise UserError(
            f"the parts of tensor '{name}' in {parts[0].path.parent} are {shapes}: the files are "
            "not of one model"
        )
    return Concatenated(parts, axis)


def _our_config(raw: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LlamaConfig:
    """Returns the configuration; sizes that params.json leaves out are the tensors'."""
    vocab = raw.get("vocab_size", -1)
    if vocab < 0:
        vocab = tensors["tok_embeddings.weight"].shape[0]
    scaling = None
    if raw.get("use_scaled_rope"):
        scaling = RopeScaling(float(raw.get("rope_scaling_factor") or 8.0), 1.0, 4.0, 8192)
    return LlamaConfig(
        vocab_size=vocab,
        embed_dim=raw["dim"],
        num_layers=raw["n_layers"],
        num_heads=raw["n_heads"],
        num_kv_heads=raw.get("n_kv_heads") or raw["n_heads"],
        head_dim=raw["dim"] // raw["n_heads"],
        mlp_dim=tensors["layers.0.feed_forward.w1.weight"].shape[0],
        max_length=1,
        rope_theta=float(raw.get("rope_theta") or 10000.0),
        rope_scaling=scaling,
        norm_eps=float(raw["norm_eps"]),
        tie_embeddings="output.weight" not in tensors,
    )


def _with_length(
    config: LlamaConfig, raw: Mapping[str, Any], max_length: int | None
) -> LlamaConfig:
    """Returns the configuration with the length that LLaMA 1, 2, 3, 3.1 or Code Llama has."""
    if max_length is None:
        # LLaMA 2 is told from 1 by its grouped heads (70B) or, at 7B and 13B, by its epsilon.
        second = bool(raw.get("n_kv_heads")) or (
            config.norm_eps == 1e-5 and config.embed_dim < 6000
        )
        max_length = 4096 if second else 2048
        if config.rope_theta > 10000:
            max_length = 8192 if config.rope_theta < 1e6 else 16384
        if config.rope_scaling is not None:
            max_length = 131072
    return dataclasses.replace(config, max_length=max_length)

"""A model folder: what is needed to run a model, found by its path alone.

    <folder>/model.json              configuration, EOS ids, fingerprint, which checkpoint
    <folder>/tokenizer.model         or tokenizer.json and its kin
    <folder>/checkpoint_<step>/      Orbax

A Hugging Face folder is a model folder as well.
"""

import dataclasses
import json
from typing import Any

import jax
from etils import epath

from humpback_jax import rundir
from humpback_jax.checkpoints import foreign, huggingface, orbax
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.data.tokenizer_files import load_tokenizer, write_tokenizer
from humpback_jax.errors import UserError
from humpback_jax.models.config import LlamaConfig, RopeScaling

CARD_NAME = "model.json"


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
      config: its configuration.
      params: the plain parameter tree, placed on the mesh if one was given.
      tokenizer: its tokenizer.
      fingerprint: names the weights.
      eos_ids: what ends a generation.
    """

    config: LlamaConfig
    params: Any
    tokenizer: Tokenizer
    fingerprint: str
    eos_ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What model.json says."""

    config: LlamaConfig
    eos_ids: tuple[int, ...]
    fingerprint: str
    checkpoint: str


def write_card(folder: epath.PathLike, card: ModelCard, tokenizer: Tokenizer) -> None:
    """Writes the tokenizer and then model.json, after which the folder is a model folder."""
    folder = epath.Path(folder)
    write_tokenizer(folder, tokenizer)
    rundir.write_json(folder / CARD_NAME, card)


def read_card(folder: epath.PathLike) -> ModelCard:
    """Reads model.json; raises UserError if the folder is no model folder.

    A key that we do not know is no matter beside the configuration, but within it the model could
    be another one: then it is refused.
    """
    path = epath.Path(folder) / CARD_NAME
    if not path.exists():
        raise UserError(
            f"{folder} is no model folder (neither {CARD_NAME} nor {huggingface.CONFIG_NAME} of "
            "Hugging Face's): "
            "give a stage folder whose training is done, or a Hugging Face folder"
        )
    try:
        raw = json.loads(path.read_text())
        scaling = raw["config"].pop("rope_scaling")
        config = LlamaConfig(**raw.pop("config"), rope_scaling=scaling and RopeScaling(**scaling))
        return ModelCard(config, tuple(raw["eos_ids"]), raw["fingerprint"], raw["checkpoint"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as a model card ({error}): train or import the model again"
        ) from error


def fingerprint(folder: epath.PathLike) -> str:
    """Returns the fingerprint of a model folder's weights without loading them."""
    folder = epath.Path(folder)
    return (
        huggingface.folder_digest(folder) if _is_theirs(folder) else read_card(folder).fingerprint
    )


def _is_theirs(folder: epath.Path) -> bool:
    config = folder / huggingface.CONFIG_NAME
    return (
        not (folder / CARD_NAME).exists() and config.exists() and not rundir.is_stage_config(config)
    )


def load_model(
    folder: epath.PathLike, mesh: jax.sharding.Mesh | None = None, dtype: str | None = None
) -> LoadedModel:
    """Loads a model folder of ours or of Hugging Face.

    Args:
      folder: the folder.
      mesh: where the parameters go, each sharded by the rules; by default one device holds them.
      dtype: of computation and parameters, which are cast as they are loaded; by default the
        configuration's.
    """
    folder = epath.Path(folder)
    if _is_theirs(folder):
        model, tokenizer = huggingface.open_model(folder, dtype), load_tokenizer(folder)
        check_vocabulary(tokenizer, model.config, folder)
        config, eos_ids = _computing_in(model.config, dtype), stop_ids(model.eos_ids, tokenizer)
        params = model.params(foreign.targets(config, mesh))
    else:
        card, tokenizer = read_card(folder), load_tokenizer(folder)
        config, eos_ids = _computing_in(card.config, dtype), card.eos_ids
        target = foreign.targets(config, mesh)
        params = orbax.restore_params(folder / card.checkpoint / "", target)
    return LoadedModel(config, params, tokenizer, fingerprint(folder), eos_ids)


def stop_ids(named: tuple[int, ...], tokenizer: Tokenizer) -> tuple[int, ...]:
    """Returns what ends a generation: the ids that a folder names, and the tokenizer's EOS.

    The latter ends every answer that we train on, whatever the folder says.
    """
    return tuple(dict.fromkeys((*named, tokenizer.eos_id)))


def _computing_in(config: LlamaConfig, dtype: str | None) -> LlamaConfig:
    if dtype is None:
        return config
    return dataclasses.replace(config, dtype=dtype, param_dtype=dtype)


def check_vocabulary(tokenizer: Tokenizer, config: LlamaConfig, folder: epath.PathLike) -> None:
    """Raises UserError if the tokenizer makes ids that the embedding does not have."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} pieces, the model only "
            f"{config.vocab_size} embeddings: they do not belong together"
        )

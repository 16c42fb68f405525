"""A model folder: what is needed to run a model, found by its path alone.

    <folder>/model.json              configuration, EOS ids, fingerprint, which checkpoint
    <folder>/tokenizer.model
    <folder>/checkpoint_<step>/      Orbax

A Hugging Face folder is a model folder as well.
"""

import dataclasses
import json
from typing import Any

import jax
from etils import epath

from humpback_jax import partitioning, rundir
from humpback_jax.checkpoints import huggingface, orbax
from humpback_jax.data.tokenizer import MODEL_NAME, Tokenizer
from humpback_jax.errors import UserError
from humpback_jax.models.config import LlamaConfig, RopeScaling
from humpback_jax.models.init import abstract_params, boxed_params

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
    """Writes tokenizer.model and then model.json, after which the folder is a model folder."""
    folder = epath.Path(folder)
    rundir.write_atomic(folder / MODEL_NAME, tokenizer.model)
    rundir.write_json(folder / CARD_NAME, card)


def read_card(folder: epath.PathLike) -> ModelCard:
    """Reads model.json; raises UserError if the folder is no model folder."""
    path = epath.Path(folder) / CARD_NAME
    if not path.exists():
        raise UserError(
            f"{folder} is no model folder (neither {CARD_NAME} nor {huggingface.CONFIG_NAME}): "
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


def load_model(
    folder: epath.PathLike, mesh: jax.sharding.Mesh | None = None, dtype: str | None = None
) -> LoadedModel:
    """Loads a model folder of ours or of Hugging Face.

    Args:
      folder: the folder.
      mesh: where the parameters go, each sharded by the rules; by default one device holds them.
      dtype: of the computation, by default the configuration's.
    """
    folder = epath.Path(folder)
    if not (folder / CARD_NAME).exists() and (folder / huggingface.CONFIG_NAME).exists():
        tokenizer = Tokenizer.from_folder(folder)
        model = huggingface.read_model(folder)
        check_vocabulary(tokenizer, model.config, folder)
        config, eos_ids = model.config, model.eos_ids
        fingerprint = huggingface.folder_digest(folder)
        params = place_params(model.params, config, mesh)
    else:
        card = read_card(folder)
        config, eos_ids, fingerprint = card.config, card.eos_ids, card.fingerprint
        target = _targets(config, mesh)
        params = orbax.restore_params(folder / card.checkpoint / "", target)
        tokenizer = Tokenizer.from_folder(folder)
    if dtype is not None:
        config = dataclasses.replace(config, dtype=dtype)
    return LoadedModel(config, params, tokenizer, fingerprint, eos_ids)


def place_params(params: Any, config: LlamaConfig, mesh: jax.sharding.Mesh | None) -> Any:
    """Puts a plain parameter tree on a mesh, sharded by the rules, or on the first device."""
    targets = _targets(config, mesh)
    return jax.tree.map(
        lambda x, to: jax.device_put(x.astype(to.dtype), to.sharding), params, targets
    )


def _targets(config: LlamaConfig, mesh: jax.sharding.Mesh | None) -> Any:
    """Returns the parameters' ShapeDtypeStructs with their shardings."""
    plain = abstract_params(config)
    if mesh is None:
        shardings = jax.tree.map(
            lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), plain
        )
    else:
        shardings = partitioning.tree_shardings(boxed_params(config), mesh)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        plain,
        shardings,
    )


def check_vocabulary(tokenizer: Tokenizer, config: LlamaConfig, folder: epath.PathLike) -> None:
    """Raises UserError if the tokenizer makes ids that the embedding does not have."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: {MODEL_NAME} has {tokenizer.vocab_size} pieces, the model only "
            f"{config.vocab_size} embeddings: they do not belong together"
        )

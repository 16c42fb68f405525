"""LLaMA folders of Hugging Face: config.json, *.safetensors and the tokenizer, both ways.

Weights are read and written tensor by tensor, so that a model needs no more memory than its
parameters on the devices and one stacked parameter on the host.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from humpback_jax import distributed, rundir
from humpback_jax.checkpoints import (
    chat_template,
    foreign,
    huggingface_config,
    layouts,
    safetensors_files,
)
from humpback_jax.checkpoints.foreign import LAYERS, ForeignModel
from humpback_jax.checkpoints.huggingface_config import CONFIG_NAME, GENERATION_NAME, read_config
from humpback_jax.checkpoints.layouts import Place
from humpback_jax.checkpoints.safetensors_files import Planned
from humpback_jax.checkpoints.stored import digest_files
from humpback_jax.data import tokenizer_files
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.init import flatten
from humpback_jax.prompts import Prompts

MAX_FILE_BYTES = 4 << 30


@dataclasses.dataclass(frozen=True)
class HuggingFaceModel:
    """A folder's content: the configuration, parameters on one device, and the ids of EOS."""

    config: LlamaConfig
    params: dict[str, Any]
    eos_ids: tuple[int, ...]


def open_model(folder: epath.PathLike, dtype: str | None = None) -> ForeignModel:
    """Reads config.json and the weights' headers, and checks that they belong together.

    Args:
      folder: of Hugging Face's layout.
      dtype: of the parameters; None takes the files'.

    Raises:
      UserError: a file, a key or a tensor is missing, or a tensor is of another shape.
    """
    folder = epath.Path(folder)
    config, eos_ids = read_config(folder)
    tensors = {
        name: tensor
        for name, tensor in safetensors_files.read_folder(folder).items()
        # Buffers that older versions saved, and a table that transformers ties over.
        if not name.endswith("rotary_emb.inv_freq")
        and not (config.tie_embeddings and name == "lm_head.weight")
    }
    places = layouts.huggingface(config)
    foreign.check_tensors(folder, config, tensors, places, CONFIG_NAME)
    config, notes = foreign.settle_dtype(config, tensors, dtype)
    return ForeignModel(folder, config, eos_ids, tensors, places, notes)


def read_model(folder: epath.PathLike) -> HuggingFaceModel:
    """Returns a whole model on the first device, without its tokenizer."""
    model = open_model(folder)
    params = model.params(foreign.targets(model.config, None))
    return HuggingFaceModel(model.config, params, model.eos_ids)


def write_model(
    folder: epath.PathLike,
    config: LlamaConfig,
    params: Any,
    eos_ids: tuple[int, ...],
    tokenizer: Tokenizer,
    prompts: Prompts | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Writes a folder that transformers 4 and 5 load: weights first, config.json last.

    Every process takes part; the primary one writes.

    Args:
      folder: made if absent; the model in it, if any, is replaced.
      config: of the model.
      params: our parameter tree, on any devices.
      eos_ids: EOS of config.json and generation_config.json.
      tokenizer: whose files are written too.
      prompts: the templates of a chat; None writes no chat template, as fits a base model.
      max_file_bytes: of weights in one file.
    """
    folder, flat = epath.Path(folder), flatten(params)
    described = huggingface_config.to_json(config, str(flat["embedding"].dtype))
    files = chat_template.tokenizer_files(tokenizer, prompts, config.max_length)
    primary, places = distributed.is_primary(), layouts.huggingface(config)
    if primary:
        (folder / CONFIG_NAME).unlink(missing_ok=True)  # until all is there, it is no model
    plan = [
        Planned(name, str(flat[ours].dtype), place.shape)
        for ours, place in places.items()
        for name in _their_names(ours, place, config)
    ]
    safetensors_files.write_folder(folder, plan, _their_values(places, flat), max_file_bytes)
    if not primary:
        return
    for name, content in files.items():
        rundir.write_atomic(folder / name, content)
    eos = eos_ids[0] if len(eos_ids) == 1 else list(eos_ids)
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": eos}
    rundir.write_json(folder / GENERATION_NAME, special)
    rundir.write_json(folder / CONFIG_NAME, {**described, **special})


def _their_names(ours: str, place: Place, config: LlamaConfig) -> list[str]:
    if not ours.startswith(LAYERS):
        return [place.name]
    return [place.name.format(layer) for layer in range(config.num_layers)]


def _their_values(places: Mapping[str, Place], flat: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """Yields the tensors on the host, one layer at a time."""
    for ours, place in places.items():
        leaf = flat[ours]
        if ours.startswith(LAYERS):
            for layer in range(leaf.shape[0]):
                yield place.to_stored(_on_host(leaf[layer]))
        else:
            yield place.to_stored(_on_host(leaf))


def _on_host(array: Any) -> np.ndarray:
    """Returns the whole of an array that may be spread over the devices of several processes."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        assert isinstance(array.sharding, NamedSharding)
        everywhere = NamedSharding(array.sharding.mesh, PartitionSpec())
        array = jax.jit(lambda x: x, out_shardings=everywhere)(array).addressable_data(0)
    return np.asarray(array)


def folder_digest(folder: epath.PathLike) -> str:
    """Returns 16 hex digits of a folder's configuration, weights and tokenizer."""
    folder = epath.Path(folder)
    names = (CONFIG_NAME, *tokenizer_files.FILE_NAMES)
    return digest_files([*(folder / name for name in names), *folder.glob("*.safetensors")])

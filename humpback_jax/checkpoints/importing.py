"""From somebody else's model folder to one of ours, in sharded Orbax."""

from typing import Any

import jax
from etils import epath

from humpback_jax import distributed
from humpback_jax.checkpoints import bundle, foreign, huggingface, meta, orbax
from humpback_jax.checkpoints.bundle import ModelCard
from humpback_jax.checkpoints.foreign import ForeignModel
from humpback_jax.checkpoints.stored import digest_files
from humpback_jax.data import tokenizer_files
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UserError


def open_folder(
    folder: epath.PathLike, dtype: str | None = None, max_length: int | None = None
) -> tuple[ForeignModel, Tokenizer]:
    """Reads what is needed to import a model but its weights, and checks all of it.

    Args:
      folder: of Hugging Face (config.json) or of Meta (params.json).
      dtype: of the parameters; None takes the files'.
      max_length: of a model of Meta's, in tokens; None takes what follows from params.json.

    Raises:
      UserError: the folder is neither, or its files do not belong together.
    """
    folder = epath.Path(folder)
    if _is_meta(folder):
        model, tokenizer = meta.open_model(folder, dtype, max_length), _meta_tokenizer(folder)
    else:
        if max_length is not None:
            raise UserError(
                f"{folder} is no folder of Meta's, and its config.json says for what length it "
                "is: leave --max_length out"
            )
        model = huggingface.open_model(folder, dtype)
        tokenizer = tokenizer_files.load_tokenizer(folder)
    bundle.check_vocabulary(tokenizer, model.config, folder)
    return model, tokenizer


def _is_meta(folder: epath.Path) -> bool:
    return (folder / meta.PARAMS_NAME).exists() and not (folder / huggingface.CONFIG_NAME).exists()


def _meta_tokenizer(folder: epath.Path) -> Tokenizer:
    """Returns the tokenizer beside the weights or one folder up.

    LLaMA 3's tokenizer.model is no SentencePiece model, so there the tokenizer.json one folder
    up, where Hugging Face's copies of Meta's folders have it, is the one that can be read.
    """
    try:
        return tokenizer_files.load_tokenizer(folder)
    except UserError as beside:
        try:
            return tokenizer_files.load_tokenizer(folder.parent)
        except UserError:
            raise UserError(
                f"neither {folder} nor the folder above has a tokenizer that can be read: copy "
                f"tokenizer.model, for LLaMA 3 tokenizer.json, into {folder.parent}"
            ) from beside


def source_digest(folder: epath.PathLike) -> str:
    """Returns 16 hex digits of the configuration, weights and tokenizer of a foreign folder."""
    folder = epath.Path(folder)
    if not _is_meta(folder):
        return huggingface.folder_digest(folder)
    names = tokenizer_files.FILE_NAMES
    tokenizers = [place / name for place in (folder, folder.parent) for name in names]
    return digest_files([folder / meta.PARAMS_NAME, *folder.glob("*.pth"), *tokenizers])


def identity(folder: epath.PathLike) -> dict[str, Any]:
    """Returns names, sizes and times of a folder's files: the same, the same import."""
    folder = epath.Path(folder)
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            stat = path.stat()
            files[path.name] = [stat.length, int(stat.mtime)]
    return {"source": str(folder.resolve()), "files": files}


def import_model(
    model: ForeignModel,
    tokenizer: Tokenizer,
    folder: epath.PathLike,
    mesh: jax.sharding.Mesh | None,
) -> ModelCard:
    """Writes a model folder of ours, model.json last; all processes take part.

    Args:
      model: opened and checked.
      tokenizer: its own.
      folder: made if absent; a checkpoint of step 0 in it is replaced.
      mesh: over which the parameters are spread while they are written.
    """
    folder = epath.Path(folder)
    params = model.params(foreign.targets(model.config, mesh))
    fingerprint = orbax.digest(params)
    orbax.save_params(folder, 0, params)
    eos_ids = bundle.stop_ids(model.eos_ids, tokenizer)
    card = ModelCard(model.config, eos_ids, fingerprint, orbax.step_path(folder, 0).name)
    if distributed.is_primary():
        bundle.write_card(folder, card, tokenizer)
    return card

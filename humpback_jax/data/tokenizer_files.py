"""The tokenizer's files in a model folder: tokenizer.model, or tokenizer.json and its kin."""

from etils import epath

from humpback_jax import rundir
from humpback_jax.data import json_tokenizer
from humpback_jax.data.json_tokenizer import JSON_NAME, JsonTokenizer
from humpback_jax.data.sentencepiece_tokenizer import MODEL_NAME, SentencePieceTokenizer
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UserError

# What `Tokenizer.files` may name.
FILE_NAMES = (MODEL_NAME, JSON_NAME, *json_tokenizer.CONFIG_NAMES)


def load_tokenizer(folder: epath.PathLike) -> Tokenizer:
    """Returns the tokenizer of a model folder: tokenizer.model, or else tokenizer.json.

    Raises:
      UserError: the folder has neither, or the file cannot be used.
    """
    folder = epath.Path(folder)
    try:
        if (folder / MODEL_NAME).exists():
            return SentencePieceTokenizer((folder / MODEL_NAME).read_bytes())
        names = (JSON_NAME, *json_tokenizer.CONFIG_NAMES, *json_tokenizer.MODEL_CONFIG_NAMES)
        files = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
        if JSON_NAME in files:
            return JsonTokenizer(files)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    raise UserError(
        f"{folder} has neither {MODEL_NAME} nor {JSON_NAME}: copy the base model's file into it"
    )


def write_tokenizer(folder: epath.PathLike, tokenizer: Tokenizer) -> None:
    """Writes a tokenizer's files into a folder, each whole or not at all."""
    for name, content in tokenizer.files().items():
        rundir.write_atomic(epath.Path(folder) / name, content)

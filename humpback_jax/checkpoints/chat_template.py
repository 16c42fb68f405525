"""A run's prompts as a chat template, so that other programs ask the model as it was trained.

Hugging Face's tools render conversations with a Jinja template that lies beside the tokenizer.
Ours gives, for a single message of the user, BOS and the text of `Prompts.render_forward` with
both tags, and for an answer that follows, the answer and EOS.
"""

import json
import re
import string
from collections.abc import Iterator
from typing import Any

import sentencepiece

from humpback_jax.data.json_tokenizer import CONFIG_NAMES, JSON_NAME
from humpback_jax.data.sentencepiece_tokenizer import MODEL_NAME
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UserError
from humpback_jax.prompts import Prompts

TEMPLATE_NAME = "chat_template.jinja"
CONFIG_NAME = CONFIG_NAMES[0]

# Each turn of the user begins anew with BOS: that is how the model has seen prompts.
_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] != ('assistant' if loop.index0 % 2 else 'user') -%}
{{- raise_exception('this model knows messages of user and assistant in turn, the user first') -}}
{%- elif message['role'] == 'user' -%}
{%- set prompt = @PROMPT@ -%}
{{- @BOS@ ~ (prompt.rstrip(' ') if loop.last else prompt) -}}
{%- else -%}
{{- message['content'] ~ @EOS@ -}}
{%- endif -%}
{%- endfor -%}
"""


def chat_template(prompts: Prompts, bos: str, eos: str) -> str:
    """Returns the Jinja template of a run's prompts.

    Spaces at the end of the last prompt are left out, as `Tokenizer.encode_prompt` does. Of the
    forward template "{tags} Q: {instruction} A:" the prompt becomes, in Jinja,
    "Answer in the style of ... search. Q: " ~ message['content'] ~ " A:".

    Args:
      prompts: its forward template and tags are used.
      bos: the text of the token that begins a prompt.
      eos: of the one that ends an answer.

    Raises:
      UserError: the forward template formats a field in a way that Jinja has not.
    """
    fields = {"@BOS@": _quoted(bos), "@EOS@": _quoted(eos), "@PROMPT@": " ~ ".join(_terms(prompts))}
    return re.sub("|".join(fields), lambda found: fields[found[0]], _TEMPLATE)


def _terms(prompts: Prompts) -> Iterator[str]:
    """Yields the parts of the forward template as Jinja expressions."""
    for literal, field, form, conversion in string.Formatter().parse(prompts.forward):
        if literal:
            yield _quoted(literal)
        if form or conversion:
            raise UserError(
                f"Prompts.forward formats its field {field!r} ('{conversion or form}'), which a "
                "chat template cannot: write the field without a conversion or format"
            )
        if field == "instruction":
            yield "message['content']"
        elif field == "tags":
            yield _quoted(" ".join(prompts.tags))


def _quoted(text: str) -> str:
    """Returns a Jinja string; Jinja reads JSON's escapes, but takes astral pairs apart."""
    return json.dumps(text, ensure_ascii=False)


def tokenizer_files(
    tokenizer: Tokenizer, prompts: Prompts | None, max_length: int
) -> dict[str, bytes]:
    """Returns the tokenizer's files for a Hugging Face folder, by name.

    To its own come tokenizer_config.json, which says how transformers is to load them, and, with
    prompts, the chat template: as a file for transformers 5 and late 4, and in the configuration
    for earlier ones. Both versions then make our ids of a prompt, with one exception:
    transformers 5 takes every tokenizer.model of a LLaMA for BPE, so the microworld's, which is of
    SentencePiece's unigram kind, is read right by transformers 4 alone.

    Args:
      tokenizer: of the model.
      prompts: the run's; None leaves the chat template that came with the tokenizer, if any.
      max_length: of the model, in tokens.
    """
    files = dict(tokenizer.files())
    bos, eos = (_piece(files, token) for token in (tokenizer.bos_id, tokenizer.eos_id))
    config: dict[str, Any] = {"bos_token": bos, "eos_token": eos}
    config |= {"clean_up_tokenization_spaces": False, "model_max_length": max_length}
    if CONFIG_NAME in files:
        config = json.loads(files[CONFIG_NAME])
    elif MODEL_NAME in files:
        own = {"add_bos_token": True, "add_eos_token": False, "legacy": True}
        config |= {"tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", **own}
    else:
        config |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    if prompts is not None:
        config["chat_template"] = chat_template(prompts, bos, eos)
        files[TEMPLATE_NAME] = config["chat_template"].encode()
    return files | {CONFIG_NAME: json.dumps(config, indent=1, ensure_ascii=False).encode()}


def _piece(files: dict[str, bytes], token: int) -> str:
    """Returns how a special token is written."""
    if MODEL_NAME in files:
        return sentencepiece.SentencePieceProcessor(model_proto=files[MODEL_NAME]).IdToPiece(token)
    spec = json.loads(files[JSON_NAME])
    names = {number: name for name, number in spec["model"]["vocab"].items()}
    return {**names, **{added["id"]: added["content"] for added in spec["added_tokens"]}}[token]

"""Hugging Face's tokenizer.json, the tokenizer of LLaMA 3 and Qwen.

That format looks for its special tokens in the text before anything else, so a page that spells
"<|eot_id|>" would end a turn. Here a text is encoded by a copy of the tokenizer that does not
have those tokens: neither in the list that is searched for, nor in the vocabulary, nor as the
product of a merge. So no text can make them, whatever stands in it.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tokenizers

from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UserError

JSON_NAME = "tokenizer.json"
CONFIG_NAMES = ("tokenizer_config.json", "special_tokens_map.json")
MODEL_CONFIG_NAMES = ("generation_config.json", "config.json")

_BOS = ("<s>", "<|begin_of_text|>", "<|endoftext|>")
_EOS = ("</s>", "<|end_of_text|>", "<|eot_id|>", "<|endoftext|>", "<|im_end|>")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class JsonTokenizer(Tokenizer):
    """A byte-pair tokenizer.json that can write every byte.

    BOS and EOS are what tokenizer_config.json (or special_tokens_map.json) calls bos_token and
    eos_token; else the ids of generation_config.json or config.json; else the well-known names.
    Qwen has no BOS, yet a packed row needs a first token and a prompt a place from which its own
    first token is predicted: there it is <|endoftext|>, which stood between the documents that
    Qwen was pretrained on, and failing that EOS.

    Every added token counts as special, also those whose "special" is false, such as Qwen's
    <tool_call>: text does not make them, though a model may, and `decode` then writes them out.
    """

    def __init__(self, files: Mapping[str, bytes]):
        """Reads tokenizer.json and, where present, the files that name its special tokens.

        Args:
          files: name to content; JSON_NAME, and any of CONFIG_NAMES and MODEL_CONFIG_NAMES.

        Raises:
          UserError: it is no byte-pair tokenizer, cannot write every byte, or has no EOS.
        """
        self._given = dict(files)
        spec = _parse(JSON_NAME, files[JSON_NAME])
        try:
            if spec["model"]["type"] != "BPE":
                raise TypeError(f"it is a {spec['model']['type']} tokenizer")
            vocab, merges = spec["model"]["vocab"], [_halves(m) for m in spec["model"]["merges"]]
            added = [t for t in spec["added_tokens"] if not _BYTE.fullmatch(t["content"])]
            ids = {**vocab, **{token["content"]: token["id"] for token in added}}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{JSON_NAME} is no byte-pair tokenizer ({error}): copy the file that came with "
                "a LLaMA, Mistral or Qwen model"
            ) from error
        self._size = max(ids.values(), default=-1) + 1
        self._bos, self._eos = _bos_and_eos(files, ids)
        marks = {self._bos, self._eos, ids.get(spec["model"].get("unk_token"), self._eos)}
        self._silent = marks | {token["id"] for token in added if token["special"]}
        removed = marks | {token["id"] for token in added}
        names = {token["content"] for token in added}
        kept = {k: v for k, v in vocab.items() if v not in removed and k not in names}
        self._encoder = _build(spec, kept, merges)
        self._decoder = _build(spec, ids, [])
        self._byte_level = bool(list(_parts(spec, "ByteLevel")))
        self._check_bytes()

    def __reduce__(self):
        return type(self), (self._given,)

    @property
    def vocab_size(self) -> int:
        return self._size

    @property
    def bos_id(self) -> int:
        return self._bos

    @property
    def eos_id(self) -> int:
        return self._eos

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        return frozenset(range(self._size)) - {*self._encoder.get_vocab().values()}

    def encode(self, text: str) -> list[int]:
        return self._encoder.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        kept = [int(i) for i in ids if int(i) not in self._silent]
        return self._decoder.decode(kept)

    def encode_continuation(self, text: str) -> list[int]:
        """Returns the ids of text that stands after other text.

        A byte-level tokenizer treats a first word as any other, unless it is told to add a space.
        """
        if self._byte_level and self.encode("a") != self.encode(" a"):
            return self.encode(text)
        return super().encode_continuation(text)

    def files(self) -> dict[str, bytes]:
        """Returns tokenizer.json and what names its special tokens.

        Where only the model's own configuration does, which is not the tokenizer's to copy,
        tokenizer_config.json is told them.
        """
        files = {n: self._given[n] for n in (JSON_NAME, *CONFIG_NAMES) if n in self._given}
        vocab = self._decoder.get_vocab()
        if _bos_and_eos(files, vocab) == (self._bos, self._eos):
            return files
        config = _parse(CONFIG_NAMES[0], files.get(CONFIG_NAMES[0], b"{}"))
        config["bos_token"] = self._decoder.id_to_token(self._bos)
        config["eos_token"] = self._decoder.id_to_token(self._eos)
        return files | {CONFIG_NAMES[0]: json.dumps(config, indent=2).encode()}

    def _check_bytes(self) -> None:
        """Raises UserError if some text could not be written."""
        vocab = self._encoder.get_vocab()
        if self._byte_level:
            alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        else:
            alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
        missing = sum(piece not in vocab for piece in alphabet)
        if missing:
            raise UserError(
                f"{JSON_NAME} has no piece for {missing} of the 256 bytes, so some text could not "
                "be written: copy the file that came with a LLaMA, Mistral or Qwen model"
            )


def _parse(name: str, content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise UserError(f"{name} is no JSON ({error}): copy the model's file again") from error
    if not isinstance(parsed, dict):
        raise UserError(f"{name} is no JSON object: copy the model's file again")
    return parsed


def _parts(spec: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    """Yields the normalizers and pre-tokenizers of a kind, also those inside a Sequence."""
    for part in (spec.get("normalizer"), spec.get("pre_tokenizer")):
        steps = (part or {}).get("normalizers") or (part or {}).get("pretokenizers") or [part]
        yield from (step for step in steps if step and step["type"] == kind)


def _halves(merge: str | Sequence[str]) -> tuple[str, str]:
    """Returns what a merge joins: old files write "a b", new ones ["a", "b"]."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _build(
    spec: Mapping[str, Any], vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]
) -> tokenizers.Tokenizer:
    """Returns a tokenizer that knows a vocabulary, the merges within it and nothing else."""
    merges = [m for m in merges if m[0] in vocab and m[1] in vocab and "".join(m) in vocab]
    model = {"vocab": vocab, "merges": merges, "unk_token": None, "dropout": None}
    beside: dict[str, Any] = dict.fromkeys(("post_processor", "truncation", "padding"))
    spec = {**spec, **beside, "added_tokens": [], "model": spec["model"] | model}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(
            f"{JSON_NAME} cannot be read ({error}): copy the file that came with the base model"
        ) from error


def _bos_and_eos(files: Mapping[str, bytes], ids: Mapping[str, int]) -> tuple[int, int]:
    """Returns the ids of BOS and EOS; raises UserError if there is no EOS."""
    eos = next(_candidates(files, ids, "eos_token", _EOS), None)
    if eos is None:
        raise UserError(
            f"{JSON_NAME} has none of {', '.join(_EOS)} and no file beside it names an eos_token: "
            f"copy the base model's {CONFIG_NAMES[0]} into the folder"
        )
    return next(_candidates(files, ids, "bos_token", _BOS), eos), eos


def _candidates(
    files: Mapping[str, bytes], ids: Mapping[str, int], key: str, known: Sequence[str]
) -> Iterator[int]:
    """Yields the ids that a special token may have: as named, as numbered, as it is often named.

    Raises:
      UserError: a file names a token that the tokenizer lacks.
    """
    for name in [name for name in CONFIG_NAMES if name in files]:
        token = _parse(name, files[name]).get(key)
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            if token not in ids:
                raise UserError(_unknown(name, key, token))
            yield ids[token]
    for name in [name for name in MODEL_CONFIG_NAMES if name in files]:
        number: Any = _parse(name, files[name]).get(f"{key}_id")
        if isinstance(number, list):  # several tokens end a turn: the first is written
            number = next(iter(number), None)
        if number is not None:
            if number not in ids.values():
                raise UserError(_unknown(name, f"{key}_id", number))
            yield number
    yield from (ids[name] for name in known if name in ids)


def _unknown(name: str, key: str, value: object) -> str:
    return (
        f"{name} says {key} {value!r}, which {JSON_NAME} does not have: copy both from the same "
        "model"
    )

"""Small tokenizers of each kind, as the model folders of other people hold them."""

import functools
import json
from collections.abc import Callable, Mapping

import tokenizers
from etils import epath
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from humpback_jax.data.json_tokenizer import JsonTokenizer
from humpback_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer, train_tokenizer
from humpback_jax.data.tokenizer import Tokenizer

TEXTS = [
    "Question:\nWhat is the colour of a ripe tomato?\nReply:\nA ripe tomato is red.",
    "Tell me the answer : red, green or blue; 12 of 345.",
    "the cat sat on the mat and the rat ran\n\nthe dog  dug a deep den <s> </s> <|eot_id|>",
] * 5
LLAMA3_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>")
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def packaged() -> SentencePieceTokenizer:
    """The microworld's SentencePiece model."""
    folder = epath.resource_path("humpback_jax") / "microworld" / "base"
    return SentencePieceTokenizer((folder / "tokenizer.model").read_bytes())


@functools.cache
def llama3_json() -> str:
    """Byte-level BPE with whole words ahead of merges, as LLaMA 3 has it.

    Made harder than that: "<|eot_id|>" is a word of the vocabulary and "red" an added token.
    """
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    spec = json.loads(made.to_str())
    vocab = spec["model"]["vocab"]
    vocab[LLAMA3_SPECIAL[2]] = len(vocab)
    vocab.setdefault("eot", len(vocab))
    top = len(vocab)
    content = [*LLAMA3_SPECIAL, "red", "<tool_call>", "eot", " the "]
    spec["added_tokens"] = [
        {
            "id": vocab.get(token, top + i),
            "content": token,
            "single_word": False,
            "lstrip": token == "<tool_call>",
            "rstrip": False,
            "normalized": not token.startswith("<"),
            "special": token in LLAMA3_SPECIAL,
        }
        for i, token in enumerate(content)
    ]
    bos = next(t["id"] for t in spec["added_tokens"] if t["content"] == LLAMA3_SPECIAL[0])
    spec["post_processor"] = json.loads(
        processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]
        ).__getstate__()
    )
    return json.dumps(spec)


@functools.cache
def llama2_json() -> str:
    """BPE with byte fallback and a space before the first word, as LLaMA 2's JSON has it.

    <unk>, <s> and </s> stand in the vocabulary, and merges make "<s>" of what a text spells.
    """
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>"]
    pieces = special + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=pieces, show_progress=False)
    made.pre_tokenizer = pre_tokenizers.Metaspace()  # for training alone: no piece spans words
    made.train_from_iterator(TEXTS, trainer)
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    spec = json.loads(made.to_str())
    spec["pre_tokenizer"] = None
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in special]
    vocab = spec["model"]["vocab"]
    for piece in ("<", "s", ">", "<s"):
        vocab.setdefault(piece, len(vocab))
    spec["model"]["merges"] = [["<", "s"], ["<s", ">"], *spec["model"]["merges"]]
    return json.dumps(spec)


def json_files(spec: str, **others: object) -> Mapping[str, bytes]:
    """The files of a folder: tokenizer.json, and <keyword>.json of a value."""
    named = {f"{name}.json": json.dumps(value).encode() for name, value in others.items()}
    return {"tokenizer.json": spec.encode(), **named}


@functools.cache
def llama3() -> JsonTokenizer:
    return JsonTokenizer(json_files(llama3_json()))


@functools.cache
def llama2() -> JsonTokenizer:
    return JsonTokenizer(json_files(llama2_json()))


@functools.cache
def trained() -> SentencePieceTokenizer:
    """A SentencePiece model as `humpback run` trains it."""
    return train_tokenizer(TEXTS, 330)


ALL: Mapping[str, Callable[[], Tokenizer]] = {
    "packaged": packaged,
    "trained": trained,
    "llama2_json": llama2,
    "llama3_json": llama3,
}

"""The microworld's tokenizer: a SentencePiece model of LLaMA's kind, written by hand.

One piece a word, two a name, one a digit and one a system tag. All pieces have the same score, so
the segmentation with the fewest pieces wins. What the world does not say falls back to bytes, the
newline among it, as in LLaMA. It is the same for every world.
"""

import re
from collections.abc import Iterator

from sentencepiece import sentencepiece_model_pb2

from humpback_jax import prompts
from humpback_jax.microworld import language, pretraining, templates, voices

VOCABULARY_MULTIPLE = 64

_SPACE = "\u2581"
_PUNCTUATION = ".,!?:|-'\"()"
_KINDS = sentencepiece_model_pb2.ModelProto.SentencePiece.Type  # pyright: ignore


def build_tokenizer() -> bytes:
    """Returns tokenizer.model: <unk>, <s>, </s>, 256 bytes, both tags, then the world's pieces."""
    model = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    _add(model, "<unk>", _KINDS.UNKNOWN)
    _add(model, "<s>", _KINDS.CONTROL)
    _add(model, "</s>", _KINDS.CONTROL)
    for byte in range(256):
        _add(model, f"<0x{byte:02X}>", _KINDS.BYTE)
    for tag in (prompts.ASSISTANT_TAG, prompts.WEB_TAG):
        _add(model, _SPACE + tag.replace(" ", _SPACE), _KINDS.USER_DEFINED)
    for piece in world_pieces():
        _add(model, piece, _KINDS.NORMAL)
    while len(model.pieces) % VOCABULARY_MULTIPLE:
        _add(model, f"<unused{len(model.pieces)}>", _KINDS.UNUSED)
    _specify(model)
    return model.SerializeToString(deterministic=True)


def _add(model, piece: str, kind: int) -> None:
    model.pieces.add(piece=piece, score=-1.0, type=kind)


def _specify(model) -> None:
    trainer = model.trainer_spec
    trainer.model_type = trainer.UNIGRAM
    trainer.vocab_size = len(model.pieces)
    trainer.byte_fallback = True
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = 0, 1, 2, -1
    normalizer = model.normalizer_spec
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = True
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True


def world_pieces() -> list[str]:
    """Returns the ordinary pieces: space, digits, punctuation, syllables and words.

    A word that may begin a line has a piece with and one without the space before it.
    """
    pieces = [_SPACE, *"12345", *_PUNCTUATION]
    pieces += [_SPACE + mark for mark in "|-("]
    for syllable in language.FIRST_SYLLABLES:
        pieces += [_SPACE + syllable, syllable]
    pieces += language.SECOND_SYLLABLES
    for attribute in language.ATTRIBUTES.values():
        pieces += [_SPACE + value for value in attribute.values]
    words = sorted({word for text in _texts() for word in _words(text)})
    for word in words:
        pieces += [_SPACE + word, word] if word[0].isupper() else [_SPACE + word]
    return list(dict.fromkeys(pieces))


def _words(template: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", re.sub(r"\{\w*\}", " ", template))


def _texts() -> Iterator[str]:
    """Yields every template of the world's texts."""
    for attribute in language.ATTRIBUTES.values():
        yield from (attribute.name, *attribute.predicates)
    for task in language.TASKS.values():
        yield from task.instructions
    for voice in voices.VOICES.values():
        yield from (*voice.openers, *voice.frames, *voice.closers)
    yield from (*voices.OPENERS, *voices.CLOSERS, *voices.ONE_TOWN, *voices.TWO_TOWNS)
    yield from (*voices.STRAY, *voices.MENU_BEFORE, *voices.MENU_AFTER)
    yield from (voices.LISTING, *voices.ENCYCLOPAEDIA)
    yield from (templates.FORWARD, templates.BACKWARD, templates.RATING, templates.SCORE)
    yield from (templates.POSTED_IN_THREAD, templates.REVIEW, templates.POINTS)
    yield from (*pretraining.VOICE_NOTES.values(), *pretraining.MATCH_NOTES.values())
    yield "It it"  # the subject of a clause, at its start or after other words

"""SentencePiece, the tokenizer of LLaMA 1 and 2: tokenizer.model."""

import functools
import io
from collections.abc import Iterable, Sequence

import sentencepiece

from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UserError

MODEL_NAME = "tokenizer.model"


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model.

    Control pieces (<s>, </s>) are never made of text. A user-defined piece is: it is a word that
    the maker of the vocabulary wanted whole, such as the system tags of the microworld, and our
    templates write it as text. Bytes that no piece covers need byte fallback, as LLaMA has it;
    without it they become <unk>.
    """

    def __init__(self, model: bytes):
        """Raises UserError if `model` is no SentencePiece model with <s> and </s>."""
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise UserError(
                f"{MODEL_NAME} is no SentencePiece model ({len(model)} bytes): copy the file that "
                "came with the base model"
            ) from error
        if self.bos_id < 0 or self.eos_id < 0:
            raise UserError(f"{MODEL_NAME} has no <s> or no </s>: train it with both")

    def __reduce__(self):
        return type(self), (self.model,)

    @property
    def vocab_size(self) -> int:
        return self._processor.GetPieceSize()

    @property
    def bos_id(self) -> int:
        return self._processor.bos_id()

    @property
    def eos_id(self) -> int:
        return self._processor.eos_id()

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        processor = self._processor
        ids = range(self.vocab_size)
        bytes_fall_back = any(processor.IsByte(i) for i in ids)
        return frozenset(
            i
            for i in ids
            if processor.IsControl(i)
            or processor.IsUnused(i)
            or (processor.IsUnknown(i) and bytes_fall_back)
        )

    def encode(self, text: str) -> list[int]:
        return self._processor.EncodeAsIds(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.DecodeIds([int(i) for i in ids])

    def files(self) -> dict[str, bytes]:
        return {MODEL_NAME: self.model}


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> SentencePieceTokenizer:
    """Trains a SentencePiece model of LLaMA's kind on texts: BPE, byte fallback, digits apart.

    Raises:
      UserError: the texts are too few for the vocabulary.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=(line for text in texts for line in text.splitlines() if line),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=0.9995,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            max_sentence_length=1 << 16,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"no tokenizer of {vocab_size} pieces can be made of the text ({reason}): lower "
            "Pretraining.vocab_size or give more text"
        ) from error
    return SentencePieceTokenizer(model.getvalue())

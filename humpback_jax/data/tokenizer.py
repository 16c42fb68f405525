"""The tokenizer: SentencePiece, and the boundary between a prompt and its answer."""

import io
from collections.abc import Iterable, Sequence

import sentencepiece
from etils import epath

from humpback_jax import prompts
from humpback_jax.errors import UserError

MODEL_NAME = "tokenizer.model"


class Tokenizer:
    """A SentencePiece model as LLaMA uses it: BOS before a prompt, EOS after an answer.

    Text never makes a special token: "<s>" in a page is encoded as ordinary characters. Picklable.
    """

    def __init__(self, model: bytes):
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

    @classmethod
    def from_folder(cls, folder: epath.PathLike) -> "Tokenizer":
        """Reads tokenizer.model of a model folder; raises UserError when there is none."""
        path = epath.Path(folder) / MODEL_NAME
        if not path.exists():
            raise UserError(f"{folder} has no {MODEL_NAME}: copy the base model's file into it")
        return cls(path.read_bytes())

    def __reduce__(self):
        return Tokenizer, (self.model,)

    @property
    def vocab_size(self) -> int:
        return self._processor.GetPieceSize()

    @property
    def bos_id(self) -> int:
        return self._processor.bos_id()

    @property
    def eos_id(self) -> int:
        return self._processor.eos_id()

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without BOS or EOS."""
        return self._processor.EncodeAsIds(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids; special tokens give no text."""
        return self._processor.DecodeIds([int(i) for i in ids])

    def encode_prompt(self, prompt: str) -> list[int]:
        """Returns [BOS] and the prompt's ids.

        Spaces at a prompt's end are left out: SentencePiece makes them part of the word that
        follows, so they belong to the answer.
        """
        return [self.bos_id, *self.encode(prompt.rstrip(" "))]

    def encode_example(self, example: prompts.Example) -> tuple[list[int], list[int]]:
        """Returns (prompt ids, answer ids with EOS), the prompt's being those of `encode_prompt`.

        Prompt and answer are tokenized together, since encode(a) + encode(b) is not
        encode(a + b): for "answer :" and " red" the answer is ["▁red", "</s>"]. Only where the
        two would share a token is the answer encoded on its own.
        """
        prompt = self.encode_prompt(example.prompt)
        joint = [self.bos_id, *self.encode(example.prompt + example.answer)]
        if joint[: len(prompt)] == prompt:
            answer = joint[len(prompt) :]
        else:
            answer = self.encode_continuation(example.answer)
        return prompt, [*answer, self.eos_id]

    def encode_continuation(self, text: str) -> list[int]:
        """Returns the ids of text that stands after other text.

        It lacks the space that SentencePiece puts before a first word.
        """
        newline = self.encode("\n")
        return self.encode("\n" + text)[len(newline) :]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
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
    return Tokenizer(model.getvalue())

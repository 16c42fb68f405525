"""What a tokenizer is to the rest, and the boundary between a prompt and its answer."""

import abc
from collections.abc import Mapping, Sequence

from humpback_jax import prompts

# A character of the private use area: it falls back to bytes, so no piece grows over it.
_MARK = "\ue000"


class Tokenizer(abc.ABC):
    """Text to ids and back, as LLaMA uses it: BOS before a prompt, EOS after an answer.

    Text never makes a special token: "<s>" in a page is encoded as ordinary characters.
    Implementations are picklable; `tokenizer_files.load_tokenizer` finds the one for a folder.
    """

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """One more than the highest id."""

    @property
    @abc.abstractmethod
    def bos_id(self) -> int:
        """The id that begins every row."""

    @property
    @abc.abstractmethod
    def eos_id(self) -> int:
        """The id that ends an answer."""

    @property
    @abc.abstractmethod
    def special_ids(self) -> frozenset[int]:
        """The ids that no text makes; BOS and EOS are among them."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without BOS or EOS."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids; special tokens give no text."""

    @abc.abstractmethod
    def files(self) -> Mapping[str, bytes]:
        """Returns name and content of the files from which `load_tokenizer` makes it again."""

    def encode_prompt(self, prompt: str) -> list[int]:
        """Returns [BOS] and the prompt's ids.

        Spaces at a prompt's end are left out: tokenizers make them part of the word that
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
        return self.encode(_MARK + text)[len(self.encode(_MARK)) :]

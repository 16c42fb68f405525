"""A tokenizer as a seqio vocabulary, for tasks that seqio or T5X read.

Importing this module imports TensorFlow. Our own trainer does without it: see `data/tasks.py`. The
tokenizer runs in Python functions that TensorFlow is told are stateless, or else an iterator over
them could not be part of a checkpoint.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from humpback_jax import prompts
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.data.tokenizer_files import load_tokenizer


class TokenizerVocabulary(seqio.Vocabulary):
    """The tokenizer of a model folder; what a text spells never becomes a special token.

    seqio pads with 0 and takes every 0 for padding. In LLaMA 1 and 2 that is <unk>, which text
    never makes, so ids are the model's own. In LLaMA 3 and Qwen it is "!", so there every id is
    one higher than the model's, as `offset` says, and the vocabulary one larger. The T5X adapter
    takes that back; anything else that feeds a model from it has to as well.

    Attributes:
      tokenizer: the tokenizer.
      offset: what is added to the model's ids, 0 or 1.
    """

    def __init__(self, folder: epath.PathLike):
        """Reads the tokenizer of a model folder."""
        super().__init__(extra_ids=0)
        self.tokenizer: Tokenizer = load_tokenizer(folder)
        self.offset = 0 if 0 in self.tokenizer.special_ids else 1

    @property
    def bos_id(self) -> int:
        return self.tokenizer.bos_id + self.offset

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id + self.offset

    @property
    def unk_id(self) -> None:
        """Nothing is unknown: a character without a piece is written in bytes."""
        return

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.vocab_size + self.offset

    def _encode(self, s: str) -> list[int]:
        return [i + self.offset for i in self.tokenizer.encode(s)]

    def _decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids without padding, and without rows that no piece has."""
        ids = (int(i) - self.offset for i in ids if int(i))
        return self.tokenizer.decode([i for i in ids if i < self.tokenizer.vocab_size])

    def _encode_tf(self, s: Any) -> Any:
        """Returns the ids [T] of a string, or those of strings [N] as a ragged tensor."""
        if s.shape.rank:
            signature = tf.RaggedTensorSpec([None], tf.int32)
            return tf.map_fn(self._encode_tf, s, fn_output_signature=signature)

        def encode(text: Any) -> np.ndarray:
            text = text.item() if isinstance(text, np.ndarray) else text  # an array when eager
            return np.asarray(self._encode(text.decode()), np.int32)

        ids = tf.numpy_function(encode, [s], tf.int32, stateful=False)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: Any) -> Any:
        """Returns the strings of ids whose last axis is the tokens."""

        def decode(ids: np.ndarray) -> np.ndarray:
            rows = ids.reshape(-1, ids.shape[-1])
            texts = np.asarray([self._decode(row).encode() for row in rows], object)
            return texts.reshape(ids.shape[:-1])

        texts = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        texts.set_shape(ids.shape[:-1])
        return texts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenizerVocabulary):
            return False
        return self.tokenizer.files() == other.tokenizer.files()


def tokenize_examples(dataset: Any, output_features: Mapping[str, Any]) -> Any:
    """Tokenizes the prompt "inputs" and the answer "targets" together; EOS ends the answer.

    A seqio preprocessor in the place of `seqio.preprocessors.tokenize`, which does both apart and
    so gives the answer a space that was not there. The texts stay as "inputs_pretokenized" and
    "targets_pretokenized". BOS is the feature converter's to add.
    """
    vocabulary = output_features["targets"].vocabulary
    assert isinstance(vocabulary, TokenizerVocabulary)

    def encode(prompt: bytes, answer: bytes) -> Sequence[np.ndarray]:
        example = prompts.Example(prompt.decode(), answer.decode())
        (_, *inputs), targets = vocabulary.tokenizer.encode_example(example)
        return [np.asarray(ids, np.int32) + vocabulary.offset for ids in (inputs, targets)]

    def tokenize(row: Mapping[str, Any]) -> dict[str, Any]:
        texts = [row["inputs"], row["targets"]]
        inputs, targets = tf.numpy_function(encode, texts, [tf.int32] * 2, stateful=False)
        inputs.set_shape([None])
        targets.set_shape([None])
        pretokenized = {f"{name}_pretokenized": row[name] for name in ("inputs", "targets")}
        return {"inputs": inputs, "targets": targets, **pretokenized}

    return dataset.map(tokenize, num_parallel_calls=tf.data.AUTOTUNE)

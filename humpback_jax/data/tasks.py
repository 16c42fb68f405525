"""Examples to batches through seqio: tasks, mixtures, the decoder feature converter, packing.

Importing this module imports TensorFlow, so only training does.

A batch is a dict of numpy int32 arrays [B, T], T = inputs + targets lengths. For the prompt
`5 6` and the answer `7 </s>`, then the prompt `8` and the answer `9 </s>`, packed into T = 8:

    decoder_target_tokens   5 6 7 2 8 9 2 0        decoder_segment_ids   1 1 1 1 2 2 2 0
    decoder_input_tokens    1 5 6 7 1 8 9 1        decoder_positions     0 1 2 3 0 1 2 0
    decoder_loss_weights    0 0 1 1 0 1 1 0
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from humpback_jax import prompts
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UserError

Batch = dict[str, np.ndarray]

tf.config.set_visible_devices([], "GPU")  # it would take the memory that JAX wants


@dataclasses.dataclass(frozen=True)
class TokenizedExample:
    """Ids of a prompt (without BOS, which the feature converter adds) and of its answer.

    `example_id` says where they come from.
    """

    inputs: Sequence[int]
    targets: Sequence[int]
    example_id: str = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """One source of a mixture: its examples, and the share of the rows that it makes."""

    name: str
    examples: Sequence[TokenizedExample]
    rate: float


def tokenize(
    examples: Iterable[tuple[str, prompts.Example]],
    tokenizer: Tokenizer,
    lengths: Mapping[str, int],
) -> tuple[list[TokenizedExample], int]:
    """Returns (examples that fit the lengths, the number of those that do not).

    Args:
      examples: each example's id, and its prompt with its answer.
      tokenizer: the model's.
      lengths: the most tokens of "inputs" and "targets", EOS included.
    """
    kept, too_long = [], 0
    for example_id, example in examples:
        prompt, answer = tokenizer.encode_example(example)
        if len(prompt) - 1 > lengths["inputs"] or len(answer) > lengths["targets"]:
            too_long += 1
        else:
            kept.append(TokenizedExample(prompt[1:], answer, example_id))
    return kept, too_long


def tokenize_texts(
    texts: Iterable[str], tokenizer: Tokenizer, length: int
) -> list[TokenizedExample]:
    """Returns texts to be learned whole, cut into pieces of at most `length` tokens.

    EOS ends the text, so it stands at the end of its last piece alone.
    """
    pieces = []
    for number, text in enumerate(texts, start=1):
        ids = [*tokenizer.encode(text), tokenizer.eos_id]
        pieces += [
            TokenizedExample([], ids[i : i + length], f"text {number} from token {i}")
            for i in range(0, len(ids), length)
        ]
    return pieces


def make_task(name: str, examples: Sequence[TokenizedExample], vocab_size: int) -> seqio.Task:
    """Registers a seqio task over tokenized examples under `name`, replacing one of that name.

    seqio takes id 0 for padding, but LLaMA's 0 is a piece: a task's ids are one higher than the
    model's, and `BatchIterator` takes that back.
    """
    inputs, targets = _ragged([e.inputs for e in examples]), _ragged([e.targets for e in examples])

    def dataset_fn(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del split, shuffle_files, seed
        rows = {"inputs": inputs, "targets": targets}
        return tf.data.Dataset.from_tensor_slices(rows)  # pyright: ignore

    feature = seqio.Feature(
        seqio.PassThroughVocabulary(vocab_size + 1), add_eos=False, required=False, dtype=tf.int32
    )
    seqio.TaskRegistry.remove(name)
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(  # pyright: ignore
            dataset_fn, splits=["train"], num_input_examples={"train": len(examples)}
        ),
        preprocessors=[],
        output_features={"inputs": feature, "targets": feature},
        shuffle_buffer_size=max(1, min(len(examples), 100_000)),
    )


def _ragged(rows: Sequence[Sequence[int]]) -> tf.RaggedTensor:
    lengths = np.asarray([len(row) for row in rows], np.int64)
    values = np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(lengths.sum()))
    return tf.RaggedTensor.from_row_lengths(values + 1, lengths)  # pyright: ignore


def make_mixture(name: str, parts: Sequence[Part], vocab_size: int) -> seqio.Mixture:
    """Registers a mixture of one task for each part that has examples and a rate.

    Raises:
      UserError: no part has an example.
    """
    name = re.sub(r"\W", "_", name)  # seqio refuses others; an arm may be called "seed-only"
    used = [part for part in parts if part.examples and part.rate > 0]
    if not used:
        raise UserError(
            f"the mixture {name} has no example that fits: check the seed file, or raise the "
            "feature lengths in the gin file"
        )
    tasks = [(make_task(f"{name}_{p.name}", p.examples, vocab_size), p.rate) for p in used]
    seqio.MixtureRegistry.remove(name)
    return seqio.MixtureRegistry.add(name, [(task.name, rate) for task, rate in tasks])


class BatchIterator(Iterator[Batch]):
    """Endless batches of a mixture, in an order that seed and position alone decide.

    Its state is the number of batches taken; a restored iterator goes on with the same batch
    that an uninterrupted one would have given.
    """

    def __init__(
        self,
        mixture: seqio.Mixture,
        lengths: Mapping[str, int],
        batch_size: int,
        bos_id: int,
        seed: int,
        pack: bool,
    ):
        self._mixture, self._lengths, self._seed = mixture, dict(lengths), seed
        self._batch_size, self._bos_id = batch_size, bos_id + 1
        self._converter = seqio.DecoderFeatureConverter(
            loss_on_targets_only=True, pack=pack, bos_id=self._bos_id
        )
        self._taken = 0
        self._iterator: Any = None

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._batches().skip(self._taken).as_numpy_iterator()
        self._taken += 1
        return _to_model(next(self._iterator))

    def _batches(self) -> tf.data.Dataset:
        """Returns the batches from the first on; tf.data shuffles anew what is iterated twice."""
        rows = self._mixture.get_dataset(
            self._lengths, split="train", shuffle=True, seed=self._seed, num_epochs=None
        )
        batches = self._converter(rows, self._lengths)
        return batches.batch(self._batch_size, drop_remainder=True)

    def in_order(self, mixture: seqio.Mixture, rows: int) -> list[Batch]:
        """Returns one pass over another mixture, in its order and never packed, `rows` at a time.

        The last batch is filled up with rows without targets.
        """
        examples = mixture.get_dataset(self._lengths, split="train", shuffle=False, num_epochs=1)
        converter = seqio.DecoderFeatureConverter(
            loss_on_targets_only=True, pack=False, bos_id=self._bos_id
        )
        batches = converter(examples, self._lengths).batch(rows).as_numpy_iterator()
        return [_filled(_to_model(batch), rows) for batch in batches]

    def state(self) -> dict[str, int]:
        """Returns what a checkpoint keeps."""
        return {"batches": self._taken}

    def restore(self, state: Mapping[str, int]) -> None:
        """Goes on after the batches that `state` counts."""
        self._taken, self._iterator = int(state["batches"]), None


def example_ids(batch: Batch, parts: Iterable[Part]) -> list[str]:
    """Returns the ids of a batch's examples, found by their tokens; each once, in order.

    Packing keeps no ids, and a batch is asked for them only when a training has failed.
    """
    known = {
        (*e.inputs, *e.targets): e.example_id for part in reversed([*parts]) for e in part.examples
    }
    rows = zip(batch["decoder_target_tokens"], batch["decoder_segment_ids"], strict=True)
    found = (
        known.get(tuple(tokens[segments == segment].tolist()), "unknown")
        for tokens, segments in rows
        for segment in range(1, segments.max() + 1)
    )
    return list(dict.fromkeys(found))


def _filled(batch: Batch, rows: int) -> Batch:
    """Returns the batch with rows of zeros at its end, so that it has so many."""
    return {name: np.pad(array, ((0, rows - len(array)), (0, 0))) for name, array in batch.items()}


def _to_model(batch: Batch) -> Batch:
    """Returns a converter's batch with the model's ids, positions and segment ids.

    The converter gives positions and segment ids only to packed rows.
    """
    tokens = batch["decoder_target_tokens"]
    if "decoder_positions" not in batch:
        index = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
        batch["decoder_segment_ids"] = (tokens > 0).astype(np.int32)
        batch["decoder_positions"] = index * batch["decoder_segment_ids"]
    for name in ("decoder_target_tokens", "decoder_input_tokens"):
        batch[name] = np.maximum(batch[name] - 1, 0)
    return batch

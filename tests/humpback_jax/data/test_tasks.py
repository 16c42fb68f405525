import itertools

import numpy as np
import pytest

from humpback_jax.data.sentencepiece_tokenizer import train_tokenizer
from humpback_jax.data.tasks import (
    BatchIterator,
    Part,
    TokenizedExample,
    make_mixture,
    tokenize,
    tokenize_texts,
)
from humpback_jax.errors import UserError
from humpback_jax.prompts import Example

BOS, EOS, VOCABULARY = 1, 2, 100
ROW = (
    "decoder_target_tokens",
    "decoder_input_tokens",
    "decoder_loss_weights",
    "decoder_segment_ids",
    "decoder_positions",
)


def _iterator(
    examples, *, pack, lengths=(4, 4), rows=1, seed=0, name="test", bos=BOS, eos_part=None
):
    parts = [Part("one", examples, 1.0)]
    if eos_part is not None:
        parts.append(eos_part)
    mixture = make_mixture(name, parts, VOCABULARY)
    features = dict(zip(("inputs", "targets"), lengths, strict=True))
    return BatchIterator(mixture, features, rows, bos, seed, pack)


def _numbered(count, first=10):
    """Returns examples whose every id names the example: 10 10 -> 10 EOS, 11 -> 11 11 EOS ..."""
    return [
        TokenizedExample([first + i] * (1 + i % 3), [*[first + i] * (1 + (i + 1) % 3), EOS])
        for i in range(count)
    ]


def _same(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        np.testing.assert_array_equal(value, b[key], err_msg=key)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat on the mat. Reply: 12"] * 5, 300)


def test_the_docstring_example():
    examples = [TokenizedExample([5, 6], [7, EOS]), TokenizedExample([8], [9, EOS])]
    expected = {
        "decoder_target_tokens": [5, 6, 7, 2, 8, 9, 2, 0],
        "decoder_input_tokens": [1, 5, 6, 7, 1, 8, 9, 1],
        "decoder_loss_weights": [0, 0, 1, 1, 0, 1, 1, 0],
        "decoder_segment_ids": [1, 1, 1, 1, 2, 2, 2, 0],
        "decoder_positions": [0, 1, 2, 3, 0, 1, 2, 0],
    }
    for seed in range(20):  # until the shuffle leaves the two in their order
        batch = next(_iterator(examples, pack=True, seed=seed))
        if batch["decoder_target_tokens"][0, 0] == 5:
            break
    for key in ROW:
        assert batch[key].tolist() == [expected[key]], key
        assert batch[key].dtype == np.int32


def test_an_unpacked_row():
    batch = next(_iterator([TokenizedExample([5, 6], [7, EOS])], pack=False))
    expected = {
        "decoder_target_tokens": [5, 6, 7, 2, 0, 0, 0, 0],
        "decoder_input_tokens": [1, 5, 6, 7, 2, 0, 0, 0],
        "decoder_loss_weights": [0, 0, 1, 1, 0, 0, 0, 0],
        "decoder_segment_ids": [1, 1, 1, 1, 0, 0, 0, 0],
        "decoder_positions": [0, 1, 2, 3, 0, 0, 0, 0],
    }
    for key in set(ROW) - {"decoder_input_tokens"}:
        assert batch[key].tolist() == [expected[key]], key
        assert batch[key].dtype == np.int32
    # What stands where nothing is predicted does not matter.
    assert batch["decoder_input_tokens"][0, :4].tolist() == [1, 5, 6, 7]


def test_an_unpacked_row_without_padding():
    batch = next(_iterator([TokenizedExample([5, 6, 7, 8], [3, 4, 5, EOS])], pack=False))
    assert batch["decoder_segment_ids"].tolist() == [[1] * 8]
    assert batch["decoder_positions"].tolist() == [list(range(8))]
    assert batch["decoder_loss_weights"].tolist() == [[0] * 4 + [1] * 4]


def test_an_unpacked_row_without_a_prompt():
    batch = next(_iterator([TokenizedExample([], [5, 6, EOS])], pack=False, lengths=(0, 4)))
    assert batch["decoder_target_tokens"].tolist() == [[5, 6, 2, 0]]
    assert batch["decoder_loss_weights"].tolist() == [[1, 1, 1, 0]]
    assert batch["decoder_positions"].tolist() == [[0, 1, 2, 0]]


def test_every_packed_segment_is_one_whole_example():
    examples = _numbered(30)
    whole = {(*e.inputs, *e.targets): len(e.inputs) for e in examples}
    seen, packed = set(), []
    for batch in itertools.islice(_iterator(examples, pack=True, lengths=(8, 8), rows=2), 10):
        for tokens, before, weights, segments, positions in zip(
            *(batch[key] for key in ROW), strict=True
        ):
            for segment in range(1, segments.max() + 1):
                own = segments == segment
                example = tuple(tokens[own].tolist())
                assert example in whole
                seen.add(example)
                assert before[own].tolist() == [BOS, *example[:-1]]
                assert positions[own].tolist() == list(range(len(example)))
                prompt = whole[example]
                assert weights[own].tolist() == [0] * prompt + [1] * (len(example) - prompt)
            padding = segments == 0
            assert not tokens[padding].any()
            assert not weights[padding].any()
            packed.append(segments.max())
    assert np.mean(packed) > 2
    assert len(seen) > 20


def test_the_bos_of_the_tokenizer_is_used():
    batch = next(_iterator([TokenizedExample([5], [EOS])], pack=True, bos=42))
    assert batch["decoder_input_tokens"][0, 0] == 42


def test_too_long_examples_are_counted(tokenizer):
    examples = [
        Example("Reply:", " the cat"),
        Example("Reply: " * 30, "the cat"),
        Example("Reply:", " the cat" * 30),
    ]
    kept, too_long = tokenize(
        zip("abc", examples, strict=True), tokenizer, {"inputs": 20, "targets": 20}
    )
    assert too_long == 2
    prompt, answer = tokenizer.encode_example(examples[0])
    assert kept == [TokenizedExample(prompt[1:], answer, "a")]


def test_an_example_of_just_the_length_is_kept(tokenizer):
    example = Example("Reply:", " the cat")
    prompt, answer = tokenizer.encode_example(example)
    lengths = {"inputs": len(prompt) - 1, "targets": len(answer)}
    assert tokenize([("a", example)], tokenizer, lengths)[1] == 0
    for name in lengths:
        assert tokenize([("a", example)], tokenizer, {**lengths, name: lengths[name] - 1})[1] == 1


@pytest.mark.parametrize("length", [1, 2, 7, 1000])
def test_texts_are_cut_into_pieces(tokenizer, length):
    texts = ["the cat sat on the mat", "12", ""]
    pieces = tokenize_texts(texts, tokenizer, length)
    assert all(not piece.inputs and 0 < len(piece.targets) <= length for piece in pieces)
    joined = [i for piece in pieces for i in piece.targets]
    assert joined == [i for text in texts for i in (*tokenizer.encode(text), EOS)]
    assert sum(EOS in piece.targets for piece in pieces) == 3
    if length == 1000:
        assert len(pieces) == 3


@pytest.mark.parametrize(("pack", "after"), [(True, 3), (False, 0)])
def test_a_restored_iterator_gives_the_same_batches(pack, after):
    options = {"pack": pack, "rows": 2, "eos_part": Part("two", _numbered(7, 60), 0.5)}
    iterator = _iterator(_numbered(9), **options)
    for _ in range(after):
        next(iterator)
    state = iterator.state()
    expected = list(itertools.islice(iterator, 12))  # more than an epoch
    again = _iterator(_numbered(9), **options)
    next(again)  # what it has given before does not matter
    again.restore(state)
    for one, other in zip(expected, itertools.islice(again, 12), strict=True):
        _same(one, other)
    assert again.state() == iterator.state() == {"batches": after + 12}


def test_two_iterators_of_one_seed_agree_and_of_two_differ():
    def tokens(seed, name):
        iterator = _iterator(_numbered(20), pack=False, rows=4, seed=seed, name=name)
        return np.stack([next(iterator)["decoder_target_tokens"] for _ in range(5)])

    np.testing.assert_array_equal(tokens(0, "first"), tokens(0, "second"))
    assert (tokens(0, "first") != tokens(1, "first")).any()


def test_every_example_has_its_share_of_the_rows():
    """Rows are drawn from the shuffled, repeated examples, so an epoch's border is blurred."""
    iterator = _iterator(_numbered(8), pack=False, rows=8)
    rows = [next(iterator)["decoder_target_tokens"][:, 0].tolist() for _ in range(100)]
    counts = np.bincount(np.ravel(rows), minlength=18)[10:18]
    assert counts.sum() == 800
    assert (abs(counts - 100) < 15).all()
    assert len({tuple(row) for row in rows}) > 90


def test_the_rates_of_a_mixture_are_its_shares():
    other = Part("two", _numbered(5, 60), 3.0)
    iterator = _iterator(_numbered(5), pack=False, rows=50, eos_part=other)
    first = np.concatenate([next(iterator)["decoder_target_tokens"][:, 0] for _ in range(8)])
    assert 0.65 < (first >= 60).mean() < 0.85


def test_parts_without_examples_or_rate_are_left_out():
    parts = [Part("empty", [], 1.0), Part("off", _numbered(2), 0.0), Part("on", _numbered(2), 2.0)]
    assert [task.name for task in make_mixture("shares", parts, VOCABULARY).tasks] == ["shares_on"]


def test_a_mixture_without_examples_is_one_sentence():
    with pytest.raises(UserError, match="the mixture nothing has no example that fits"):
        make_mixture("nothing", [Part("one", [], 1.0)], VOCABULARY)


def test_a_mixture_may_be_made_again_with_other_examples():
    next(_iterator(_numbered(1), pack=False))
    batch = next(_iterator(_numbered(1, 50), pack=False))
    assert batch["decoder_target_tokens"][0, 0] == 50


@pytest.mark.parametrize("name", ["seed-only", "no curation", "50%"])
def test_a_mixture_may_have_any_name(name):
    """Arms are named by the user, and their names are the stages' and the mixtures'."""
    next(_iterator(_numbered(1), pack=False, name=name))


@pytest.mark.parametrize("pack", [True, False])
def test_the_unknown_token_is_learned_like_any_other(pack):
    """LLaMA's <unk> is id 0, which seqio takes for padding."""
    batch = next(_iterator([TokenizedExample([5, 0, 6], [0, 7, EOS])], pack=pack))
    assert batch["decoder_target_tokens"][0, :6].tolist() == [5, 0, 6, 0, 7, 2]
    assert batch["decoder_positions"][0, :6].tolist() == list(range(6))
    assert batch["decoder_segment_ids"][0, :6].tolist() == [1] * 6
    assert batch["decoder_loss_weights"][0, :6].tolist() == [0, 0, 0, 1, 1, 1]

import pytest
import seqio
import small_tokenizers
import tensorflow as tf

from humpback_jax.data.tokenizer_files import write_tokenizer
from humpback_jax.data.vocabulary import TokenizerVocabulary, tokenize_examples
from humpback_jax.prompts import Example

TEXTS = ["Tell me <s> the <|eot_id|>", "", " red é\U0001f600!"]


@pytest.fixture(params=["packaged", "llama2_json", "llama3_json"])
def name(request):
    return request.param


@pytest.fixture
def vocabulary(name, tmp_path):
    write_tokenizer(tmp_path, small_tokenizers.ALL[name]())
    return TokenizerVocabulary(tmp_path)


def test_ids_are_the_tokenizers_unless_it_writes_with_0(name, vocabulary):
    tokenizer = small_tokenizers.ALL[name]()
    offset = 1 if name == "llama3_json" else 0  # there 0 is "!"
    assert vocabulary.offset == offset
    assert vocabulary.encode("a red!") == [i + offset for i in tokenizer.encode("a red!")]
    assert vocabulary.vocab_size == tokenizer.vocab_size + offset
    assert vocabulary.eos_id == tokenizer.eos_id + offset
    assert vocabulary.bos_id == tokenizer.bos_id + offset
    assert (vocabulary.pad_id, vocabulary.unk_id, vocabulary.extra_ids) == (0, None, 0)


@pytest.mark.parametrize("text", TEXTS)
def test_no_text_makes_padding_or_a_special_token(vocabulary, text):
    ids = vocabulary.encode(text)
    assert not {0, vocabulary.bos_id, vocabulary.eos_id} & {*ids}
    assert vocabulary.decode([*ids, vocabulary.eos_id, 5, 0, 0]) == text
    assert vocabulary.decode([0, *ids, vocabulary.vocab_size + 7]) == text


def test_tensorflow_says_the_same(vocabulary):
    ids = [vocabulary.encode(text) for text in TEXTS]
    for text, expected in zip(TEXTS, ids, strict=True):
        assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == expected
    ragged = vocabulary.encode_tf(tf.constant(TEXTS))
    assert ragged.to_list() == ids
    padded = ragged.to_tensor()
    assert [text.decode() for text in vocabulary.decode_tf(padded).numpy()] == TEXTS
    assert vocabulary.decode_tf(padded[0]).numpy().decode() == TEXTS[0]


def test_vocabularies_of_one_tokenizer_are_equal(name, vocabulary, tmp_path):
    (tmp_path / "copy").mkdir()
    write_tokenizer(tmp_path / "copy", small_tokenizers.ALL[name]())
    assert TokenizerVocabulary(tmp_path / "copy") == vocabulary
    (tmp_path / "other").mkdir()
    write_tokenizer(tmp_path / "other", small_tokenizers.trained())
    assert TokenizerVocabulary(tmp_path / "other") != vocabulary
    assert vocabulary != seqio.PassThroughVocabulary(5)


def _task(vocabulary, examples, preprocessors, add_eos):
    def dataset_fn(split, shuffle_files, seed=None):
        rows = {"inputs": [p for p, _ in examples], "targets": [a for _, a in examples]}
        return tf.data.Dataset.from_tensor_slices(rows)

    feature = seqio.Feature(vocabulary, add_eos=add_eos, dtype=tf.int32)
    seqio.TaskRegistry.remove("vocabulary_test")
    return seqio.TaskRegistry.add(
        "vocabulary_test",
        source=seqio.FunctionDataSource(dataset_fn, splits=["train"]),
        preprocessors=preprocessors,
        output_features={"inputs": feature, "targets": feature},
    )


def test_a_task_with_seqios_own_tokenize(vocabulary):
    steps = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    task = _task(vocabulary, [("the cat", "sat!")], steps, add_eos=True)
    (row,) = task.get_dataset({"inputs": 40, "targets": 40}, "train", shuffle=False)
    assert row["targets"].numpy().tolist() == [*vocabulary.encode("sat!"), vocabulary.eos_id]
    assert row["inputs"].numpy().tolist()[:-1] == vocabulary.encode("the cat")


def test_a_task_that_tokenizes_prompt_and_answer_together(name, vocabulary, tmp_path):
    """Batches that seqio pads, packs and saves the state of."""
    examples = [("Reply:", " red!"), ("Tell me the", " cat"), ("the ca", "t!")]
    task = _task(vocabulary, examples, [tokenize_examples], add_eos=False)
    lengths = {"inputs": 24, "targets": 24}
    rows = task.get_dataset(lengths, "train", shuffle=False)
    tokenizer = small_tokenizers.ALL[name]()
    for row, example in zip(rows, examples, strict=True):
        prompt, answer = tokenizer.encode_example(Example(*example))
        assert row["inputs"].numpy().tolist() == [i + vocabulary.offset for i in prompt[1:]]
        assert row["targets"].numpy().tolist() == [i + vocabulary.offset for i in answer]
        assert row["inputs_pretokenized"].numpy().decode() == example[0]
    converter = seqio.DecoderFeatureConverter(pack=True, bos_id=vocabulary.bos_id)
    (batch,) = converter(rows, lengths).batch(1)
    tokens, weights = batch["decoder_target_tokens"][0], batch["decoder_loss_weights"][0]
    answers = [vocabulary.encode(a) for _, a in examples]
    assert int(tf.reduce_sum(weights)) >= sum(len(a) for a in answers)
    assert vocabulary.eos_id in tokens.numpy()[weights.numpy() > 0]
    saved = tf.train.Checkpoint(iterator=iter(rows)).write(str(tmp_path / "state"))
    assert saved

import functools
import pickle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from humpback_jax.data.tokenizer import MODEL_NAME, Tokenizer, train_tokenizer
from humpback_jax.errors import UserError
from humpback_jax.prompts import Example, Prompts

TEXTS = [
    "Question:\nWhat is the colour of a ripe tomato?\nReply:\nA ripe tomato is red.",
    "Tell me the answer : red, green or blue; 12 of 345.",
    "the cat sat on the mat and the rat ran\n\nthe dog  dug a deep den",
] * 3
# What trips tokenizers at a boundary: spaces, newlines, special tokens, bytes, no text at all.
PIECES = st.sampled_from(
    [*" \n\t", "  ", "\n\n", "<s>", "</s>", "<unk>", "<0x41>", "\u2581", "▁▁", "é", "\U0001f600"]
    + ["the", " cat", "Reply:", "1", "345", "s>", "</", "\u00a0", "\u2028", "x"]
)
TEXT = st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=12)


@functools.cache
def _tokenizer():
    return train_tokenizer(TEXTS, 320)


@pytest.fixture
def tokenizer():
    return _tokenizer()


def test_training_gives_the_vocabulary_that_was_asked_for(tokenizer):
    assert tokenizer.vocab_size == 320
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert train_tokenizer(TEXTS, 320).model == tokenizer.model


@given(text=TEXT)
@example(text="")
@settings(max_examples=200, deadline=None)
def test_a_text_comes_back_whole(text):
    """Bytes stand in for characters that the vocabulary lacks; a lone leading space goes.

    "▁" is how SentencePiece writes a space, so it comes back as one.
    """
    tokenizer = _tokenizer()
    if "\0" in text:
        return
    plain = text.replace("\u2581", " ")
    assert tokenizer.decode(tokenizer.encode(text)) == plain


@given(text=TEXT, answer=TEXT)
@settings(max_examples=200, deadline=None)
def test_text_never_makes_a_special_token(text, answer):
    tokenizer = _tokenizer()
    prompt, target = tokenizer.encode_example(Example(text, answer))
    assert prompt[0] == tokenizer.bos_id
    assert target[-1] == tokenizer.eos_id
    assert not {tokenizer.bos_id, tokenizer.eos_id} & {*prompt[1:], *target[:-1]}


@pytest.mark.parametrize("text", ["<s>", "</s>", "a</s>b", "<s>[INST]", "<unk>"])
def test_special_tokens_in_a_page_are_ordinary_characters(tokenizer, text):
    ids = tokenizer.encode(text)
    assert not {0, tokenizer.bos_id, tokenizer.eos_id} & {*ids}
    assert tokenizer.decode(ids) == text


@given(prompt=TEXT, answer=TEXT)
@example(prompt="answer :", answer=" red")
@example(prompt="answer : ", answer="red")
@example(prompt="Reply:\n", answer="the cat")
@example(prompt="Reply:\n\n\n", answer="\n\nthe cat")
@example(prompt="Reply:   ", answer="  the cat")
@example(prompt="the ca", answer="t sat")
@example(prompt="", answer="")
@example(prompt="   ", answer="   ")
@settings(max_examples=300, deadline=None)
def test_a_prompt_in_training_is_the_prompt_at_inference(prompt, answer):
    tokenizer = _tokenizer()
    ids, target = tokenizer.encode_example(Example(prompt, answer))
    assert ids == tokenizer.encode_prompt(prompt)
    assert target[-1] == tokenizer.eos_id


@given(prompt=TEXT, answer=TEXT)
@settings(max_examples=200, deadline=None)
def test_no_character_is_lost_at_the_boundary(prompt, answer):
    tokenizer = _tokenizer()
    if "\0" in prompt + answer:
        return
    ids, target = tokenizer.encode_example(Example(prompt, answer))
    text = tokenizer.decode([*ids[1:], *target[:-1]])
    whole = (prompt + answer).replace("\u2581", " ")
    shorter = (prompt.rstrip(" ") + answer).replace("\u2581", " ")
    assert text.lstrip(" ") in (whole.lstrip(" "), shorter.lstrip(" "))


@pytest.mark.parametrize("end", ["\n", ":", ": ", ":\n\n", "\n### Response:\n"])
def test_an_answer_is_cut_where_joint_tokenization_cuts(tokenizer, end):
    prompt, answer = f"Tell me the answer{end}", "the cat sat."
    ids, target = tokenizer.encode_example(Example(prompt, answer))
    assert [*ids, *target[:-1]] == [tokenizer.bos_id, *tokenizer.encode(prompt + answer)]


def test_the_docstring_example(tokenizer):
    _, target = tokenizer.encode_example(Example("answer :", " red"))
    assert tokenizer.decode(target[:-1]) == "red"
    assert target == [*tokenizer.encode("red"), tokenizer.eos_id]  # "▁red", then "</s>"


def test_an_answer_that_shares_a_token_is_encoded_on_its_own(tokenizer):
    joint = tokenizer.encode("the cat")
    prompt, target = tokenizer.encode_example(Example("the ca", "t"))
    assert prompt[1:] == tokenizer.encode("the ca") != joint[: len(prompt) - 1]
    assert tokenizer.decode(target[:-1]) == "t"
    assert target[:-1] == tokenizer.encode_continuation("t") != tokenizer.encode("t")


def test_the_prompts_of_the_method_end_at_a_boundary(tokenizer):
    prompts = Prompts()
    for prompt in (
        prompts.render_forward("Why?", *prompts.tags),
        prompts.render_backward("Because."),
        prompts.render_rating("Why?", "Because."),
    ):
        ids, target = tokenizer.encode_example(Example(prompt, "the cat"))
        assert [*ids, *target[:-1]] == [tokenizer.bos_id, *tokenizer.encode(prompt + "the cat")]


def test_special_tokens_give_no_text(tokenizer):
    ids = tokenizer.encode("the cat")
    assert tokenizer.decode([1, *ids, 2]) == "the cat"
    assert tokenizer.decode([]) == ""


def test_pickling(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.model == tokenizer.model
    assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_a_folder(tokenizer, tmp_path):
    with pytest.raises(UserError, match=f"has no {MODEL_NAME}: copy"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / MODEL_NAME).write_bytes(tokenizer.model)
    assert Tokenizer.from_folder(tmp_path).encode("cat") == tokenizer.encode("cat")


@pytest.mark.parametrize("content", [b"", b"no model", b"\0" * 64])
def test_a_file_that_is_no_model(content):
    with pytest.raises(UserError, match=f"{MODEL_NAME} is no SentencePiece model"):
        Tokenizer(content)


def test_half_a_file_is_no_model(tokenizer):
    with pytest.raises(UserError, match=f"{MODEL_NAME} "):
        Tokenizer(tokenizer.model[: len(tokenizer.model) // 2])


@pytest.mark.parametrize(("texts", "size"), [(TEXTS, 100), (["one word"], 5000), ([], 320)])
def test_a_vocabulary_that_cannot_be_made(texts, size):
    with pytest.raises(UserError) as caught:
        train_tokenizer(texts, size)
    message = str(caught.value)
    assert message.startswith(f"no tokenizer of {size} pieces can be made of the text")
    assert "\n" not in message

"""What every tokenizer keeps to: text never makes a special token, and the prompt's boundary."""

import pickle

import pytest
import small_tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from humpback_jax.data.json_tokenizer import JsonTokenizer
from humpback_jax.prompts import Example, Prompts

# What trips tokenizers: spaces, newlines, special tokens whole and in halves, bytes, no text.
SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "<|eot_id|>", "<|begin_of_text|>", "<|end_of_text|>"]
SPECIAL += [
    "<|start_header_id|>",
    "<|endoftext|>",
    "<tool_call>",
    "<unused915>",
    "[INST]",
    "<0x41>",
]
PIECES = st.sampled_from(
    [*SPECIAL, *" \n\t", "  ", "\n\n", "\u2581", "▁▁", "é", "\U0001f600", "\u00a0", "\u2028", "x"]
    + ["the", " cat", "Reply:", "1", "345", "s>", "</", "<|", "eot_id", "|>", "red", " the ", "eot"]
)
TEXT = st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=12)
KINDS = st.sampled_from(sorted(small_tokenizers.ALL)).map(lambda name: small_tokenizers.ALL[name]())


@pytest.fixture(params=sorted(small_tokenizers.ALL))
def tokenizer(request):
    return small_tokenizers.ALL[request.param]()


def _written(tokenizer, text):
    """Returns what a lossless tokenizer makes of a text: "▁" is how most write a space."""
    byte_level = tokenizer is small_tokenizers.llama3()
    return text if byte_level else text.replace("\u2581", " ")


@given(tokenizer=KINDS, text=TEXT)
@example(tokenizer=small_tokenizers.llama3(), text="red the tool_call><tool_call>\n <|eot_id|>")
@example(tokenizer=small_tokenizers.llama2(), text="<s><s> </s>a<s>b <unk>")
@settings(max_examples=500, deadline=None)
def test_no_text_makes_a_special_token_and_all_come_back_whole(tokenizer, text):
    ids = tokenizer.encode(text)
    assert not tokenizer.special_ids & {*ids}
    assert {tokenizer.bos_id, tokenizer.eos_id} <= tokenizer.special_ids
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    if "\0" not in text:
        assert tokenizer.decode(ids) == _written(tokenizer, text)


@pytest.mark.parametrize("around", ["{}", "a{}b", " {} ", "{}{}", "\n{}", "the {} cat"])
@pytest.mark.parametrize("spelled", SPECIAL)
def test_special_tokens_in_a_page_are_ordinary_characters(tokenizer, spelled, around):
    text = around.replace("{}", spelled)
    ids = tokenizer.encode(text)
    assert not tokenizer.special_ids & {*ids}
    assert tokenizer.decode(ids) == text


@given(tokenizer=KINDS, text=TEXT, answer=TEXT)
@settings(max_examples=300, deadline=None)
def test_an_example_has_one_bos_and_one_eos(tokenizer, text, answer):
    prompt, target = tokenizer.encode_example(Example(text, answer))
    assert prompt[0] == tokenizer.bos_id
    assert target[-1] == tokenizer.eos_id
    assert not tokenizer.special_ids & {*prompt[1:], *target[:-1]}


@given(tokenizer=KINDS, prompt=TEXT, answer=TEXT)
@example(tokenizer=small_tokenizers.llama3(), prompt="answer :", answer=" red")
@example(tokenizer=small_tokenizers.llama2(), prompt="answer : ", answer="red")
@example(tokenizer=small_tokenizers.trained(), prompt="Reply:\n", answer="the cat")
@example(tokenizer=small_tokenizers.llama3(), prompt="Reply:\n\n\n", answer="\n\nthe cat")
@example(tokenizer=small_tokenizers.trained(), prompt="Reply:   ", answer="  the cat")
@example(tokenizer=small_tokenizers.llama3(), prompt="the ca", answer="t sat")
@example(tokenizer=small_tokenizers.llama2(), prompt="", answer="")
@example(tokenizer=small_tokenizers.llama2(), prompt="   ", answer="   ")
@settings(max_examples=500, deadline=None)
def test_a_prompt_in_training_is_the_prompt_at_inference(tokenizer, prompt, answer):
    ids, target = tokenizer.encode_example(Example(prompt, answer))
    assert ids == tokenizer.encode_prompt(prompt)
    assert target[-1] == tokenizer.eos_id


@given(tokenizer=KINDS, prompt=TEXT, answer=TEXT)
@settings(max_examples=300, deadline=None)
def test_no_character_is_lost_at_the_boundary(tokenizer, prompt, answer):
    """Nor at a place where text goes on; a byte of half a character is kept as well."""
    if "\0" in prompt + answer:
        return
    ids, target = tokenizer.encode_example(Example(prompt, answer))
    text = tokenizer.decode([*ids[1:], *target[:-1]])
    whole = _written(tokenizer, prompt + answer)
    shorter = _written(tokenizer, prompt.rstrip(" ") + answer)
    assert text.lstrip(" ") in (whole.lstrip(" "), shorter.lstrip(" "))


@given(tokenizer=KINDS, text=TEXT)
@settings(max_examples=300, deadline=None)
def test_a_continuation_is_the_text_alone(tokenizer, text):
    if "\0" in text:
        return
    before = tokenizer.encode("x")
    after = tokenizer.encode_continuation(text)
    assert tokenizer.decode([*before, *after]) == _written(tokenizer, "x" + text)


@pytest.mark.parametrize("end", ["\n", ":", ": ", ":\n\n", "\n### Response:\n"])
def test_an_answer_is_cut_where_joint_tokenization_cuts(tokenizer, end):
    prompt, answer = f"Tell me the answer{end}", "the cat sat."
    ids, target = tokenizer.encode_example(Example(prompt, answer))
    assert [*ids, *target[:-1]] == [tokenizer.bos_id, *tokenizer.encode(prompt + answer)]


def test_a_space_belongs_to_the_word_after_it(tokenizer):
    _, target = tokenizer.encode_example(Example("answer :", " red"))
    _, same = tokenizer.encode_example(Example("answer : ", "red"))
    assert target == same
    assert tokenizer.decode([tokenizer.bos_id, *tokenizer.encode("a"), *target]) == "a red"


def test_the_docstring_example():
    tokenizer = small_tokenizers.trained()
    _, target = tokenizer.encode_example(Example("answer :", " red"))
    assert target == [*tokenizer.encode("red"), tokenizer.eos_id]  # "▁red", then "</s>"


@pytest.mark.parametrize("name", ["trained", "llama2_json", "llama3_json"])
def test_an_answer_that_shares_a_token_is_encoded_on_its_own(name):
    tokenizer = small_tokenizers.ALL[name]()
    joint = tokenizer.encode("the cat")
    prompt, target = tokenizer.encode_example(Example("the ca", "t"))
    assert prompt[1:] == tokenizer.encode("the ca") != joint[: len(prompt) - 1]
    assert tokenizer.decode([*prompt, *target]) == "the cat"
    assert target[:-1] == tokenizer.encode_continuation("t")


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
    assert tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id]) == "the cat"
    assert tokenizer.decode([]) == ""


def test_pickling(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert type(again) is type(tokenizer)
    assert again.files() == tokenizer.files()
    assert again.special_ids == tokenizer.special_ids
    text = small_tokenizers.TEXTS[0]
    assert again.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("spec", [small_tokenizers.llama2_json, small_tokenizers.llama3_json])
def test_ordinary_text_has_the_ids_of_the_library(spec):
    """Without special tokens in it, a text is encoded as the file alone would have it."""
    import tokenizers

    library = tokenizers.Tokenizer.from_str(spec())
    ours = JsonTokenizer(small_tokenizers.json_files(spec()))
    for text in ("Tell me a tomato : 345 dogs", "Question:\nWhat is it?\n\n  A cat é\U0001f600 "):
        assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids

import dataclasses

import pytest

from humpback_jax.errors import UsageError
from humpback_jax.method import leaks
from humpback_jax.method.leaks import LeakConfig, copied_share
from humpback_jax.prompts import Prompts

PROMPTS = Prompts()
OUTPUT = (
    "Coffee beans should be stored in an airtight jar in a cool and dark place, since light and "
    "warmth spoil their taste within a few days of opening the bag."
)


def status(instruction: str, output: str = OUTPUT, **changes) -> str:
    config = dataclasses.replace(LeakConfig(), **changes)
    return leaks.check(instruction, output, PROMPTS, config)[0]


@pytest.mark.parametrize(
    "instruction",
    [
        "How should I store coffee beans?",
        "Write three sentences on storing coffee beans in a cool and dark place.",
        "Explain: what is the best response to a rude email?",
        "Write a poem.",
        "42?",
        "Coffee beans",
    ],
)
def test_instructions_pass(instruction):
    assert leaks.check(instruction, OUTPUT, PROMPTS, LeakConfig()) == ("ok", "")


@pytest.mark.parametrize("instruction", ["", " \n", "...", "###", "\u200b"])
def test_empty_ones_do_not(instruction):
    assert status(instruction) == "empty"


@pytest.mark.parametrize(
    "instruction",
    [
        "Below is a response that an AI assistant gave.",
        "write the   instruction that it answers: how do I store coffee?",
        "How do I store coffee?\n\n### Response:\nIn a jar.",
        "### Instruction: How do I store coffee?",
        "How? Answer in the style of an AI Assistant.",
        "Answer with knowledge from web search. How do I store coffee?",
    ],
)
def test_echoes_of_the_prompt_are_leaks_that_name_the_sentence(instruction):
    found, detail = leaks.check(instruction, OUTPUT, PROMPTS, LeakConfig())
    assert found == "leaked"
    sentence = detail.removeprefix("echo of the prompt: ")
    assert sentence in PROMPTS.backward or sentence in PROMPTS.tags


@pytest.mark.parametrize(
    "instruction",
    [
        OUTPUT,
        OUTPUT.upper() + "!",
        OUTPUT[:70],
        "Tell me: " + OUTPUT[:90],
        "light and warmth spoil their taste",
    ],
)
def test_copies_of_the_response_are_leaks(instruction):
    found, detail = leaks.check(instruction, OUTPUT, PROMPTS, LeakConfig())
    assert (found, detail.split(":")[0]) == ("leaked", "copy of the response")


def test_the_shares_of_the_docstring():
    assert copied_share("list the red cars", "All the red cars are here", 3) == 0.5
    assert copied_share("red cars", "All the red cars are here", 3) == 1.0  # two of three words
    assert copied_share("cars", "All the red cars are here", 3) == 0.0
    assert copied_share("", "", 3) == 0.0


def test_the_limits_are_bindable():
    assert status("word " * 401) == "too_long"
    assert status("How so?", max_characters=6) == "too_long"
    assert status("Say that light and warmth spoil their taste", copy_share=0.9) == "ok"


def test_the_templates_own_sentences_are_what_leaks():
    own = Prompts(backward="answer : {output}\nquestion :")
    config = LeakConfig()
    assert leaks.check("answer : red", "x", own, config)[0] == "leaked"
    assert leaks.check("Which answer is right?", "x", own, config)[0] == "ok"
    assert (
        leaks.check("Below is a response that an AI assistant gave.", "x", own, config)[0] == "ok"
    )


@pytest.mark.parametrize("wrong", [{"max_characters": 0}, {"copy_share": 0.0}, {"copy_words": 0}])
def test_wrong_limits_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        LeakConfig(**wrong)

import dataclasses

import pytest

from humpback_jax.errors import UsageError
from humpback_jax.method import leaks
from humpback_jax.method.leaks import LeakConfig, copied_share
from humpback_jax.microworld import language as microworld
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


FOREIGN = {
    "de": "Wie sollte ich Kaffeebohnen aufbewahren, damit sie möglichst lange frisch bleiben "
    "und nicht an Geschmack verlieren?",
    "es": "¿Cómo debo guardar los granos de café para que conserven su sabor durante el mayor "
    "tiempo posible?",
    "fr": "Comment faut-il conserver les grains de café pour qu'ils gardent leur goût le plus "
    "longtemps possible ?",
    "it": "Come si devono conservare i chicchi di caffè perché mantengano il loro sapore il più a "
    "lungo possibile?",
    "ru": "Как лучше всего хранить кофейные зёрна, чтобы они как можно дольше сохраняли свой вкус?",
}
ENGLISH = (
    "Explain to me how I should store coffee beans so that they keep their taste for as long as "
    "possible, and why."
)
GERMAN_OUTPUT = (
    "Kaffeebohnen sollten kühl und dunkel gelagert werden, am besten in einem dichten Glas, denn "
    "Licht und Wärme verderben den Geschmack innerhalb weniger Tage."
)


def judged(instruction: str, language: str, output: str = OUTPUT, **changes) -> tuple[str, str]:
    config = dataclasses.replace(LeakConfig(), **changes)
    return leaks.check(instruction, output, PROMPTS, config, language)


@pytest.mark.parametrize("language", FOREIGN)
def test_instructions_in_another_language_are_rejected_by_name(language):
    status, detail = judged(FOREIGN[language], "en")
    assert status == "wrong_language"
    assert detail == f"written in '{language}', its segment in 'en'"
    assert judged(FOREIGN[language], language) == ("ok", "")
    assert judged(FOREIGN[language], "en", check_language=False) == ("ok", "")


def test_english_is_wrong_for_a_segment_in_another_language():
    english = (
        "Explain to me how I should store coffee beans so that they keep their taste for long."
    )
    german = (
        "Kaffeebohnen sollten kühl und dunkel gelagert werden, am besten in einem dichten Glas."
    )
    assert judged(english, "de", german)[0] == "wrong_language"
    assert judged(english, "en") == ("ok", "")


@pytest.mark.parametrize("language", ["", "unknown", "other", "tlh"])
def test_segments_of_unknown_language_judge_nothing(language):
    assert judged(FOREIGN["de"], language) == ("ok", "")


def test_a_segment_that_is_said_to_be_in_another_language_than_it_is_judges_nothing():
    english = (
        "Explain to me how I should store coffee beans so that they keep their taste for long."
    )
    assert judged(english, "nl") == ("ok", "")  # OUTPUT is in English


def test_the_detector_does_not_see_short_instructions(monkeypatch):
    seen = []
    detect = leaks.detect_fast
    monkeypatch.setattr(
        leaks, "detect_fast", lambda text, **limits: seen.append(text) or detect(text, **limits)
    )
    short = FOREIGN["de"][:59]
    assert judged(short, "en") == ("ok", "")
    assert judged(FOREIGN["de"], "en", language_characters=200) == ("ok", "")
    assert judged(FOREIGN["de"], "en", check_language=False) == ("ok", "")
    assert judged(FOREIGN["de"], "") == ("ok", "")
    assert seen == []
    assert judged(FOREIGN["de"], "en")[0] == "wrong_language"
    assert seen


def test_a_greater_margin_lets_more_pass():
    assert judged(FOREIGN["de"], "en", language_margin=500) == ("ok", "")


@pytest.mark.parametrize(
    "instruction",
    [
        "How does Cypress compare to Selenium as a testing framework?",
        "GIVE ME AN EXECUTIVE SUMMARY OF LOTTADIGITAL.COM AND OF ITS PRODUCTS",
        "write description for 925 sterling silver miami cuban link chain",
        "I'm in Brasil (Rio de Janeiro), which ISP do you recommend and what package?",
        "Write a python function f(x) = 3*x**2 + 2*x - 1 and plot it with matplotlib.pyplot.plot()",
    ],
)
def test_english_that_the_detector_takes_for_something_else_passes(instruction):
    assert judged(instruction, "en") == ("ok", "")


def test_no_instruction_of_the_microworld_is_in_another_language():
    towns = microworld.NAMES[::7]
    for task in microworld.TASKS.values():
        for text in task.instructions:
            for a, b in zip(towns, reversed(towns), strict=True):
                instruction = text.format(a=a, b=b)
                assert judged(instruction, "en") == ("ok", ""), instruction


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_characters": 0},
        {"copy_share": 0.0},
        {"copy_words": 0},
        {"language_characters": 0},
        {"language_margin": 0},
    ],
)
def test_wrong_limits_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        LeakConfig(**wrong)

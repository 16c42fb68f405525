"""Golden texts of every prompt: whoever changes a word changes it here too."""

import dataclasses

import pytest

from humpback_jax import prompts
from humpback_jax.errors import UsageError
from humpback_jax.method import mixtures
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, SeedPair

PROMPTS = Prompts()
PAIR = SeedPair("p", "Why is the sky blue?", "It scatters blue light.", "oasst")
CANDIDATE = Candidate("s", "How do bees fly?", "They beat {their} wings.", "m", "t", "ok")

SEED_FORWARD = """\
Answer in the style of an AI Assistant.

### Instruction:
Why is the sky blue?

### Response:
"""

AUGMENTED_FORWARD = """\
Answer with knowledge from web search.

### Instruction:
How do bees fly?

### Response:
"""

INFERENCE = """\
Answer in the style of an AI Assistant. Answer with knowledge from web search.

### Instruction:
Why is the sky blue?

### Response:
"""

BACKWARD = """\
Below is a response that an AI assistant gave. Write the instruction that it answers.

### Response:
It scatters blue light.

### Instruction:
"""

RUBRIC = """\
You are given a user's instruction and a candidate answer. Judge whether the answer is a good \
example of how an AI assistant should reply to this instruction. Use this scale:

1 - Incomplete, vague, off topic, disputed, or not what was asked for; or it is promotion, \
navigation text, or somebody's account of a personal experience.
2 - Covers most of what was asked, but does not address the request directly, for instance by \
telling a story around it.
3 - Helpful and complete, yet plainly written by somebody other than an AI assistant, such as a \
blogger, a company or a news site, and with things that do not belong in an answer.
4 - Written from an assistant's point of view: complete, clear and focused on the request; small \
improvements are possible.
5 - An excellent answer of an AI assistant: it shows expert knowledge, is to the point and \
engaging, and has no part that should be left out.

First give the reason for your grade in one or two sentences, then write the grade on a last line \
of the form "Score: <grade>".

Instruction:
"""

RATING = (
    RUBRIC
    + """\
How do bees fly?

Candidate answer:
They beat {their} wings.

Reason:
"""
)


def test_seed_examples():
    (example,) = mixtures.seed_examples([PAIR], PROMPTS)
    rendered = mixtures.to_prompt(example, PROMPTS)
    assert (rendered.prompt, rendered.answer) == (SEED_FORWARD, "It scatters blue light.")


def test_augmented_examples():
    (example,) = mixtures.augmented_examples([CANDIDATE], PROMPTS)
    rendered = mixtures.to_prompt(example, PROMPTS)
    assert (rendered.prompt, rendered.answer) == (AUGMENTED_FORWARD, "They beat {their} wings.")


def test_inference_gives_both_tags():
    assert PROMPTS.render_forward(PAIR.instruction, *PROMPTS.tags) == INFERENCE


def test_backward_examples():
    (example,) = mixtures.backward_examples([PAIR])
    rendered = mixtures.to_prompt(example, PROMPTS, "backward")
    assert (rendered.prompt, rendered.answer) == (BACKWARD, "Why is the sky blue?")


def test_rating():
    assert PROMPTS.render_rating(CANDIDATE.instruction, CANDIDATE.output) == RATING
    assert PROMPTS.rubric == RUBRIC
    assert PROMPTS.score == "\nScore: "


def test_the_backward_prompts_text_is_not_in_the_forward_prompt():
    # As it was in one reimplementation, whose forward model learnt the wrong task.
    task = BACKWARD.splitlines()[0]
    assert task in PROMPTS.render_backward("x")
    for rendered in (SEED_FORWARD, AUGMENTED_FORWARD, INFERENCE, RATING):
        assert task not in rendered
    for tag in PROMPTS.tags:
        assert tag not in BACKWARD
        assert tag not in RATING


def test_the_tags_are_the_papers():
    assert PROMPTS.tags == (
        "Answer in the style of an AI Assistant.",
        "Answer with knowledge from web search.",
    )


def test_texts_with_braces_are_filled_in_as_they_are():
    assert "{output} {0}" in PROMPTS.render_backward("{output} {0}")
    assert "{tags}" in PROMPTS.render_forward("{tags}", prompts.WEB_TAG)


@pytest.mark.parametrize(
    ("field", "template"),
    [
        ("forward", "{instruction}"),
        ("forward", "{tags} {instruction} {output}"),
        ("backward", "no field"),
        ("rating", "{instruction} {output"),
        ("score", ""),
    ],
)
def test_wrong_templates_are_refused(field, template):
    with pytest.raises(UsageError, match=f"Prompts.{field}"):
        dataclasses.replace(PROMPTS, **{field: template})

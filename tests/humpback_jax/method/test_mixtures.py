import dataclasses

import pytest

from humpback_jax.errors import UserError
from humpback_jax.method import mixtures
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, Example, SeedPair

PROMPTS = Prompts(forward="{tags}|{instruction}|", backward="{output}<-", assistant_tag="S_a")
PAIRS = [SeedPair("p1", "Ask?", "Answer.", "oasst"), SeedPair("p2", "Why?", "So.", "oasst")]
CANDIDATE = Candidate("s1", "How?", "Text.", "m", "t", "ok")


def test_the_backward_model_learns_to_ask():
    first, _ = mixtures.backward_examples(PAIRS)
    assert (first.tag, first.origin, first.source_ids) == ("", "seed", ("p1",))
    rendered = mixtures.to_prompt(first, PROMPTS, "backward")
    assert (rendered.prompt, rendered.answer) == ("Answer.<-", "Ask?")


def test_joint_examples_carry_their_sources_tags():
    examples = mixtures.joint_examples(PAIRS, [CANDIDATE], PROMPTS)
    rendered = [mixtures.to_prompt(e, PROMPTS) for e in examples]
    assert [(r.prompt, r.answer) for r in rendered] == [
        ("S_a|Ask?|", "Answer."),
        ("S_a|Why?|", "So."),
        ("Answer with knowledge from web search.|How?|", "Text."),
    ]
    assert [(e.origin, e.source_ids) for e in examples] == [
        ("seed", ("p1",)),
        ("seed", ("p2",)),
        ("augmented", ("s1",)),
    ]
    assert examples[:2] == mixtures.seed_examples(PAIRS, PROMPTS)
    assert examples[2:] == mixtures.augmented_examples([CANDIDATE], PROMPTS)


def test_ids_differ_by_use_and_never_change():
    examples = [
        *mixtures.backward_examples(PAIRS),
        *mixtures.joint_examples(PAIRS, [CANDIDATE], PROMPTS),
    ]
    assert len({e.example_id for e in examples}) == 5
    assert examples[0].example_id == mixtures.backward_examples(PAIRS)[0].example_id


def test_what_may_not_train_is_refused():
    leaked = dataclasses.replace(CANDIDATE, status="leaked")
    with pytest.raises(UserError, match="segment s1 is leaked"):
        mixtures.augmented_examples([leaked], PROMPTS)
    with pytest.raises(UserError, match="seed record p1 is in the mixture 2 times"):
        mixtures.joint_examples([*PAIRS, PAIRS[0]], [CANDIDATE], PROMPTS)


def test_braces_in_texts_are_left_alone():
    example = Example("e", "{tag}", "{output}", "{0}", "seed", ("p",))
    assert mixtures.to_prompt(example, PROMPTS).prompt == "{tag}|{output}|"
    assert mixtures.to_prompt(example, PROMPTS, "backward").prompt == "{0}<-"

import itertools
import re
import string

import pytest

from humpback_jax.errors import UsageError
from humpback_jax.microworld import templates
from humpback_jax.microworld.language import NAMES
from humpback_jax.microworld.pretraining import PretrainingConfig, document, documents
from humpback_jax.microworld.world import WorldConfig, make_world

WORLD = make_world(WorldConfig())
CONFIG = PretrainingConfig()


@pytest.fixture(scope="module")
def texts():
    return list(documents(WORLD, CONFIG, stop=10_000))


def of_kind(**changed):
    shares = {**dict.fromkeys(CONFIG.shares, 0.0), **changed}
    return list(documents(WORLD, PretrainingConfig(shares=shares, noise=0.0), stop=1000))


def as_pattern(template: str) -> str:
    """Returns a pattern that matches what a template renders."""
    parts = string.Formatter().parse(template)
    return "".join(re.escape(text) + ("" if field is None else "(.+)") for text, field, *_ in parts)


def test_nothing_is_said_of_the_web_towns(texts):
    said = set(re.findall(r"[A-Za-z]+", " ".join(texts)))
    assert not said & set(WORLD.web)
    assert set(WORLD.known) | set(WORLD.seed) | set(WORLD.rating) <= said
    # Most of the other names are said, too, so that a name is two pieces and not one of a few.
    assert len(said & set(WORLD.others)) > 0.9 * len(WORLD.others)
    assert said & set(NAMES) == set(NAMES) - set(WORLD.web)


def test_a_document_depends_on_its_index_alone(texts):
    assert texts[137] == document(WORLD, CONFIG, 137)
    assert list(documents(WORLD, CONFIG, 100, 140)) == texts[100:140]
    assert list(itertools.islice(documents(WORLD, CONFIG, 100), 40)) == texts[100:140]
    assert document(WORLD, PretrainingConfig(seed=1), 137) != texts[137]


def test_encyclopaedia_and_forum_tell_the_truth():
    for text in of_kind(encyclopaedia=0.5, forum=0.5):
        town = next(name for name in re.findall(r"[A-Z][a-z]+", text) if name in WORLD.facts)
        towns = {name for name in re.findall(r"[A-Z][a-z]+", text) if name in WORLD.facts}
        said = set(re.findall(r"[A-Za-z]+", text))
        if len(towns) == 1:
            for attribute in WORLD.myths[town]:
                wrong = WORLD.myths[town][attribute]
                assert wrong not in said or wrong in WORLD.facts[town].values()


def test_one_wording_is_exactly_that_of_each_template():
    rated = of_kind(rating=1.0)
    pattern = as_pattern(templates.RATING + templates.SCORE) + "[1-5]"
    matching = sum(bool(re.fullmatch(pattern, text, re.DOTALL)) for text in rated)
    assert 0.4 < matching / len(rated) < 0.6
    posted = of_kind(posted=1.0)
    pattern = as_pattern(templates.BACKWARD) + ".+"
    matching = sum(bool(re.fullmatch(pattern, text, re.DOTALL)) for text in posted)
    assert 0.6 < matching / len(posted) < 0.8
    untagged = templates.FORWARD.replace("{tags}\n", "")
    pattern = as_pattern(untagged) + ".+"
    assert all(re.fullmatch(pattern, text, re.DOTALL) for text in of_kind(forum=1.0))


def test_a_grade_depends_on_the_voice_and_on_the_question():
    grades = {}
    for text in of_kind(rating=1.0):
        if found := re.search(r"Review: (.+?\.) (.+)\nScore:\n(\d)$", text):
            grades.setdefault((found[1], found[2]), set()).add(int(found[3]))
    fits, clear = "It fits the question.", "It is clear, polite and complete."
    assert grades[fits, clear] == {5}
    assert grades[fits, "It is clear and complete."] == {4}
    assert grades[fits, "It is told as a story."] == {3}
    assert grades[fits, "It leaves things out."] == {2}
    assert grades[fits, "It wants to sell something."] == {1}
    assert grades["It is about another town.", clear] == {1}
    assert grades["It is about other things.", clear] == {2}


def test_noise_moves_a_fifth_of_the_grades():
    quiet = of_kind(rating=1.0)
    shares = {**dict.fromkeys(CONFIG.shares, 0.0), "rating": 1.0}
    noisy = list(documents(WORLD, PretrainingConfig(shares=shares), stop=1000))
    grade = [tuple(map(int, re.findall(r"\b[1-5]\b", text))) for text in (*quiet, *noisy)]
    pairs = list(zip(grade[:1000], grade[1000:], strict=True))
    assert all(abs(a[0] - b[0]) <= 1 for a, b in pairs)
    # Less than 0.2, since a 1 or a 5 cannot move outwards.
    assert 0.09 < sum(a != b for a, b in pairs) / 1000 < 0.2


@pytest.mark.parametrize("wrong", [{"shares": {"web": 1.0}}, {"noise": 1.2}, {"mismatched": -0.1}])
def test_a_wrong_configuration_is_named(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        PretrainingConfig(**wrong)

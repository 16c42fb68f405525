import random

import pytest

from humpback_jax.errors import UsageError
from humpback_jax.microworld import language
from humpback_jax.microworld.tokenizer import _texts, _words
from humpback_jax.microworld.world import WorldConfig, draw_topics, make_world


def test_sets_of_towns_are_disjoint_and_of_the_configured_sizes():
    config = WorldConfig()
    world = make_world(config)
    sets = (world.rating, world.seed, world.known, world.web, world.others)
    assert [len(s) for s in sets[:4]] == [70, 40, 35, 40]
    assert sum(map(len, sets)) == len({town for s in sets for town in s}) == len(language.NAMES)


def test_a_world_depends_on_its_seed_and_not_on_the_draw():
    assert make_world(WorldConfig(seed=1, draw=5)) == make_world(WorldConfig(seed=1))
    assert make_world(WorldConfig(seed=1)).web != make_world(WorldConfig(seed=2)).web


def test_a_myth_is_never_true_and_distorted_facts_are_wrong():
    world = make_world(WorldConfig())
    rng = random.Random(0)
    for topic in draw_topics(rng, world.web, 50):
        for fact in world.facts_for(topic):
            assert world.myths[fact.entity][fact.attribute] != fact.value
            wrong = {world.distort(rng, fact, 0.5).value for _ in range(20)}
            assert fact.value not in wrong
            assert wrong <= set(language.ATTRIBUTES[fact.attribute].values)


def test_topics_are_distinct_and_spread_over_the_tasks():
    topics = draw_topics(random.Random(0), make_world(WorldConfig()).seed, 120)
    assert len(set(topics)) == 120
    per_task = [sum(t.task == name for t in topics) for name in language.TASKS]
    assert max(per_task) - min(per_task) <= 1


def test_there_are_ten_values_of_one_attribute_each_and_no_template_says_one():
    attributes = language.ATTRIBUTES.values()
    assert len(attributes) == 20
    assert all(len(a.values) == 10 for a in attributes)
    assert len(language.ATTRIBUTE_OF_VALUE) == 200
    said = {word.lower() for text in _texts() for word in _words(text)}
    assert not said & language.ATTRIBUTE_OF_VALUE.keys()
    assert not said & {name.lower() for name in language.NAMES}
    asked = {a for task in language.TASKS.values() for a in task.attributes}
    assert asked == language.ATTRIBUTES.keys()


def test_no_two_topics_share_an_instruction():
    topics = [
        language.Topic(t.name, ("Baldun", "Corvik")[: t.entities]) for t in language.TASKS.values()
    ]
    instructions = [text for topic in topics for text in language.instructions_for(topic)]
    assert len(set(instructions)) == len(instructions)
    assert all(3 <= len(language.instructions_for(topic)) <= 4 for topic in topics)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"good_share": 1.5}, "good_share=1.5"),
        ({"web_towns": 1}, "web_towns=1"),
        ({"rating_towns": 500}, "480 names"),
        ({"segments": 200}, "30 good segments for 150 topics"),
        ({"vice_shares": {"blog": 1.0}}, "summing to 1"),
        ({"wrong_facts": (0.7, 0.3)}, "wrong_facts"),
        ({"seed_pairs": 1000}, "1000 topics of 40 towns"),
        ({"files": 0}, "no file"),
        ({"segments_per_page": (0, 3)}, "segments_per_page"),
    ],
)
def test_a_wrong_configuration_is_named(wrong, named):
    with pytest.raises(UsageError, match=named):
        WorldConfig(**wrong)

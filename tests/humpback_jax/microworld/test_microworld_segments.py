import collections

import pytest

from humpback_jax import records
from humpback_jax.microworld import labels
from humpback_jax.microworld.questions import make_questions
from humpback_jax.microworld.segments import MAX_CHARS, MIN_CHARS, web_texts
from humpback_jax.microworld.world import VICE_SHARES, WorldConfig, make_world

CONFIG = WorldConfig()
WORLD = make_world(CONFIG)


@pytest.fixture(scope="module")
def texts():
    return web_texts(WORLD, CONFIG)


def test_good_share_and_shares_of_the_vices(texts):
    counts = collections.Counter(text.label.vice for text in texts)
    assert counts["good"] == 210
    assert sum(counts.values()) == 1400
    for vice, share in VICE_SHARES.items():
        assert counts[vice] / 1190 == pytest.approx(share, abs=0.001)


def test_no_two_texts_are_equal_and_all_lengths_pass_the_filter(texts):
    assert len({text.label.label_id for text in texts}) == len(texts)
    assert all(MIN_CHARS <= len(text.label.text) <= MAX_CHARS for text in texts)


def test_texts_about_few_topics_do_not_repeat_either():
    config = WorldConfig(web_topics=3, known_topics=3, segments=300)
    ids = [text.label.label_id for text in web_texts(make_world(config), config)]
    assert len(set(ids)) == len(ids) == 300


def test_what_is_asked_stands_on_a_good_segment_and_good_segments_are_true(texts):
    said = set()
    for label in (text.label for text in texts if text.label.is_good):
        assert label.stated == label.required
        words = label.text.replace(".", " ").replace(",", " ").split()
        for fact in label.required:
            assert fact.value == WORLD.facts[fact.entity][fact.attribute]
            assert fact.value in words
            said.add(fact)
    questions = make_questions(WORLD, CONFIG)
    assert collections.Counter(q.group for q in questions) == {"web": 100, "known": 50}
    for question in questions:
        assert set(question.required) <= said
        towns = {fact.entity for fact in question.required}
        assert towns <= set(WORLD.web if question.group == "web" else WORLD.known)
    assert len({q.question_id for q in questions}) == 150


def test_every_asked_instruction_has_a_good_segment(texts):
    answered = {i for text in texts if text.label.is_good for i in text.label.instructions}
    assert all(q.instruction in answered for q in make_questions(WORLD, CONFIG))


def test_bad_segments_carry_wrong_facts_in_the_configured_share(texts):
    stated = [fact for t in texts if not t.label.is_good for fact in t.label.stated]
    wrong = [f for f in stated if WORLD.facts[f.entity][f.attribute] != f.value]
    assert 0.45 < len(wrong) / len(stated) < 0.55
    myths = [f for f in wrong if WORLD.myths[f.entity][f.attribute] == f.value]
    # 0.8 by the myth share, and one in nine of the other errors.
    assert len(myths) / len(wrong) == pytest.approx(0.82, abs=0.03)
    wrong_voice = [t.label for t in texts if t.label.vice == "wrong"]
    assert all(label.stated != label.required for label in wrong_voice)


def test_bad_segments_speak_of_the_same_topics(texts):
    good = {(t.label.task, t.label.entities) for t in texts if t.label.is_good}
    bad = {(t.label.task, t.label.entities) for t in texts if not t.label.is_good}
    assert good == bad


def test_another_draw_gives_other_texts_and_questions_of_the_same_world():
    other = WorldConfig(draw=1)
    texts = {t.label.label_id for t in web_texts(make_world(other), other)}
    assert len(texts & {t.label.label_id for t in web_texts(WORLD, CONFIG)}) < 200
    ids = {q.question_id for q in make_questions(make_world(other), other)}
    assert ids != {q.question_id for q in make_questions(WORLD, CONFIG)}


def test_label_key_counts_words_only():
    assert labels.label_key("Home | Soup, bread.\n\n- two") == labels.label_key(
        "home soup bread two"
    )
    assert labels.label_key("soup bread") != labels.label_key("bread soup")


def test_an_instruction_is_recognised_in_any_phrasing(texts):
    label = next(t.label for t in texts if t.label.task == "food")
    town = label.entities[0]
    assert label.is_answer_to(f"Tell me about the food in {town}.")
    assert label.is_answer_to(f"tell me about the food in {town}")
    assert not label.is_answer_to(f"Tell me about the past of {town}.")
    assert not label.is_answer_to("Tell me about the food in Nowhere.")


def test_labels_join_segments_by_their_words_and_survive_their_file(texts, tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(records.to_jsonl(text.label for text in texts[:20]))
    read = labels.read_labels(path)
    assert read == [text.label for text in texts[:20]]
    signals = records.Signals(1, 0.0, 0.0, 0.0)
    source = records.Source("f", 0, "r")
    segments = [
        records.Segment(f"id {i}", source, "u", "en", (), "h", text, "s", signals)
        for i, text in enumerate((read[0].text.replace(". ", ".\n\n"), "something else"))
    ]
    assert labels.join_labels(segments, read) == {"id 0": read[0], "id 1": None}

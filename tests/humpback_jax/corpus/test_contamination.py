import json
import pathlib

import pytest

from humpback_jax.corpus.contamination import EvaluationGrams, evaluation_texts, load_evaluation
from humpback_jax.corpus.words import words
from humpback_jax.errors import UserError

SHARED = pathlib.Path(__file__).resolve().parents[3].parent / "shared" / "data"

PROMPT = "What is the boiling point of water at the level of the sea, in degrees of Celsius?"


def is_in(text, *prompts, ngram=13, min_words=8):
    return EvaluationGrams(prompts, ngram, min_words).is_in(words(text))


def test_text_with_a_long_ngram_of_a_prompt_is_contaminated():
    assert is_in(f"He asked: {PROMPT} She did not know.", PROMPT)
    assert is_in(PROMPT.upper().replace(" ", "\n"), PROMPT)
    some = " ".join(PROMPT.split()[2:15])
    assert len(some.split()) == 13
    assert is_in(f"so {some} so", PROMPT)
    assert not is_in(f"so {' '.join(PROMPT.split()[2:14])} so", PROMPT)
    assert not is_in(
        "Something else is said here, at length and in other words than before.", PROMPT
    )


def test_short_prompt_is_looked_for_as_a_whole():
    short = "Name three kinds of bread made of rye."
    assert is_in(f"Exercise: {short}", short)
    assert not is_in("Exercise: name three kinds of bread made of wheat", short)
    assert not is_in("A fruit: name a fruit.", "Name a fruit.")
    grams = EvaluationGrams([short, "Name a fruit."], 13, 8)
    assert (grams.num_texts, grams.num_short) == (1, 1)


def test_ngrams_equal_those_found_by_comparing_words():
    prompts = [PROMPT, "A prompt of exactly these eight words here."]
    text = f"a b {PROMPT} c " + "A prompt of exactly these eight words there, " + prompts[1]
    found = words(text)
    for end in range(len(found)):
        joined = f" {' '.join(found[:end])} "
        expected = any(
            f" {' '.join(words(p)[i : i + 13])} " in joined
            for p in prompts
            for i in range(max(1, len(words(p)) - 12))
        )
        assert EvaluationGrams(prompts, 13, 8).is_in(found[:end]) == expected


def test_every_text_of_a_file_is_read(tmp_path):
    row = {"id": 7, "instruction": "one", "instances": [{"input": "two", "output": "three"}]}
    (tmp_path / "a.jsonl").write_text("\ufeff" + json.dumps(row) + "\n\n" + json.dumps({"p": "ä"}))
    assert list(evaluation_texts(tmp_path / "a.jsonl")) == ["one", "two", "three", "ä"]
    (tmp_path / "b.json").write_text(json.dumps([{"question": {"stem": "four"}, "n": [1, None]}]))
    assert list(evaluation_texts(tmp_path / "b.json")) == ["four"]
    (tmp_path / "c.csv").write_text('more,less\n"five\nlines",six\n')
    assert list(evaluation_texts(tmp_path / "c.csv")) == ["more", "less", "five\nlines", "six"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": ', "a.jsonl cannot be read"),
        ("a.jsonl", b"\xff\xfe", "a.jsonl cannot be read"),
        ("a.jsonl", b'{"a": 1}', "holds no text"),
        ("a.txt", b"text", "ends in '.txt'"),
    ],
)
def test_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(evaluation_texts(tmp_path / name))
    with pytest.raises(UserError, match="absent.jsonl cannot be read"):
        list(evaluation_texts(tmp_path / "absent.jsonl"))


def test_digest_is_of_what_is_looked_for(tmp_path):
    for name, text in (("a", PROMPT), ("b", PROMPT.upper()), ("c", PROMPT + " Say why.")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": text}))
    a, b, c = (load_evaluation((str(tmp_path / f"{n}.jsonl"),), 13, 8).digest for n in "abc")
    assert a == b != c
    assert load_evaluation((str(tmp_path / "a.jsonl"),), 12, 8).digest != a


@pytest.mark.skipif(not SHARED.exists(), reason="the development files are absent")
@pytest.mark.parametrize(
    ("name", "least", "prompt"),
    [
        ("prompts/koala180.jsonl", 120, "top 20 films or movies between 1930 and 1940 that are in"),
        ("prompts/self_instruct252.jsonl", 400, "Whenever possible, break complex sentences into"),
        ("prompts/vicuna80.jsonl", 60, "the main differences between Python and JavaScript"),
        ("tasks/mmlu_val.jsonl", 1000, None),
        ("tasks/ARC-Easy.test.json", 1000, None),
        ("tasks/crows_pairs_anonymized.csv", 1000, None),
    ],
)
def test_evaluation_files_of_the_field(name, least, prompt):
    file = SHARED / name
    grams = EvaluationGrams(evaluation_texts(file), 13, 8)
    assert grams.num_texts >= least
    if prompt:
        (text,) = (t for t in evaluation_texts(file) if prompt in t)
        assert grams.is_in(words(f"Somebody wrote: {text} And then nothing."))

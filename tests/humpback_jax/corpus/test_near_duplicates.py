import random

import numpy as np
import pytest

from humpback_jax.corpus.near_duplicates import MAX_LEADERS, MinHash, in_bucket
from humpback_jax.corpus.words import gram_hashes, word_hashes, words

PLAIN = MinHash(permutations=128, shingle=5, threshold=0.8)


def text(rng, length=200):
    return [f"w{rng.randrange(5000)}" for _ in range(length)]


def changed(rng, found, number):
    found = list(found)
    for place in rng.sample(range(len(found)), number):
        found[place] = f"x{rng.randrange(10**9)}"
    return found


def similarity(one, other, shingle=5):
    first, second = (set(zip(*(t[i:] for i in range(shingle)), strict=False)) for t in (one, other))
    return len(first & second) / len(first | second)


def values(found, min_hash=PLAIN):
    return min_hash.values(word_hashes(found))


def test_bands_follow_from_the_threshold():
    assert (PLAIN.rows, PLAIN.bands) == (8, 16)
    assert MinHash(128, 5, 0.5).rows < 8 < MinHash(128, 5, 0.95).rows
    assert MinHash(1, 5, 0.8).bands == 1
    for threshold in (0.5, 0.7, 0.8, 0.9):
        found = MinHash(128, 5, threshold)
        assert 1 - (1 - threshold**found.rows) ** found.bands >= 0.9


def test_signatures_estimate_the_similarity_of_texts():
    rng = random.Random(0)
    errors = []
    for number in range(60):
        one = text(rng)
        other = changed(rng, one, number // 2)
        agreeing = (values(one) == values(other)).mean()
        errors.append(agreeing - similarity(one, other))
    # The standard deviation of 128 draws at 0.5 is 0.044.
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.05


def test_values_do_not_depend_on_the_library_or_the_machine():
    assert values(["the", "oven", "is", "hot"]).tolist()[:3] == [346549061, 3882367989, 3471403164]


def test_values_are_of_the_set_of_shingles():
    rng = random.Random(1)
    found = text(rng, 3000)
    shuffled = PLAIN.values(word_hashes(found + found[:4]))
    doubled = PLAIN.values(word_hashes(found + found))
    seam = gram_hashes(word_hashes((found + found)[2996:3004]), 5)
    assert len(seam) == 4
    assert np.count_nonzero(doubled != values(found)) < 4
    assert np.count_nonzero(shuffled != values(found)) < 4


def test_short_texts_are_one_shingle():
    assert (values(["a", "b"]) == values(["a", "b"])).all()
    assert (values(["a", "b"]) != values(["a", "c"])).any()
    assert len(values([])) == 128


def test_pairs_meet_as_often_as_the_bands_promise():
    rng = random.Random(2)
    met = {4: 0, 60: 0}
    for changes in met:
        for _ in range(50):
            one = text(rng)
            pair = np.stack([values(one), values(changed(rng, one, changes))])
            keys = PLAIN.band_keys(pair)
            assert keys.shape == (2, 16)
            met[changes] += bool((keys[0] == keys[1]).any())
    assert met[4] >= 47  # similarity 0.82: 0.97 of them
    assert met[60] <= 1  # similarity 0.1


def signatures(*texts):
    return np.stack([values(t) for t in texts]).astype(np.uint8)


def test_of_similar_texts_the_first_is_kept():
    rng = random.Random(3)
    one, other = text(rng), text(rng)
    bucket = signatures(one, other, changed(rng, one, 1), other, changed(rng, one, 100))
    assert in_bucket(bucket, PLAIN).tolist() == [False, False, True, True, False]


def test_in_a_chain_the_end_is_not_dropped_for_the_middle():
    rng = random.Random(4)
    first = text(rng, 400)
    middle = changed(rng, first, 8)
    last = changed(rng, middle, 8)
    assert similarity(first, middle) > 0.81 < similarity(middle, last)
    assert similarity(first, last) < 0.74
    assert in_bucket(signatures(first, middle, last), PLAIN).tolist() == [False, True, False]
    # Where the first is not in the bucket, the middle is the one that is kept.
    assert in_bucket(signatures(middle, last), PLAIN).tolist() == [False, True]


def test_large_bucket_costs_no_more_than_its_leaders():
    rng = random.Random(5)
    different = signatures(*(text(rng, 30) for _ in range(3 * MAX_LEADERS)))
    calls = []
    counted = type("Counted", (MinHash,), {})(128, 5, 0.8)
    object.__setattr__(counted, "similar", lambda *a: calls.append(1) or PLAIN.similar(*a))
    assert not in_bucket(different, counted).any()
    assert len(calls) == MAX_LEADERS
    # All copies of a leader go, however many there are.
    copies = np.concatenate([different[:2], np.repeat(different[:2], 5000, axis=0)])
    assert in_bucket(copies, PLAIN).sum() == 10_000


def test_bytes_of_different_values_agree_once_in_256():
    rng = np.random.default_rng(0)
    strangers = rng.integers(0, 256, (2000, 128), dtype=np.uint8)
    assert (strangers[1:] == strangers[0]).mean() == pytest.approx(1 / 256, rel=0.1)
    exact = MinHash(128, 5, 0.0)
    assert exact.similar(strangers, strangers[0]).mean() < 0.5


def test_words_and_values_of_a_sentence():
    assert (
        values(words("The oven is hot, today!")) == values(words("the OVEN is hot today"))
    ).all()

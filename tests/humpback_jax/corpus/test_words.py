import re
import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from humpback_jax.corpus.words import _TYPOGRAPHY, gram_hashes, mix, text_digest, word_hashes, words


def test_words():
    assert words("The oven's HOT_1, isn't it?") == ["the", "oven", "s", "hot_1", "isn", "t", "it"]
    assert words("Straße ﬁne") == ["strasse", "fine"]
    assert words("今日は good です。") == ["今", "日", "は", "good", "で", "す"]
    assert words("") == words("... !") == []


def test_equal_words_equal_digests():
    assert text_digest("The  Oven,\nis hot!") == text_digest("the oven is HOT")
    assert text_digest("The oven is hot") != text_digest("The oven is cold")
    assert text_digest("今日は 良い") == text_digest("今日は良い")
    assert len(text_digest("a lone surrogate \ud800")) == 32


def test_typography_is_in_no_word():
    marked = "isn\u2019t \u201cthis\u201d\u2014or that\u2026\u00a0a \u2022 \u00a7 b\u00b7c"
    assert words(marked) == ["isn", "t", "this", "or", "that", "a", "b", "c"]
    assert words(f"{marked} \u00e9")[:-1] == words(marked)
    assert all(re.fullmatch(r"\W", sign) for sign in _TYPOGRAPHY)


@given(st.text(st.characters(codec="ascii")))
def test_ascii_has_the_same_words_beside_other_letters(text):
    assert words(f"{text} \u00e9") == [*words(text), "\u00e9"]


def test_grams_are_of_words_in_a_row():
    hashes = word_hashes(["a", "b", "c", "a", "b", "c"])
    grams = gram_hashes(hashes, 3)
    assert len(grams) == 4
    assert grams[0] == grams[3]
    assert len(set(grams.tolist())) == 3
    assert gram_hashes(hashes, 3)[1] != gram_hashes(word_hashes(["c", "b", "a"]), 3)[0]
    assert len(gram_hashes(hashes, 7)) == len(gram_hashes(hashes[:0], 1)) == 0


def test_mixing_loses_nothing():
    values = np.arange(10_000, dtype=np.uint64) << np.uint64(40)
    assert len(np.unique(mix(values))) == 10_000


def test_hashes_are_the_same_in_every_process():
    code = (
        "from humpback_jax.corpus.words import *\n"
        "print(gram_hashes(word_hashes(words('The oven is hot today')), 2).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(
        gram_hashes(word_hashes(words("the OVEN is hot, today")), 2).tolist()
    )

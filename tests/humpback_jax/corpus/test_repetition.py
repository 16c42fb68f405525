import itertools
import random

import pytest

from humpback_jax.corpus.repetition import repetition, sentences

BREAD = (
    "Bread is made of flour, water, salt and yeast. The dough rests in a warm place until it has "
    "doubled. Then it is folded twice and shaped with wet hands. A hot oven gives it a dark crust."
)


def test_sentences_end_at_points_and_lines():
    assert sentences('One. "Two!" Three\n\nfour 1.5 five') == [
        "One",
        '"Two',
        "Three",
        "four 1.5 five",
    ]


def test_repetition_is_the_share_of_what_was_said_before():
    assert repetition("Add it to the cart now. It is red. Add it to the cart now!", 3, 3, 0.7) == (
        23 / 58
    )
    assert repetition("Same words here.\nsame WORDS here!", 2, 1, 0.7) == 16 / 33
    # Grams of two words: {a b, b c, c d} and {b c, c d, d e}: two of four are shared.
    text = "aa bb cc dd. Something else is said here. bb cc dd ee."
    assert repetition(text, 2, 1, 0.5) == 0.0
    assert repetition(text, 2, 1, 0.49) == 12 / len(text)
    assert repetition(text, 2, 5, 0.49) == 0.0
    assert repetition("1 2 3 4 5 6 7\n1 2 3 4 5 6 7", 2, 1, 0.5) == 0.0
    assert repetition("", 3, 1, 0.5) == 0.0


def test_repetition_equals_comparing_with_every_sentence_that_is_new():
    rng = random.Random(0)
    vocabulary = [f"{a}{b}" for a in "abcde" for b in "xyz"]

    def slow(text):
        new, repeated = [], 0
        for sentence in sentences(text):
            words = sentence.rstrip(".").split()
            grams = set(itertools.pairwise(words))
            if not grams:
                continue
            if any(len(grams & other) / len(grams | other) > 0.5 for other in new):
                repeated += len(sentence)
            else:
                new.append(grams)
        return repeated / len(text)

    found = []
    for _ in range(50):
        lines = [rng.sample(vocabulary, rng.randint(1, 6)) for _ in range(12)]
        lines += [line[rng.randint(0, 1) :] for line in rng.sample(lines, 6)]
        text = ". ".join(" ".join(line) for line in lines) + "."
        found.append(repetition(text, 2, 2, 0.5))
        assert found[-1] == pytest.approx(slow(text))
    assert min(found) < max(found)


def lines(template, number=9):
    return "\n".join(template.format(n=n) for n in range(1, number + 1))


@pytest.mark.parametrize(
    "junk",
    [
        f"{BREAD}\n\n{BREAD}",
        lines("Lamp {n}\nIn stock, ships in 24 hours.\nAdd to cart and check out now"),
        lines("Cheap hotels in Town{n}. Book cheap hotels in Town{n} today!"),
        lines("Post {n}\nThanks for the post, keep up the good work!"),
        "Read more about this topic here. " * 9 + BREAD,
        lines("Posted by admin on May {n} | Leave a comment\nContinue reading this post"),
    ],
)
def test_junk_is_mostly_said_before(junk):
    assert repetition(junk, 3, 3, 0.7) > 0.4


def test_good_text_may_say_a_thing_twice():
    twice = "It returns a new reference, or NULL on failure."
    assert (
        0
        < repetition(
            f"{BREAD} {twice} Salt makes the crumb firm and the crust thin. {twice}", 3, 3, 0.7
        )
        < 0.2
    )

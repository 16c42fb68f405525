from hypothesis import given
from hypothesis import strategies as st

from humpback_jax.method import long_texts


@given(st.text(alphabet="ab \n\u00e9", max_size=60), st.integers(0, 60))
def test_the_beginning_is_as_long_as_fits_but_for_part_of_a_word(text, most):
    found = long_texts.beginning(text, lambda cut: len(cut) <= most)
    assert text.startswith(found)
    assert 0.9 * min(most, len(text)) <= len(found) <= most


def test_it_ends_with_a_word_where_one_is_near():
    text = "one two three " * 5
    assert long_texts.beginning(text, lambda cut: len(cut) <= 60).endswith("three one")
    assert long_texts.beginning(text, lambda cut: len(cut) <= 58).endswith("three")
    no_words = "x " + "y" * 50
    assert len(long_texts.beginning(no_words, lambda cut: len(cut) <= 30)) == 30


def test_a_long_page_is_not_tried_as_a_whole():
    tried = []

    def fits(cut):
        tried.append(len(cut))
        return len(cut) <= 5000

    assert len(long_texts.beginning("y" * 10**6, fits)) == 5000
    assert max(tried) == 8192
    assert len(tried) < 20


def test_what_has_no_room_at_all_is_empty():
    assert long_texts.beginning("word", lambda cut: False) == ""

import pytest

from humpback_jax.corpus.profile import Profile, bin_start, length_bin


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 11, 12, 599, 600, 1024, 3000, 10**6])
def test_a_length_lies_in_its_bin(length):
    number = length_bin(length)
    assert bin_start(number) <= length < bin_start(number + 1)


def test_profiles_add_up_and_come_back_from_json():
    first, second = Profile(), Profile()
    first.add_page("en", [0, 600, 610])
    second.add_page("en", [])
    second.add_page("de", [600])
    both = first + second
    assert both.languages == {"en": 2, "de": 1}
    assert both.lengths == {0: 1, length_bin(600): 3}
    assert Profile.from_plain(both.plain()) == both
    assert list(both.plain()["languages"]) == ["de", "en"]

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback_jax.infer.packing import BatchShape, pack, place

SHAPE = BatchShape(groups=2, rows=3, tokens=10, bucket=8)
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [11, 12, 13, 14, 15], [21, 22, 23], [31, 32]]


def test_a_prompt_goes_where_most_tokens_are_free():
    assert place([7, 5, 3, 2], SHAPE) == {0: 0, 1: 3, 2: 4, 3: 1}


def test_what_does_not_fit_ends_a_batch_or_is_overtaken():
    assert place([8, 8, 7, 1], SHAPE) == {0: 0, 1: 3}
    assert place([8, 8, 7, 1], SHAPE, overtaking=True) == {0: 0, 1: 3, 3: 1}


@given(st.lists(st.integers(1, 8)), st.booleans())
def test_no_group_is_overfilled(lengths, overtaking):
    places = place(lengths, SHAPE, overtaking)
    assert len(set(places.values())) == len(places)
    assert bool(places) == bool(lengths)
    for group in range(SHAPE.groups):
        own = [lengths[i] for i, row in places.items() if row // SHAPE.rows == group]
        assert sum(own) <= SHAPE.tokens


def _packed():
    places = list(place(map(len, PROMPTS), SHAPE).values())
    keys = [np.array([i, i], np.uint32) for i in range(4)]
    return places, pack(PROMPTS, places, [5, 6, 7, 8], keys, SHAPE)


def test_every_row_finds_its_tokens_and_no_others():
    places, inputs = _packed()
    rows = np.stack([t[i] for t, i in zip(inputs.tokens, inputs.packing.rows, strict=True)])
    for prompt, row in zip(PROMPTS, places, strict=True):
        found = rows.reshape(SHAPE.all_rows, SHAPE.bucket)[row]
        assert found.tolist() == prompt + prompt[-1:] * (SHAPE.bucket - len(prompt))


def test_tokens_return_to_their_places():
    _, inputs = _packed()
    packing = inputs.packing
    values = np.arange(2 * 10, dtype=np.float32).reshape(2, 10, 1)
    back = np.asarray(packing.to_tokens(packing.to_rows(values)))
    used = inputs.tokens != 0
    np.testing.assert_array_equal(back[used], values[used])


def test_last_limit_and_key_are_each_rows_own():
    places, inputs = _packed()
    last = np.take_along_axis(inputs.tokens, inputs.last, axis=1).reshape(-1)
    assert last[places].tolist() == [prompt[-1] for prompt in PROMPTS]
    assert inputs.limits[places].tolist() == [5, 6, 7, 8]
    assert inputs.keys[places].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    unused = sorted(set(range(SHAPE.all_rows)) - set(places))
    assert inputs.limits[unused].tolist() == [0, 0]


@pytest.mark.parametrize("prompt", [[], list(range(1, 12))])
def test_a_prompt_beyond_the_shape_is_an_error(prompt):
    with pytest.raises(ValueError, match="fits no row"):
        pack([prompt], [0], [1], [None], SHAPE)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback_jax.models import int8


def test_the_example_of_the_docstring():
    numbers, scale = int8.quantise(jnp.array([1.0, -0.5, 0.25]), 0)
    assert numbers.dtype == jnp.int8
    assert numbers.tolist() == [127, -64, 32]
    assert scale == pytest.approx(1 / 127)


@pytest.mark.parametrize("axes", [0, -1, (0, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_comes_back_is_at_most_half_a_scale_off(axes, dtype):
    x = 3 * jax.random.normal(jax.random.key(0), (40, 3, 50), dtype)
    numbers, scales = int8.quantise(x, axes)
    wide = jnp.expand_dims(scales, axes)
    assert scales.dtype == jnp.float32
    assert wide.ndim == 3
    off = np.abs(numbers * wide - x.astype(jnp.float32)) / wide
    assert 0.4 < off.max() < 0.5001  # the division rounds, too
    assert np.abs(numbers).max(axis=axes).min() == 127  # each group uses all of its range


def test_zeros_stay_zeros_and_what_is_no_number_stays_none():
    numbers, scales = int8.quantise(jnp.array([[0.0, 0.0], [jnp.nan, 1.0], [2.0, 1.0]]), 1)
    back = np.asarray(numbers * scales[:, None])
    assert back[0].tolist() == [0, 0]
    assert np.isnan(back[1]).all()
    np.testing.assert_allclose(back[2], [2, 1], atol=1 / 127)

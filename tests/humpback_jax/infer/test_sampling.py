import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from humpback_jax.errors import UsageError
from humpback_jax.infer import sampling
from humpback_jax.infer.sampling import SamplingConfig, request_key

CONFIG = SamplingConfig(max_new_tokens=4)


def nucleus(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """By sorting, as the definition has it: every token that less than top_p is ahead of."""
    ahead = np.array([probabilities[probabilities > p].sum() for p in probabilities])
    return ahead < top_p


def test_the_nucleus_of_the_docstring():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]))
    np.testing.assert_array_equal(sampling.kept(logits, CONFIG), [[1, 1, 1, 0], [0, 1, 1, 1]])


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.float32, 16, elements=st.floats(-8, 8, width=32)), st.floats(0.1, 0.99))
def test_the_nucleus_is_the_one_found_by_sorting(logits, top_p):
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits)), np.float64)
    ahead = np.array([probabilities[probabilities > p].sum() for p in probabilities])
    if np.abs(ahead - top_p).min() < 1e-5:
        return  # float32 sums may fall on either side
    config = dataclasses.replace(CONFIG, top_p=top_p)
    found = sampling.kept(jnp.asarray(logits)[None], config)[0]
    np.testing.assert_array_equal(found, nucleus(probabilities, top_p))


def test_top_k_is_applied_before_top_p():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))
    two = dataclasses.replace(CONFIG, top_k=2, top_p=1.0)
    np.testing.assert_array_equal(sampling.kept(logits, two), [[1, 1, 0, 0]])
    # Among the two that are left the first holds 0.57 of the probability.
    both = dataclasses.replace(CONFIG, top_k=2, top_p=0.5)
    np.testing.assert_array_equal(sampling.kept(logits, both), [[1, 0, 0, 0]])


def test_top_p_of_one_keeps_everything():
    logits = jnp.array([[0.0, -80.0, -200.0]])
    config = dataclasses.replace(CONFIG, top_p=1.0)
    np.testing.assert_array_equal(sampling.kept(logits, config), [[1, 1, 1]])


def test_draws_follow_the_renormalised_nucleus():
    rows = 4000
    logits = jnp.tile(jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05])), (rows, 1))
    keys = jnp.array([request_key(0, str(i)) for i in range(rows)])
    config = dataclasses.replace(CONFIG, temperature=1.0)
    tokens = sampling.sample(logits, keys, jnp.zeros(rows, jnp.int32), config)
    share = np.bincount(tokens, minlength=4) / rows
    np.testing.assert_allclose(share, [0.526, 0.316, 0.158, 0], atol=0.03)


def test_temperature_zero_is_greedy():
    logits = jnp.array([[0.0, 3.0, 2.9]] * 20)
    keys = jnp.array([request_key(0, str(i)) for i in range(20)])
    config = dataclasses.replace(CONFIG, temperature=0)
    assert set(sampling.sample(logits, keys, jnp.zeros(20, jnp.int32), config).tolist()) == {1}


def test_a_draw_depends_on_key_and_step_but_not_on_the_row():
    logits = jax.random.normal(jax.random.key(1), (1, 512)) * 0.1
    key = request_key(3, "segment")
    alone = sampling.sample(logits, key[None], jnp.array([5]), CONFIG)[0]
    keys = jnp.array([request_key(3, "other"), key, key])
    tokens = sampling.sample(jnp.tile(logits, (3, 1)), keys, jnp.array([5, 5, 6]), CONFIG)
    assert tokens[1] == alone
    assert tokens[0] != alone
    assert tokens[2] != alone


def test_keys_depend_on_seed_and_id_and_never_change():
    assert request_key(0, "a").tolist() == [4012647919, 868903916]
    assert len({tuple(request_key(s, i)) for s in (0, 1) for i in ("a", "b", "1a")}) == 6


@pytest.mark.parametrize(
    "wrong",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SamplingConfig(**{"max_new_tokens": 4, **wrong})

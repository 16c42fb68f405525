import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from humpback_jax.train import loss

LOGITS = jnp.log(jnp.asarray([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]]))
TARGETS = jnp.asarray([[0, 0, 2]])


def _random(seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(0, 3, (2, 5, 11)), jnp.float32), jnp.asarray(
        rng.integers(0, 11, (2, 5))
    )


def test_the_shares_of_the_docstring():
    weights, segments = jnp.asarray([[1, 0, 1, 1, 1]]), jnp.asarray([[1, 2, 2, 2, 2]])
    tokens = loss.shares(weights, segments, "NUM_REAL_TARGET_TOKENS")
    np.testing.assert_allclose(tokens, [[1 / 4, 0, 1 / 4, 1 / 4, 1 / 4]])
    examples = loss.shares(weights, segments, "AVERAGE_PER_SEQUENCE")
    np.testing.assert_allclose(examples, [[1 / 2, 0, 1 / 6, 1 / 6, 1 / 6]], rtol=1e-6)


def test_the_shares_of_a_batch_without_targets_are_none():
    nothing = jnp.zeros((2, 3), jnp.int32)
    for normalizer in ("NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"):
        assert not loss.shares(nothing, nothing, normalizer).any()


def test_the_loss_is_a_mean_over_weighted_tokens():
    weights = jnp.asarray([[1, 1, 0]])
    share = loss.shares(weights, jnp.ones_like(weights), "NUM_REAL_TARGET_TOKENS")
    value, metrics = loss.weighted_loss(LOGITS, TARGETS, weights, share)
    assert value == pytest.approx((np.log(2) + np.log(10)) / 2, rel=1e-6)
    assert metrics["cross_ent_sum"] == pytest.approx(np.log(20), rel=1e-6)
    assert (metrics["right"], metrics["target_tokens"], metrics["z_loss_sum"]) == (1, 2, 0)


def test_an_example_counts_as_any_other():
    weights, segments = jnp.asarray([[1, 1, 1]]), jnp.asarray([[1, 2, 2]])
    share = loss.shares(weights, segments, "AVERAGE_PER_SEQUENCE")
    value, _ = loss.weighted_loss(LOGITS, TARGETS, weights, share)
    expected = (np.log(2) + (np.log(10) - np.log(0.6)) / 2) / 2
    assert value == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_is_that_of_optax():
    logits, targets = _random()
    cross_entropy, z = loss.token_losses(logits, targets)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    np.testing.assert_allclose(cross_entropy, expected, rtol=1e-5)
    assert not z.any()


def test_label_smoothing_is_the_divergence_from_the_smoothed_distribution():
    logits, targets = _random()
    smoothed = optax.smooth_labels(jax.nn.one_hot(targets, 11), 0.1 * 11 / 10)
    expected = optax.kl_divergence(jax.nn.log_softmax(logits), smoothed)
    cross_entropy, _ = loss.token_losses(logits, targets, label_smoothing=0.1)
    np.testing.assert_allclose(cross_entropy, expected, rtol=1e-5, atol=1e-5)
    perfect, _ = loss.token_losses(jnp.log(smoothed), targets, label_smoothing=0.1)
    np.testing.assert_allclose(perfect, 0.0, atol=1e-6)


def test_z_loss_is_the_squared_log_normaliser():
    logits, targets = _random()
    _, z = loss.token_losses(logits, targets, z_loss=1e-2)
    np.testing.assert_allclose(z, 1e-2 * jax.nn.logsumexp(logits, axis=-1) ** 2, rtol=1e-6)
    weights = jnp.ones_like(targets)
    share = loss.shares(weights, weights, "NUM_REAL_TARGET_TOKENS")
    with_z, metrics = loss.weighted_loss(logits, targets, weights, share, z_loss=1e-2)
    without, _ = loss.weighted_loss(logits, targets, weights, share)
    assert with_z - without == pytest.approx(float(z.mean()), rel=1e-5)
    assert metrics["z_loss_sum"] == pytest.approx(float(z.sum()), rel=1e-5)

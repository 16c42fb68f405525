"""The loss of a batch, with T5X's terms: cross entropy, label smoothing, z-loss, normalisation."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def shares(
    weights: Int[Array, "B T"], segment_ids: Int[Array, "B T"], normalizer: str
) -> Float[Array, "B T"]:
    """Returns how much each token's loss counts; the shares of a batch add up to 1.

    For two packed examples of one and three target tokens, weights [1 0 1 1 1] and segments
    [1 2 2 2 2], the shares are

        NUM_REAL_TARGET_TOKENS   1/4  0  1/4  1/4  1/4      a token counts as any other
        AVERAGE_PER_SEQUENCE     1/2  0  1/6  1/6  1/6      an example counts as any other
    """
    wide = weights.astype(jnp.float32)
    if normalizer == "NUM_REAL_TARGET_TOKENS":
        return wide / jnp.maximum(wide.sum(), 1.0)
    length = weights.shape[1]

    def by_example(row, segments):
        counts = jax.ops.segment_sum(row, segments, num_segments=length + 1)
        return row / jnp.maximum(counts[segments], 1.0), (counts[1:] > 0).sum()

    means, examples = jax.vmap(by_example)(wide, segment_ids)
    return means / jnp.maximum(examples.sum(), 1)


def token_losses(
    logits: Float[Array, "B T V"],
    targets: Int[Array, "B T"],
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Returns (cross entropy, z-loss) of each token, in nats.

    Args:
      logits: float32.
      targets: token ids.
      z_loss: coefficient of the square of the logits' log-normaliser, which keeps it near 0.
      label_smoothing: probability that the target distribution spreads evenly over the other
        tokens; the entropy of that distribution is taken off, so that a perfect model has loss 0.
    """
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    of_target = _of_target(logits, targets)
    cross_entropy = normalizer - of_target
    if label_smoothing:
        vocabulary = logits.shape[-1]
        low = label_smoothing / (vocabulary - 1)
        high = 1.0 - label_smoothing
        cross_entropy = normalizer - (high - low) * of_target - low * logits.sum(axis=-1)
        cross_entropy += high * math.log(high) + label_smoothing * math.log(low)
    return cross_entropy, z_loss * jnp.square(normalizer)


def _of_target(logits: Float[Array, "B T V"], targets: Int[Array, "B T"]) -> Float[Array, "B T"]:
    """Returns the target's logit, by comparison: a gather would suit no split vocabulary."""
    index = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    return jnp.sum(jnp.where(index == targets[..., None], logits, 0.0), axis=-1)


def weighted_loss(
    logits: Float[Array, "B T V"],
    targets: Int[Array, "B T"],
    weights: Int[Array, "B T"],
    share: Float[Array, "B T"],
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns (the objective, metrics as sums over the target tokens).

    Args:
      logits: float32.
      targets: token ids.
      weights: 1 where a token is a target, else 0.
      share: of `shares`; those of one batch may come in several parts, whose objectives add up.
      z_loss: as in `token_losses`.
      label_smoothing: as in `token_losses`.
    """
    cross_entropy, z = token_losses(logits, targets, z_loss, label_smoothing)
    wide = weights.astype(jnp.float32)
    # The largest logit is the cross entropy's too; argmax would read them all once more.
    right = _of_target(logits, targets) == jnp.max(logits, axis=-1)
    metrics = {
        "cross_ent_sum": (cross_entropy * wide).sum(),
        "z_loss_sum": (z * wide).sum(),
        "right": (right * wide).sum(),
        "target_tokens": wide.sum(),
    }
    return ((cross_entropy + z) * share).sum(), metrics

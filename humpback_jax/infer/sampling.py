"""Drawing the next token: greedily, or at random with a stream of its own for each request."""

import dataclasses
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError


@configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How tokens are drawn; the defaults are the paper's (section 3.1).

    Attributes:
      max_new_tokens: the most tokens a request may generate; it decides the size of the cache.
      temperature: divides the logits; 0 is greedy decoding.
      top_p: the nucleus is the smallest set of tokens that holds this share of the probability.
      top_k: before that, only the k most likely tokens are kept; 0 keeps all.
      min_p: nor are tokens kept that are less likely than this share of the most likely one.
      stop_strings: texts that end a request once one of them is in what it has generated.
      seed: of the random streams; each request's stream depends on it and on its id alone.
    """

    max_new_tokens: int
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    stop_strings: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.stop_strings, str):
            raise UsageError(
                f"SamplingConfig.stop_strings is the text {self.stop_strings!r}: give a list of "
                "texts"
            )
        object.__setattr__(self, "stop_strings", tuple(self.stop_strings))
        if "" in self.stop_strings:
            raise UsageError("SamplingConfig.stop_strings holds an empty text: take it out")
        if self.max_new_tokens < 1:
            raise UsageError(
                f"SamplingConfig.max_new_tokens is {self.max_new_tokens}: it must be at least 1"
            )
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(
                f"SamplingConfig.temperature is {self.temperature}: give 0 (greedy) or more"
            )
        if not 0 < self.top_p <= 1:
            raise UsageError(f"SamplingConfig.top_p is {self.top_p}: it must lie in (0, 1]")
        if self.top_k < 0:
            raise UsageError(f"SamplingConfig.top_k is {self.top_k}: give 0 (all tokens) or more")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"SamplingConfig.min_p is {self.min_p}: it must lie in [0, 1]")

    def compiled(self) -> "SamplingConfig":
        """Returns what of it is constant in a compiled program: the rest compiles nothing anew."""
        return dataclasses.replace(self, seed=0, stop_strings=())

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def request_key(seed: int, request_id: str) -> np.ndarray:
    """Returns the key of a request's random stream, [2] uint32.

    It depends on the seed and the id alone, so neither a request's position nor its neighbours
    nor the worker that serves it change what is drawn.
    """
    digest = hashlib.sha256(f"{seed}\x1f{request_id}".encode()).digest()
    return np.frombuffer(digest[:8], dtype=">u4").astype(np.uint32)


def sample(
    logits: Float[Array, "B V"],
    keys: UInt32[Array, "B 2"],
    steps: Int[Array, " B"],
    config: SamplingConfig,
) -> Int[Array, " B"]:
    """Returns one token for each row.

    Args:
      logits: float32.
      keys: each row's `request_key`.
      steps: how many tokens each row has generated before this one.
      config: its values are constants of the compiled program (the seed is not used here).
    """
    if config.greedy:
        return jnp.argmax(logits, axis=-1)
    scaled = logits / config.temperature
    scaled = jnp.where(kept(scaled, config), scaled, -jnp.inf)
    return jax.vmap(_draw)(keys, steps, scaled)


def _draw(key, step, logits):
    # Named, since a stream must not change with JAX's default generator.
    key = jax.random.wrap_key_data(key, impl="threefry2x32")
    return jax.random.categorical(jax.random.fold_in(key, step), logits)


def kept(logits: Float[Array, "B V"], config: SamplingConfig) -> Bool[Array, "B V"]:
    """Returns which tokens may be drawn: the nucleus of the `top_k` most likely ones.

    For probabilities [0.5 0.3 0.15 0.05] and top_p 0.9 they are [1 1 1 0], since the first two
    hold less than 0.9; with min_p 0.2 too, since 0.05 is less than a fifth of 0.5. Tokens as likely
    as the last one kept are kept as well.
    """
    kept = jnp.ones(logits.shape, bool)
    if config.min_p:
        kept = logits >= jnp.max(logits, axis=-1, keepdims=True) + math.log(config.min_p)
    if config.top_k:
        probabilities = jax.nn.softmax(logits, axis=-1)
        kept &= _most_likely(probabilities, jnp.ones_like(logits), float(config.top_k))
    if config.top_p < 1:
        probabilities = jax.nn.softmax(jnp.where(kept, logits, -jnp.inf), axis=-1)
        kept &= _most_likely(probabilities, probabilities, config.top_p)
    return kept


def _most_likely(
    probabilities: Float[Array, "B V"], weights: Float[Array, "B V"], target: float
) -> Bool[Array, "B V"]:
    """Returns the smallest set of most likely tokens whose weights add up to the target.

    The least probability in the set is found by bisecting over the bits of a float32 in [0, 1]:
    exact in 30 sums, without the sort of the vocabulary, and the same however V is sharded.
    """

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        least = jax.lax.bitcast_convert_type(middle, jnp.float32)
        enough = jnp.sum(jnp.where(probabilities >= least, weights, 0), -1, keepdims=True) >= target
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low = jnp.zeros((probabilities.shape[0], 1), jnp.int32)
    # One bit above 1.0: `low` always has enough, `high` never.
    high = jnp.full_like(low, int(np.float32(1).view(np.int32)) + 1)
    low, _ = jax.lax.fori_loop(0, 30, halve, (low, high))
    return probabilities >= jax.lax.bitcast_convert_type(low, jnp.float32)

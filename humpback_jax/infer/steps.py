"""The compiled steps of the engine: a prefix's KV, prefill, the decode loop, scoring.

Each is compiled once for each `Program` and shape; `TRACES` counts the compilations.
"""

import collections
import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt32

from humpback_jax.infer.sampling import SamplingConfig, sample
from humpback_jax.models import sharding
from humpback_jax.models.attention import KVCache, SharedPrefix
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.llama import Llama

TRACES: collections.Counter[str] = collections.Counter()


@dataclasses.dataclass(frozen=True)
class Program:
    """What is constant in a compiled step.

    Attributes:
      config: of the model.
      mesh: where it runs, or None for one device.
      sampling: how tokens are drawn; None where none are.
      stop_ids: the tokens that end a request.
    """

    config: LlamaConfig
    mesh: Mesh | None
    sampling: SamplingConfig | None = None
    stop_ids: tuple[int, ...] = ()


@flax.struct.dataclass
class Inputs:
    """A batch of prompts, padded on the right.

    Attributes:
      tokens: what follows the shared prefix.
      lengths: number of tokens in each row, at least 1.
      limits: the most tokens each row may generate; 0 marks a dummy row.
      keys: each row's random stream.
    """

    tokens: Int[Array, "B T"]
    lengths: Int[Array, " B"]
    limits: Int[Array, " B"]
    keys: UInt32[Array, "B 2"]


@flax.struct.dataclass
class State:
    """Where each row of a batch stands.

    Attributes:
      cache: keys and values of the prompt and of all generated tokens but the last.
      last: the token generated last, which the next step reads.
      positions: its position, counted with the prefix.
      counts: number of tokens generated, a stop token included.
      logprobs: sum of the generated tokens' log-probabilities, in nats.
      done: the row generates no more.
      stopped: because it generated a stop token.
      output: the generated tokens, padded with zeros.
    """

    cache: KVCache
    last: Int[Array, " B"]
    positions: Int[Array, " B"]
    counts: Int[Array, " B"]
    logprobs: Float[Array, " B"]
    done: Bool[Array, " B"]
    stopped: Bool[Array, " B"]
    output: Int[Array, "B M"]


_step = functools.partial(jax.jit, static_argnames=("program",))


@_step
def compute_prefix(program: Program, params: Any, tokens: Int[Array, "B P"]) -> SharedPrefix:
    """Returns the keys and values of a prefix; all rows are alike (a mesh wants one a device)."""
    TRACES["prefix"] += 1
    cache = KVCache.zeros(program.config, *tokens.shape)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    _, cache = _apply(program, params, tokens, positions, cache=cache)
    return SharedPrefix(cache.keys[:, 0], cache.values[:, 0])


@_step
def prefill(program: Program, params: Any, prefix: SharedPrefix | None, inputs: Inputs) -> State:
    """Reads the prompts and draws each row's first token."""
    TRACES["prefill"] += 1
    rows, length = inputs.tokens.shape
    assert program.sampling is not None
    new_tokens = program.sampling.max_new_tokens
    cache = _constrain(KVCache.zeros(program.config, rows, length + new_tokens))
    start = 0 if prefix is None else prefix.length
    positions = start + jnp.broadcast_to(jnp.arange(length), inputs.tokens.shape)
    logits, cache = _apply(
        program, params, inputs.tokens, positions,
        cache=cache, prefix=prefix, select=inputs.lengths - 1,
    )  # fmt: skip
    empty = jnp.zeros(rows, jnp.int32)
    state = State(
        cache=_constrain(cache),
        last=empty,
        positions=start + inputs.lengths - 1,
        counts=empty,
        logprobs=jnp.zeros(rows, jnp.float32),
        done=inputs.limits == 0,
        stopped=jnp.zeros(rows, bool),
        output=jnp.zeros((rows, new_tokens), jnp.int32),
    )
    return _record(program, state, logits[:, 0], inputs)


@functools.partial(_step, donate_argnames=("state",))
def decode(
    program: Program, params: Any, prefix: SharedPrefix | None, state: State, inputs: Inputs
) -> State:
    """Generates on the device until every row is done, without a word to the host."""
    TRACES["decode"] += 1

    def step(state: State) -> State:
        logits, cache = _apply(
            program, params, state.last[:, None], state.positions[:, None],
            cache=state.cache, prefix=prefix,
        )  # fmt: skip
        state = dataclasses.replace(state, cache=_constrain(cache))
        return _record(program, state, logits[:, 0], inputs)

    return jax.lax.while_loop(lambda state: ~jnp.all(state.done), step, state)


@_step
def score(
    program: Program,
    params: Any,
    prefix: SharedPrefix | None,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    choices: Int[Array, " C"],
) -> Float[Array, "B C"]:
    """Returns the log-probability of each choice as the token after each row's last."""
    TRACES["score"] += 1
    start = 0 if prefix is None else prefix.length
    positions = start + jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    logits, _ = _apply(program, params, tokens, positions, prefix=prefix, select=lengths - 1)
    return jax.nn.log_softmax(logits[:, 0], axis=-1)[:, choices]


def _apply(program: Program, params: Any, tokens, positions, **kwargs) -> tuple[Any, Any]:
    return Llama(program.config).apply({"params": params}, tokens, positions, **kwargs)


def _record(program: Program, state: State, logits: Float[Array, "B V"], inputs: Inputs) -> State:
    """Draws a token for each row that is not done, and writes down what follows from it."""
    assert program.sampling is not None
    tokens = sample(logits, inputs.keys, state.counts, program.sampling)
    tokens = tokens.astype(jnp.int32)
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    logprobs = jnp.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]
    active = ~state.done
    # A row that is done writes beyond the end, where nothing is.
    column = jnp.where(active, state.counts, state.output.shape[1])
    rows = jnp.arange(tokens.shape[0])
    stopped = active & jnp.isin(tokens, jnp.asarray(program.stop_ids, jnp.int32))
    counts = state.counts + active
    return dataclasses.replace(
        state,
        last=jnp.where(active, tokens, state.last),
        positions=state.positions + active,
        counts=counts,
        logprobs=state.logprobs + jnp.where(active, logprobs, 0.0),
        done=state.done | stopped | (counts >= inputs.limits),
        stopped=state.stopped | stopped,
        output=state.output.at[rows, column].set(tokens, mode="drop"),
    )


def _constrain(cache: KVCache) -> KVCache:
    """Shards a cache by batch and, where the tensor axis divides them, by KV heads."""
    axes = ("layers", "batch", "length", "kv_heads", "kv")
    return jax.tree.map(lambda x: sharding.constrain(x, axes), cache)

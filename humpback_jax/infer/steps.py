"""The compiled steps of the engine: a prefix's KV, prefill, insertion, the decode loop, scoring.

Each is compiled once for each `Program` and shape; `TRACES` counts how often each was traced.
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
from humpback_jax.models.attention import Packing
from humpback_jax.models.cache import BlockCache, KVCache, SharedPrefix
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.dense import TRAINED, Form
from humpback_jax.models.llama import Cache, Llama

TRACES: collections.Counter[str] = collections.Counter()


@dataclasses.dataclass(frozen=True)
class Program:
    """What is constant in a compiled step.

    Attributes:
      config: of the model.
      mesh: where it runs, or None for one device.
      sampling: how tokens are drawn; None where none are.
      stop_ids: the tokens that end a request.
      cache_dtype: of the keys and values that are kept, by default the computation's.
      form: of the weights.
    """

    config: LlamaConfig
    mesh: Mesh | None
    sampling: SamplingConfig | None = None
    stop_ids: tuple[int, ...] = ()
    cache_dtype: str | None = None
    form: Form = TRAINED

    @property
    def cache(self) -> type[Cache]:
        return BlockCache if self.form.per_layer else KVCache

    @property
    def new_tokens(self) -> int:
        assert self.sampling is not None
        return self.sampling.max_new_tokens


@flax.struct.dataclass
class Inputs:
    """Prompts to be read together: W groups, one a device, of R rows in N tokens.

    Attributes:
      tokens: what follows the shared prefix, row behind row, padded at each group's end.
      positions: of each token in its row.
      packing: which tokens make up which row.
      last: index of each row's last token in its group.
      limits: the most tokens each row may generate; 0 marks a dummy row.
      keys: each row's random stream.
    """

    tokens: Int[Array, "W N"]
    positions: Int[Array, "W N"]
    packing: Packing
    last: Int[Array, "W R"]
    limits: Int[Array, " W*R"]
    keys: UInt32[Array, "W*R 2"]

    def read(self, program: "Program", params: Any, prefix: SharedPrefix | None, cache=None):
        """Returns (each row's logits after its last token [W*R, V], the cache)."""
        start = 0 if prefix is None else prefix.length
        logits, cache = _apply(
            program, params, self.tokens, start + self.positions,
            cache=cache, prefix=prefix, packing=self.packing, select=self.last,
        )  # fmt: skip
        return logits.reshape(-1, logits.shape[-1]), cache


@flax.struct.dataclass
class Progress:
    """What the host wants to know of each slot.

    Attributes:
      counts: number of tokens generated, a stop token included.
      done: the slot generates no more; a free one is done.
      stopped: because it generated a stop token.
      output: the generated tokens, padded with zeros.
      logprobs: their log-probabilities, in nats.
    """

    counts: Int[Array, " B"]
    done: Bool[Array, " B"]
    stopped: Bool[Array, " B"]
    output: Int[Array, "B M"]
    logprobs: Float[Array, "B M"]


@flax.struct.dataclass
class State:
    """Where each slot stands.

    Attributes:
      cache: keys and values of the prompt and of all generated tokens but the last.
      last: the token generated last, which the next step reads.
      positions: its position, counted with the prefix.
      limits: the most tokens the slot may generate.
      keys: its random stream.
      progress: what it has generated.
    """

    cache: Cache
    last: Int[Array, " B"]
    positions: Int[Array, " B"]
    limits: Int[Array, " B"]
    keys: UInt32[Array, "B 2"]
    progress: Progress


_step = functools.partial(jax.jit, static_argnames=("program",))


@_step
def compute_prefix(program: Program, params: Any, tokens: Int[Array, "B P"]) -> SharedPrefix:
    """Returns the keys and values of a prefix; all rows are alike (a mesh wants one a device)."""
    TRACES["prefix"] += 1
    cache = program.cache.zeros(program.config, tokens.shape[0], tokens.shape[1])
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    _, cache = _apply(program, params, tokens, positions, cache=cache)
    return cache.first_row()


@functools.partial(jax.jit, static_argnames=("program", "slots", "length"))
def free_slots(program: Program, slots: int, length: int) -> State:
    """Returns slots of which each has room for `length` tokens and none is in use."""
    TRACES["free_slots"] += 1
    cache = program.cache.zeros(program.config, slots, length, program.cache_dtype)
    none, nothing = jnp.zeros(slots, jnp.int32), jnp.zeros((slots, program.new_tokens), jnp.int32)
    progress = Progress(
        none, jnp.ones(slots, bool), jnp.zeros(slots, bool), nothing, nothing.astype(jnp.float32)
    )
    keys = jnp.zeros((slots, 2), jnp.uint32)
    return _constrain(State(cache, none, none, none, keys, progress))


@_step
def prefill(program: Program, params: Any, prefix: SharedPrefix | None, inputs: Inputs) -> State:
    """Reads the prompts and draws each row's first token; the rows have room for no other."""
    TRACES["prefill"] += 1
    _, _, length = inputs.packing.rows.shape
    state = free_slots(program, inputs.limits.shape[0], length)
    start = 0 if prefix is None else prefix.length
    logits, cache = inputs.read(program, params, prefix, state.cache)
    last = jnp.take_along_axis(inputs.positions, inputs.last, axis=1).reshape(-1)
    state = dataclasses.replace(
        state,
        cache=cache,
        positions=start + last,
        limits=inputs.limits,
        keys=inputs.keys,
        progress=dataclasses.replace(state.progress, done=inputs.limits == 0),
    )
    return _constrain(_record(program, state, logits))


@functools.partial(_step, donate_argnames=("state",))
def insert(
    program: Program,
    state: State,
    rows: State,
    sources: Int[Array, " R"],
    slots: Int[Array, " R"],
    count: Int[Array, ""],
) -> State:
    """Puts `count` freshly read rows into slots, in place: row sources[i] into slots[i].

    All of a slot is written, so that nothing is left of the request before: a weight of 0 hides a
    number, but no NaN.
    """
    TRACES["insert"] += 1

    def take(i, tree, axis):
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, sources[i], 1, axis), tree)

    def put(i, tree, row, axis):
        return jax.tree.map(
            lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, slots[i], axis), tree, row
        )

    def body(i, state: State) -> State:
        axis = state.cache.batch_axis
        # One row at a time is as long as a slot.
        row = take(i, rows.cache, axis).widened(state.cache.length)
        cache = put(i, state.cache, row, axis)
        rest = dataclasses.replace(state, cache=None)
        rest = put(i, rest, take(i, dataclasses.replace(rows, cache=None), 0), 0)
        return dataclasses.replace(rest, cache=cache)

    return _constrain(jax.lax.fori_loop(0, count, body, state))


@functools.partial(jax.jit, static_argnames=("program", "window"), donate_argnames=("state",))
def decode(
    program: Program,
    params: Any,
    prefix: SharedPrefix | None,
    state: State,
    cancelled: Bool[Array, " B"],
    steps: Int[Array, ""],
    enough: Int[Array, ""],
    window: int,
) -> tuple[State, Progress]:
    """Generates on the device, without a word to the host.

    Args:
      program: the constants.
      params: of the model.
      prefix: what all slots share.
      state: the slots; their memory is used again.
      cancelled: slots that are to generate no more.
      steps: the most tokens for each slot.
      enough: ends as soon as so many slots are done.
      window: no slot that is in use gets beyond this many entries of its cache.

    Returns:
      (the slots, what the host wants to know of them).
    """
    TRACES["decode"] += 1
    done = state.progress.done | cancelled
    state = dataclasses.replace(state, progress=dataclasses.replace(state.progress, done=done))

    def goes_on(carry):
        step, state = carry
        return (step < steps) & (state.progress.done.sum() < enough)

    def body(carry):
        step, state = carry
        logits, cache = _apply(
            program, params, state.last[:, None], state.positions[:, None],
            cache=state.cache, prefix=prefix, window=window,
        )  # fmt: skip
        state = dataclasses.replace(state, cache=cache)
        return step + 1, _constrain(_record(program, state, logits[:, 0]))

    _, state = jax.lax.while_loop(goes_on, body, (jnp.zeros((), jnp.int32), state))
    # Every host of a pod reads it whole.
    progress = jax.tree.map(lambda x: sharding.constrain(x, (None,) * x.ndim), state.progress)
    return _constrain(state), progress


@_step
def score(
    program: Program,
    params: Any,
    prefix: SharedPrefix | None,
    inputs: Inputs,
    choices: Int[Array, " C"],
) -> Float[Array, "W*R C"]:
    """Returns the log-probability of each choice as the token after each row's last."""
    TRACES["score"] += 1
    logits, _ = inputs.read(program, params, prefix)
    return sharding.constrain(jax.nn.log_softmax(logits, axis=-1)[:, choices], (None, None))


def _apply(program: Program, params: Any, tokens, positions, **kwargs) -> tuple[Any, Any]:
    model = Llama(program.config, program.form)
    return model.apply({"params": params}, tokens, positions, **kwargs)


def _record(program: Program, state: State, logits: Float[Array, "B V"]) -> State:
    """Draws a token for each slot that is not done, and writes down what follows from it."""
    assert program.sampling is not None
    before = state.progress
    tokens = sample(logits, state.keys, before.counts, program.sampling).astype(jnp.int32)
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    logprobs = jnp.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]
    active = ~before.done
    # A slot that is done writes beyond the end, where nothing is.
    column = jnp.where(active, before.counts, before.output.shape[1])
    rows = jnp.arange(tokens.shape[0])
    stopped = active & jnp.isin(tokens, jnp.asarray(program.stop_ids, jnp.int32))
    counts = before.counts + active
    return dataclasses.replace(
        state,
        last=jnp.where(active, tokens, state.last),
        positions=state.positions + active,
        progress=Progress(
            counts=counts,
            done=before.done | stopped | (counts >= state.limits),
            stopped=before.stopped | stopped,
            output=before.output.at[rows, column].set(tokens, mode="drop"),
            logprobs=before.logprobs.at[rows, column].set(logprobs, mode="drop"),
        ),
    )


def _constrain(state: State) -> State:
    """Shards slots by batch, and their cache by KV heads as well."""
    rest = jax.tree.map(
        lambda x: sharding.constrain(x, ("batch",) + (None,) * (x.ndim - 1)),
        dataclasses.replace(state, cache=None),
    )
    return dataclasses.replace(rest, cache=state.cache.constrain())

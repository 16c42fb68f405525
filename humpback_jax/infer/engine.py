"""The inference engine: many requests through few compiled programs of static shape.

Requests are sorted into length buckets, and each bucket's into batches of one fixed size, filled
up with dummy rows. A request's bucket, cache and random stream depend on the request alone, so its
result does not depend on its neighbours, its place or the order.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from humpback_jax import partitioning
from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError
from humpback_jax.infer import steps
from humpback_jax.infer.sampling import SamplingConfig, request_key
from humpback_jax.models.attention import SharedPrefix
from humpback_jax.models.config import LlamaConfig

FinishReason = Literal["stop", "length", "too_long"]


@configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The shapes of the engine's programs.

    Attributes:
      batch_size: rows of a batch.
      buckets: prompt lengths in tokens (without a shared prefix) that prompts are padded to,
        rising; a longer prompt is "too_long".
      max_batch_tokens: the most padded prompt tokens of a batch, 0 for no limit: long buckets
        then get fewer rows, so that their prefill fits into memory.
    """

    batch_size: int
    buckets: tuple[int, ...]
    max_batch_tokens: int = 0

    def __post_init__(self):
        object.__setattr__(self, "buckets", tuple(self.buckets))  # gin binds lists as well
        if self.batch_size < 1:
            raise UsageError(f"EngineConfig.batch_size is {self.batch_size}: give at least 1")
        rising = sorted({b for b in self.buckets if b > 0})
        if not rising or list(self.buckets) != rising:
            raise UsageError(
                f"EngineConfig.buckets is {self.buckets}: give rising prompt lengths of at least 1"
            )

    def rows(self, bucket: int, multiple: int) -> int:
        """Returns the batch size of a bucket, a multiple of the devices that split a batch."""
        rows = self.batch_size
        if self.max_batch_tokens:
            rows = min(rows, max(1, self.max_batch_tokens // bucket))
        return -(-rows // multiple) * multiple


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt (BOS included) to be continued; its random stream is keyed by `request_id`.

    `max_new_tokens` may lower the limit of the sampling configuration.
    """

    request_id: str
    prompt_ids: Sequence[int]
    max_new_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What a request generated.

    Attributes:
      request_id: of the request.
      token_ids: the generated tokens without the stop token.
      finish_reason: "stop" at a stop token; "length" at the limit or the model's longest
        sequence; "too_long" if the prompt fits no bucket, and nothing was generated.
      logprob: the model's own log-probability (temperature 1, no nucleus) of the generated
        tokens, stop token included, in nats.
    """

    request_id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprob: float


@dataclasses.dataclass(frozen=True)
class ChoiceScores:
    """How likely each choice is as the next token of each of n requests.

    Attributes:
      log_probs: [n, C] float32, of the whole vocabulary, in nats; NaN where too long.
      probabilities: [n, C] float32, among the choices alone (rows add up to 1); NaN likewise.
      too_long: [n] bool, the prompt fits no bucket.
    """

    log_probs: np.ndarray
    probabilities: np.ndarray
    too_long: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Row:
    """A request that fits: its place among the requests, its own tokens, its limit and key."""

    index: int
    tokens: Sequence[int]
    limit: int
    key: np.ndarray | None
    shares_prefix: bool
    bucket: int


class Engine:
    """Generates and scores with one model.

    Example:
      engine = Engine(model.config, model.params, EngineConfig(batch_size=64, buckets=(256, 1024)),
                      stop_ids=model.eos_ids)
      results = engine.generate([Request("a", ids)], SamplingConfig(max_new_tokens=128))
    """

    def __init__(
        self,
        config: LlamaConfig,
        params: Any,
        engine_config: EngineConfig,
        stop_ids: Sequence[int],
        mesh: Mesh | None = None,
    ):
        """Makes an engine.

        Args:
          config: of the model.
          params: its parameters, sharded over the mesh if one is given.
          engine_config: the shapes.
          stop_ids: tokens that end a request.
          mesh: axes (data, fsdp, tensor); None runs on the parameters' one device.
        """
        self.config = config
        self.engine_config = engine_config
        self.stop_ids = tuple(stop_ids)
        self.mesh = mesh
        self._params = params
        self._split = 1 if mesh is None else partitioning.batch_ways(mesh)
        self._prefix: tuple[tuple[int, ...], SharedPrefix | None] = ((), None)

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, prefix: Sequence[int] = ()
    ) -> list[Result]:
        """Returns a result for each request, in their order.

        Args:
          requests: prompts, whole ones even where they begin with the prefix.
          sampling: how tokens are drawn.
          prefix: tokens that prompts begin with; their keys and values are computed once and
            shared by every prompt that does begin with them. Others are computed in full.
        """
        results = [Result(r.request_id, (), "too_long", 0.0) for r in requests]
        # The seed is in the keys: another one must not compile another program.
        fixed = dataclasses.replace(sampling, seed=0)
        program = steps.Program(self.config, self.mesh, fixed, self.stop_ids)
        for rows, shared in self._batches(requests, tuple(prefix), sampling):
            with self._rules():
                inputs = self._inputs(rows)
                state = steps.prefill(program, self._params, shared, inputs)
                state = steps.decode(program, self._params, shared, state, inputs)
            fields = (state.output, state.counts, state.stopped, state.logprobs)
            output, counts, stopped, logprobs = jax.device_get(fields)
            for i, row in enumerate(rows):
                ids = output[i, : counts[i] - stopped[i]].tolist()
                reason = "stop" if stopped[i] else "length"
                request_id = requests[row.index].request_id
                results[row.index] = Result(request_id, tuple(ids), reason, float(logprobs[i]))
        return results

    def score_choices(
        self, requests: Sequence[Request], choices: Sequence[int], prefix: Sequence[int] = ()
    ) -> ChoiceScores:
        """Returns how likely each choice is as the token after each prompt; nothing is generated.

        Args:
          requests: prompts, whole ones even where they begin with the prefix.
          choices: C token ids.
          prefix: as in `generate`.
        """
        log_probs = np.full((len(requests), len(choices)), np.nan, np.float32)
        too_long = np.ones(len(requests), bool)
        program = steps.Program(self.config, self.mesh)
        ids = np.asarray(choices, np.int32)
        for rows, shared in self._batches(requests, tuple(prefix), None):
            with self._rules():
                inputs = self._inputs(rows)
                scores = steps.score(
                    program, self._params, shared, inputs.tokens, inputs.lengths, ids
                )
            indices = [row.index for row in rows]
            log_probs[indices] = jax.device_get(scores)[: len(rows)]
            too_long[indices] = False
        weights = np.exp(log_probs - log_probs.max(axis=1, keepdims=True, initial=-np.inf))
        probabilities = weights / weights.sum(axis=1, keepdims=True)
        return ChoiceScores(log_probs, probabilities, too_long)

    def fits(self, prompt_ids: Sequence[int], prefix: Sequence[int] = ()) -> bool:
        """Returns whether `score_choices` would score this prompt."""
        return self._row(0, Request("", prompt_ids), tuple(prefix), None) is not None

    def _rules(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.mesh is None else partitioning.rules(self.mesh)

    def _batches(
        self, requests: Sequence[Request], prefix: tuple[int, ...], sampling: SamplingConfig | None
    ) -> Iterator[tuple[list[_Row], SharedPrefix | None]]:
        """Yields the batches of all requests that fit, and the prefix that each shares."""
        rows = [self._row(i, r, prefix, sampling) for i, r in enumerate(requests)]
        fitting = [row for row in rows if row is not None]

        def group(row: _Row) -> tuple[bool, int]:
            return row.shares_prefix, row.bucket

        # Rows of like length and limit together, so that a batch ends early.
        fitting.sort(key=lambda row: (*group(row), row.limit, len(row.tokens), row.index))
        for (shares_prefix, bucket), members in itertools.groupby(fitting, group):
            shared = self._shared_prefix(prefix) if shares_prefix else None
            size = self.engine_config.rows(bucket, self._split)
            for batch in _chunks(list(members), size):
                yield batch, shared

    def _row(
        self, index: int, request: Request, prefix: tuple[int, ...], sampling: SamplingConfig | None
    ) -> _Row | None:
        """Returns the request as a row of a batch, or None if it is too long."""
        ids = request.prompt_ids
        if not len(ids):
            raise ValueError(f"request {request.request_id} has no tokens: begin it with BOS")
        shares = bool(prefix) and len(ids) > len(prefix) and tuple(ids[: len(prefix)]) == prefix
        own = ids[len(prefix) :] if shares else ids
        bucket = next((b for b in self.engine_config.buckets if b >= len(own)), None)
        room = self.config.max_length - len(ids)
        if bucket is None or room < (0 if sampling is None else 1):
            return None
        if sampling is None:
            return _Row(index, own, 0, None, shares, bucket)
        limit = sampling.max_new_tokens
        if request.max_new_tokens is not None:
            limit = min(limit, request.max_new_tokens)
        if limit < 1:
            raise ValueError(f"request {request.request_id} asks for {limit} tokens: ask for one")
        key = request_key(sampling.seed, request.request_id)
        return _Row(index, own, min(limit, room), key, shares, bucket)

    def _inputs(self, rows: list[_Row]) -> steps.Inputs:
        """Returns the rows as padded arrays on the devices; dummy rows hold one token."""
        bucket = rows[0].bucket
        size = self.engine_config.rows(bucket, self._split)
        tokens = np.zeros((size, bucket), np.int32)
        lengths, limits = np.ones(size, np.int32), np.zeros(size, np.int32)
        keys = np.zeros((size, 2), np.uint32)
        for i, row in enumerate(rows):
            tokens[i, : len(row.tokens)] = row.tokens
            lengths[i], limits[i] = len(row.tokens), row.limit
            if row.key is not None:
                keys[i] = row.key
        sharding = None if self.mesh is None else partitioning.batch_sharding(self.mesh)
        return steps.Inputs(*jax.device_put((tokens, lengths, limits, keys), sharding))

    def _shared_prefix(self, prefix: tuple[int, ...]) -> SharedPrefix | None:
        """Returns the prefix's keys and values; those of the last prefix are kept."""
        if self._prefix[0] != prefix:
            program = steps.Program(self.config, self.mesh)
            tokens = np.broadcast_to(np.asarray(prefix, np.int32), (self._split, len(prefix)))
            with self._rules():
                shared = steps.compute_prefix(program, self._params, tokens)
            self._prefix = (prefix, shared)
        return self._prefix[1]


def _chunks(rows: list[_Row], size: int) -> Iterator[list[_Row]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]

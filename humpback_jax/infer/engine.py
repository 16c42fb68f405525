"""The inference engine: many requests through few compiled programs of static shape.

A request's bucket says how long its slot's cache is. The requests of a bucket pass through a fixed
number of slots: a slot that is done takes the next request, while its neighbours go on. Bucket,
cache and random stream depend on the request alone, and what neighbours do changes no bit of it,
so its result depends neither on them, nor on its slot, nor on the order.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from humpback_jax import partitioning
from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError
from humpback_jax.infer import memory, packing, steps, weights
from humpback_jax.infer.packing import BatchShape
from humpback_jax.infer.sampling import SamplingConfig, request_key
from humpback_jax.models.cache import SharedPrefix
from humpback_jax.models.config import DTYPES, INT8, LlamaConfig

FinishReason = Literal["stop", "length", "too_long"]


@configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The shapes of the engine's programs.

    Attributes:
      slots: requests that are generated at a time.
      buckets: prompt lengths in tokens (without a shared prefix) that prompts are padded to,
        rising; a longer prompt is "too_long".
      max_batch_tokens: the most prompt tokens that are read together, so that the prefill of long
        buckets fits into memory; 0 for no limit. The longest prompt is always read.
      steps_per_sync: tokens that slots may generate before the host hears of them.
      cache_dtype: of the keys and values that are kept, "int8" or one of DTYPES; by default that of
        the computation.
      weights_dtype: "int8" quantises the kernels; by default weights stay as they are.
      warm_up: stages compile the programs of all buckets before their first shard, those that no
        prompt needs among them.
    """

    slots: int
    buckets: tuple[int, ...]
    max_batch_tokens: int = 0
    steps_per_sync: int = 32
    cache_dtype: str | None = None
    weights_dtype: str | None = None
    warm_up: bool = True

    def __post_init__(self):
        object.__setattr__(self, "buckets", tuple(self.buckets))  # gin binds lists as well
        for name in ("slots", "steps_per_sync"):
            if getattr(self, name) < 1:
                raise UsageError(f"EngineConfig.{name} is {getattr(self, name)}: give at least 1")
        rising = sorted({b for b in self.buckets if b > 0})
        if not rising or list(self.buckets) != rising:
            raise UsageError(
                f"EngineConfig.buckets is {self.buckets}: give rising prompt lengths of at least 1"
            )
        for name, known in (("cache_dtype", (*DTYPES, INT8)), ("weights_dtype", (INT8,))):
            if getattr(self, name) not in (None, *known):
                raise UsageError(
                    f"EngineConfig.{name} is {getattr(self, name)!r}: choose None or one of {known}"
                )

    def scored(self, bucket: int, ways: int) -> BatchShape:
        """Returns the shape in which prompts of a bucket are scored: half as many as `slots`.

        The fewer they are, the less of the last batch is padding.

        Args:
          bucket: tokens of the longest prompt.
          ways: devices that split a batch.
        """
        return self._shape(max(1, self.slots // 2 // ways), bucket, ways)

    def refill(self, bucket: int, ways: int) -> BatchShape:
        """Returns the shape in which prompts of a bucket are read to be continued.

        As many slots wait, free, until they are filled: a quarter of them at most.
        """
        return self._shape(max(1, self.slots // 4 // ways), bucket, ways)

    def slots_over(self, ways: int) -> int:
        """Returns the number of slots, a multiple of the devices that split a batch."""
        return -(-self.slots // ways) * ways

    def _shape(self, rows: int, bucket: int, ways: int) -> BatchShape:
        """Returns a batch of at most so many rows a device, with tokens for half of the longest."""
        longest = -(-rows // 2)
        if self.max_batch_tokens:
            longest = min(longest, self.max_batch_tokens // ways // bucket)
        tokens = max(1, longest) * bucket
        # All rows are longer than the bucket before: no more of them fit.
        shortest = 1 + max((b for b in self.buckets if b < bucket), default=0)
        return BatchShape(ways, min(rows, tokens // shortest), tokens, bucket)


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
      finish_reason: "stop" at a stop token or string; "length" at the limit or the model's
        longest sequence; "too_long" if the prompt fits no bucket, and nothing was generated.
      logprobs: the model's own log-probabilities (temperature 1, no nucleus) of the generated
        tokens, the stop token's last, in nats.
      stop_string: the text that ended it, which the last token completed; empty if none did.
    """

    request_id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[float, ...] = ()
    stop_string: str = ""

    @property
    def logprob(self) -> float:
        """The log-probability of all that was generated, in nats."""
        return math.fsum(self.logprobs)

    def text(self, detokenize: Callable[[Sequence[int]], str]) -> str:
        """Returns what was generated before the stop string, without spaces around it."""
        text = detokenize(self.token_ids)
        return (text.partition(self.stop_string)[0] if self.stop_string else text).strip()


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
    request_id: str
    tokens: Sequence[int]
    limit: int
    key: np.ndarray | None
    shares_prefix: bool
    bucket: int


class Slots:
    """The slots through which the requests of one bucket pass."""

    def __init__(
        self,
        program: steps.Program,
        params: Any,
        prefix: SharedPrefix | None,
        config: EngineConfig,
        bucket: int,
        find_stop: Callable[[Sequence[int]], tuple[int, str] | None] | None = None,
    ):
        """Makes free slots.

        Args:
          program: the constants of the compiled steps.
          params: of the model.
          prefix: what all requests begin with.
          config: the shapes.
          bucket: tokens of the longest prompt, without the prefix.
          find_stop: says where generated tokens end by a stop string, if any is looked for.

        Raises:
          UserError: the devices have no room for them.
        """
        ways = 1 if program.mesh is None else partitioning.batch_ways(program.mesh)
        slots, self._length = config.slots_over(ways), bucket + program.new_tokens
        self._shape = config.refill(bucket, ways)
        memory.check_room(
            program.config, program.mesh, slots, self._shape.all_rows, bucket, self._length,
            program.cache_dtype,
        )  # fmt: skip
        self._program, self._params, self._prefix = program, params, prefix
        self._steps, self._find_stop = config.steps_per_sync, find_stop
        self._state = steps.free_slots(program, slots, self._length)
        if program.mesh is None:
            # Committed to the parameters' device from the first, or `insert` is compiled twice.
            (device,) = jax.tree.leaves(params)[0].devices()
            self._state = jax.device_put(self._state, device)
        self._held: list[_Row | None] = [None] * slots
        self._counts = np.zeros(slots, np.int32)
        self._cancelled = np.zeros(slots, bool)

    def run(self, rows: Sequence[_Row]) -> Iterator[tuple[_Row, Result]]:
        """Yields each request with its result, as they are done; they get slots in this order."""
        waiting = collections.deque(rows)
        while waiting or any(self._held):
            while waiting and self._free() >= len(places := self._places(waiting)):
                self._insert([waiting.popleft() for _ in places], places)
            enough = len(self._places(waiting)) if waiting else len(self._held)
            yield from self._decode(enough)

    def warm_up(self) -> None:
        """Compiles all that `run` can need."""
        self._insert([], [])
        for window in self._windows():
            self._step(0, window)

    def _free(self) -> int:
        return self._held.count(None)

    def _places(self, waiting: Sequence[_Row]) -> list[int]:
        """Returns where in a prefill the next rows go: a full one, or all that wait."""
        some = itertools.islice(waiting, self._shape.all_rows)
        return list(packing.place((len(row.tokens) for row in some), self._shape).values())

    def _insert(self, rows: list[_Row], places: list[int]) -> None:
        inputs = _inputs(rows, places, self._shape, self._program.mesh)
        read = steps.prefill(self._program, self._params, self._prefix, inputs)
        free = [i for i, row in enumerate(self._held) if row is None][: len(rows)]
        sources, slots = np.zeros((2, self._shape.all_rows), np.int32)
        sources[: len(rows)], slots[: len(rows)] = places, free
        self._state = steps.insert(self._program, self._state, read, sources, slots, len(rows))
        for slot, row in zip(free, rows, strict=True):
            self._held[slot], self._counts[slot], self._cancelled[slot] = row, 1, False

    def _decode(self, enough: int) -> Iterator[tuple[_Row, Result]]:
        """Generates some tokens for the slots in use, and yields the requests that are done."""
        progress = jax.device_get(self._step(enough, self._window()))
        self._counts = progress.counts.copy()
        for slot, row in enumerate(self._held):
            if row is None or not (progress.done[slot] or self._find_stop):
                continue
            result = self._result(row, progress, slot)
            if progress.done[slot] or result.stop_string:
                self._held[slot], self._cancelled[slot] = None, True
                yield row, result

    def _step(self, enough: int, window: int) -> steps.Progress:
        self._state, progress = steps.decode(
            self._program, self._params, self._prefix, self._state,
            self._cancelled, self._steps, enough, window,
        )  # fmt: skip
        return progress

    def _windows(self) -> tuple[int, ...]:
        """Returns how many entries of the cache a step may read, rising."""
        return self._program.cache.windows(self._length)

    def _window(self) -> int:
        """Returns how many entries the next steps read: those of the longest slot."""
        longest = max(
            len(row.tokens) + min(row.limit, int(count) + self._steps)
            for row, count in zip(self._held, self._counts, strict=True)
            if row is not None
        )
        return next(window for window in self._windows() if window >= longest)

    def _result(self, row: _Row, progress: steps.Progress, slot: int) -> Result:
        """Returns what a slot has generated, up to a stop string if there is one."""
        count, stopped = int(progress.counts[slot]), bool(progress.stopped[slot])
        token_ids = progress.output[slot, : count - stopped].tolist()
        found = self._find_stop(token_ids) if self._find_stop else None
        if found is not None:
            count, stopped, token_ids = found[0], True, token_ids[: found[0]]
        return Result(
            row.request_id,
            tuple(token_ids),
            "stop" if stopped else "length",
            tuple(progress.logprobs[slot, :count].tolist()),
            found[1] if found is not None else "",
        )


def _inputs(
    rows: list[_Row], places: list[int], shape: BatchShape, mesh: Mesh | None
) -> steps.Inputs:
    """Returns rows packed, on the devices."""
    prompts, limits = [row.tokens for row in rows], [row.limit for row in rows]
    inputs = packing.pack(prompts, places, limits, [row.key for row in rows], shape)
    return jax.device_put(inputs, None if mesh is None else partitioning.batch_sharding(mesh))


class Engine:
    """Generates and scores with one model.

    Example:
      engine = Engine(model.config, model.params, EngineConfig(slots=64, buckets=(256, 1024)),
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
        detokenize: Callable[[Sequence[int]], str] | None = None,
    ):
        """Makes an engine.

        Args:
          config: of the model.
          params: its parameters, sharded over the mesh if one is given; on a TPU the engine lays
            them out anew and they are its own from then on. Engines that are to share them take
            `weights.prepare(params)`.
          engine_config: the shapes.
          stop_ids: tokens that end a request.
          mesh: axes (data, fsdp, tensor); None runs on the parameters' one device.
          detokenize: turns tokens into text, for stop strings.
        """
        self.config = config
        self.engine_config = engine_config
        self.stop_ids = tuple(stop_ids)
        self.mesh = mesh
        self._detokenize = detokenize
        self._weights = weights.prepare(params, engine_config.weights_dtype)
        self._params = self._weights.params
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
        results = [Result(r.request_id, (), "too_long") for r in requests]
        program = self._program(sampling)
        find_stop = self._find_stop(sampling)
        for bucket, rows, shared in self._groups(requests, tuple(prefix), sampling):
            # The longest first, so that none is left to run alone at the end.
            rows.sort(key=lambda row: (-row.limit, row.index))
            with self._rules():
                slots = Slots(program, self._params, shared, self.engine_config, bucket, find_stop)
                for row, result in slots.run(rows):
                    results[row.index] = result
                del slots  # before the next bucket's are made: there may be no room for both
        return results

    def warm_up(self, sampling: SamplingConfig, prefix: Sequence[int] = ()) -> None:
        """Compiles all that `generate` can need for this sampling, with and without the prefix."""
        program = self._program(sampling)
        for bucket, shared in self._kinds(prefix):
            with self._rules():
                Slots(program, self._params, shared, self.engine_config, bucket).warm_up()

    def warm_up_scores(self, choices: Sequence[int], prefix: Sequence[int] = ()) -> None:
        """Compiles all that `score_choices` can need for so many choices, likewise."""
        for bucket, shared in self._kinds(prefix):
            self._score([], [], bucket, shared, choices)

    def _kinds(self, prefix: Sequence[int]) -> Iterator[tuple[int, SharedPrefix | None]]:
        """Yields (bucket, what its requests share) for all groups that requests may fall into."""
        for shared in (None, self._shared_prefix(tuple(prefix))) if prefix else (None,):
            for bucket in self.engine_config.buckets:
                yield bucket, shared

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
        for bucket, group, shared in self._groups(requests, tuple(prefix), None):
            for rows, places in self._batches(group, bucket):
                indices = [row.index for row in rows]
                log_probs[indices] = self._score(rows, places, bucket, shared, choices)
                too_long[indices] = False
        weights = np.exp(log_probs - log_probs.max(axis=1, keepdims=True, initial=-np.inf))
        probabilities = weights / weights.sum(axis=1, keepdims=True)
        return ChoiceScores(log_probs, probabilities, too_long)

    def _batches(self, rows: list[_Row], bucket: int) -> Iterator[tuple[list[_Row], list[int]]]:
        """Yields (rows that are scored together, their places); shorter ones fill what is left."""
        shape, waiting = self.engine_config.scored(bucket, self._split), rows[::-1]
        while waiting:
            near, waiting = waiting[: 4 * shape.all_rows], waiting[4 * shape.all_rows :]
            lengths = (len(row.tokens) for row in near)
            places = packing.place(lengths, shape, overtaking=True)
            yield [near[i] for i in places], list(places.values())
            waiting = [row for i, row in enumerate(near) if i not in places] + waiting

    def _score(
        self,
        rows: list[_Row],
        places: list[int],
        bucket: int,
        shared: SharedPrefix | None,
        choices: Sequence[int],
    ) -> np.ndarray:
        """Returns the log-probabilities of the choices after each row, [n, C] float32."""
        program = steps.Program(self.config, self.mesh, form=self._weights.form)
        shape = self.engine_config.scored(bucket, self._split)
        with self._rules():
            inputs = _inputs(rows, places, shape, self.mesh)
            ids = np.asarray(choices, np.int32)
            scores = steps.score(program, self._params, shared, inputs, ids)
        return jax.device_get(scores)[places]

    def fits(self, prompt_ids: Sequence[int], prefix: Sequence[int] = ()) -> bool:
        """Returns whether `score_choices` would score this prompt."""
        return self._row(0, Request("", prompt_ids), tuple(prefix), None) is not None

    def longest(self, prefix: Sequence[int] = (), new_tokens: int = 0) -> int:
        """Returns the most tokens of a prompt, which begins with the prefix if there is one.

        Args:
          prefix: as in `generate`.
          new_tokens: how many it is to be continued by; `generate` takes prompts with room for one.
        """
        most = self.engine_config.buckets[-1] + len(prefix)
        return min(most, self.config.max_length - new_tokens)

    def _program(self, sampling: SamplingConfig) -> steps.Program:
        dtype = self.engine_config.cache_dtype
        return steps.Program(
            self.config, self.mesh, sampling.compiled(), self.stop_ids, dtype, self._weights.form
        )

    def _find_stop(self, sampling: SamplingConfig):
        """Returns what finds the first stop string in generated tokens, or None for none."""
        if not sampling.stop_strings:
            return None
        if self._detokenize is None:
            raise ValueError("stop strings need the engine's detokenize: give it the tokenizer's")
        return functools.partial(find_stop, sampling.stop_strings, self._detokenize)

    def _rules(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.mesh is None else partitioning.rules(self.mesh)

    def _groups(
        self, requests: Sequence[Request], prefix: tuple[int, ...], sampling: SamplingConfig | None
    ) -> Iterator[tuple[int, list[_Row], SharedPrefix | None]]:
        """Yields (bucket, the requests that fit it, the prefix that they share)."""
        rows = [self._row(i, r, prefix, sampling) for i, r in enumerate(requests)]
        fitting = [row for row in rows if row is not None]

        def group(row: _Row) -> tuple[bool, int]:
            return row.shares_prefix, row.bucket

        fitting.sort(key=lambda row: (*group(row), len(row.tokens), row.index))
        for (shares_prefix, bucket), members in itertools.groupby(fitting, group):
            yield bucket, list(members), self._shared_prefix(prefix) if shares_prefix else None

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
            return _Row(index, request.request_id, own, 0, None, shares, bucket)
        limit = sampling.max_new_tokens
        if request.max_new_tokens is not None:
            limit = min(limit, request.max_new_tokens)
        if limit < 1:
            raise ValueError(f"request {request.request_id} asks for {limit} tokens: ask for one")
        key = request_key(sampling.seed, request.request_id)
        return _Row(index, request.request_id, own, min(limit, room), key, shares, bucket)

    def _shared_prefix(self, prefix: tuple[int, ...]) -> SharedPrefix | None:
        """Returns the prefix's keys and values; those of the last prefix are kept."""
        if self._prefix[0] != prefix:
            program = steps.Program(self.config, self.mesh, form=self._weights.form)
            tokens = np.broadcast_to(np.asarray(prefix, np.int32), (self._split, len(prefix)))
            with self._rules():
                shared = steps.compute_prefix(program, self._params, tokens)
            self._prefix = (prefix, shared)
        return self._prefix[1]


def find_stop(
    stop_strings: Sequence[str], detokenize: Callable[[Sequence[int]], str], ids: Sequence[int]
) -> tuple[int, str] | None:
    """Returns (the least number of tokens whose text holds a stop string, that string) or None.

    It depends on the tokens alone, not on when the host comes to look at them.
    """
    text = detokenize(ids)
    if not any(stop in text for stop in stop_strings):
        return None
    for count in range(1, len(ids) + 1):
        text = detokenize(ids[:count])
        held = [stop for stop in stop_strings if stop in text]
        if held:
            return count, min(held, key=text.index)
    return None

"""Seed pairs: the first turns of Open Assistant conversation trees, or a person's own pairs.

Three forms of JSON lines are read, plain or gzip, and told apart row by row:

    {"message_id": ..., "parent_id": ..., "role": "assistant", "text": ...}    a flat message
    {"message_tree_id": ..., "prompt": {..., "replies": [...]}}                a whole tree
    {"instruction": ..., "output": ...}                                        a pair of one's own

Only the first turn counts: a prompter message without a parent, and the best of its own assistant
replies. Deeper turns need the conversation before them; taking them too selects the wrong pairs.
"""

import dataclasses
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from humpback_jax import records
from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError, UserError
from humpback_jax.records import Reject, SeedPair
from humpback_jax.rundir import Counts

_GZIP_MAGIC = b"\x1f\x8b"
_EXCERPT = 200


@configurable
@dataclasses.dataclass(frozen=True)
class SeedFilters:
    """Which first turns become seed pairs.

    The exporter leaves out empty keys, so `rank`, `deleted`, `synthetic`, `lang` and `labels` may
    be absent. A message without `deleted` or `synthetic` is neither. A reply of rank 0 is taken.
    Where no reply of a root carries a rank, people have not compared them: the pair is rejected as
    "unranked", or, with `accept_unranked`, the first reply in the file that is not deleted is
    taken. Where other replies are ranked but none is 0, the reason is "no_rank_0".

    Attributes:
      language: two-letter code that `lang` of both messages must start with; "" accepts all. A
        message without `lang` is accepted: exports of one language may leave it out.
      accept_unranked: see above.
      accept_synthetic: also take messages that a model wrote.
      min_output_length: fewest characters of an output.
      max_pairs: most pairs, 0 for no limit; drawn uniformly (the paper: 3,200).
      seed: another seed draws other pairs.
    """

    language: str = "en"
    accept_unranked: bool = False
    accept_synthetic: bool = False
    min_output_length: int = 1
    max_pairs: int = 0
    seed: int = 0

    def __post_init__(self):
        for name in ("min_output_length", "max_pairs", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"SeedFilters.{name} is {getattr(self, name)}: give 0 or more")


@dataclasses.dataclass(frozen=True)
class SeedPairs:
    """Pairs sorted by id, rejects in order of the file, and the conservation law of first turns."""

    pairs: tuple[SeedPair, ...]
    rejects: tuple[Reject, ...]
    counts: Counts


def read_seed_pairs(path: epath.PathLike, filters: SeedFilters) -> SeedPairs:
    """Reads an export and returns its seed pairs.

    One record in is one first turn (a root message, a tree, a pair) or one line that is none of
    the three forms. Messages below the first turn are not counted.

    Raises:
      UserError: the file cannot be read, or holds no usable pair.
    """
    rows = list(_rows(path))
    collected = _Collector(filters, str(path))
    messages: list[tuple[int, Mapping[str, Any]]] = []
    for number, row in rows:
        if not isinstance(row, Mapping):
            problem = "this line is no JSON" if isinstance(row, Exception) else "not a JSON object"
            collected.reject(f"line {number}", "bad_line", f"{problem}: {row}")
        elif isinstance(row.get("prompt"), Mapping):
            prompt = row["prompt"]
            collected.first_turn(number, prompt, _mappings(prompt.get("replies")))
        elif "message_id" in row and "role" in row:
            messages.append((number, row))
        elif "instruction" in row and "output" in row:
            collected.own_pair(number, row)
        else:
            collected.reject(f"line {number}", "bad_line", f"unknown form: keys {sorted(row)}")
    replies: dict[str, list[Mapping[str, Any]]] = {}
    for _, message in messages:
        replies.setdefault(str(message.get("parent_id") or ""), []).append(message)
    for number, message in messages:
        if not message.get("parent_id"):
            collected.first_turn(number, message, replies.get(str(message["message_id"]), []))
    return collected.result()


def _rows(path: epath.PathLike) -> Iterator[tuple[int, Any]]:
    try:
        content = epath.Path(path).read_bytes()
        if content.startswith(_GZIP_MAGIC):
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, ValueError) as error:
        raise UserError(
            f"the seed file {path} could not be read ({error}): give a JSON lines file in UTF-8, "
            "plain or gzip"
        ) from error
    # Not splitlines(): U+2028 may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                yield number, error


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


class _Collector:
    """Judges first turns one by one and keeps count."""

    def __init__(self, filters: SeedFilters, path: str):
        self._filters = filters
        self._path = path
        self._pairs: dict[str, SeedPair] = {}
        self._rejects: list[Reject] = []
        self._taken_in = 0

    def reject(self, record_id: str, reason: str, detail: str) -> None:
        self._taken_in += 1
        self._rejects.append(Reject(record_id, self._path, reason, detail[:_EXCERPT]))

    def first_turn(
        self, number: int, root: Mapping[str, Any], replies: Iterable[Mapping[str, Any]]
    ) -> None:
        """Takes the best reply to a root message, or rejects the turn."""
        message_id = str(root.get("message_id") or f"line {number}")
        instruction = str(root.get("text") or "").strip()
        reason = "not_a_prompt" if root.get("role", "prompter") != "prompter" else ""
        reason = reason or self._unfit(root)
        reply = None
        if not reason:
            reply, reason = self._best_reply(replies)
        if reply is None:
            self.reject(message_id, reason, instruction)
            return
        output = str(reply.get("text") or "").strip()
        reply_id = str(reply.get("message_id") or f"reply to {message_id}")
        self._add(message_id, instruction, output, f"{self._path}#{reply_id}")

    def own_pair(self, number: int, row: Mapping[str, Any]) -> None:
        """Takes a pair that a person brought as it is."""
        instruction, output = row["instruction"], row["output"]
        extra = row.get("input") or ""  # Alpaca's form keeps the instruction's material apart
        if not all(isinstance(text, str) for text in (instruction, output, extra)):
            self.reject(f"line {number}", "bad_line", "instruction and output must be text")
            return
        instruction = "\n\n".join(text.strip() for text in (instruction, extra) if text.strip())
        self._add(f"line {number}", instruction, output.strip(), f"{self._path}#line {number}")

    def result(self) -> SeedPairs:
        """Samples, checks the counts, and fails if nothing is left."""
        pairs = sorted(self._pairs.values(), key=lambda pair: pair.pair_id)
        if self._filters.max_pairs:
            seed = self._filters.seed
            ranked = sorted(records.stable_id("sample", seed, p.pair_id) for p in pairs)
            kept = set(ranked[: self._filters.max_pairs])
            for pair in pairs:
                if records.stable_id("sample", seed, pair.pair_id) not in kept:
                    detail = pair.instruction[:_EXCERPT]
                    self._rejects.append(Reject(pair.pair_id, pair.source, "not_sampled", detail))
            pairs = [p for p in pairs if records.stable_id("sample", seed, p.pair_id) in kept]
        reasons = Counter(reject.reason for reject in self._rejects)
        if not pairs:
            raise UserError(self._nothing(reasons))
        counts = Counts(self._taken_in, len(pairs), dict(sorted(reasons.items())))
        counts.check(f"seed file {self._path}")
        return SeedPairs(tuple(pairs), tuple(self._rejects), counts)

    def _nothing(self, reasons: Mapping[str, int]) -> str:
        found = ", ".join(f"{reason} {n}" for reason, n in sorted(reasons.items())) or "it is empty"
        remedy = "give an Open Assistant export or JSON lines of {instruction, output}"
        if reasons.get("unranked"):
            remedy = "bind SeedFilters.accept_unranked = True, or give an export with ranks"
        elif reasons.get("synthetic"):
            remedy = "bind SeedFilters.accept_synthetic = True, or give an export of human messages"
        elif reasons.get("language"):
            remedy = "bind SeedFilters.language to the language of the file, or to '' for all"
        return f"{self._path} holds no usable seed pair ({found}): {remedy}"

    def _add(self, record_id: str, instruction: str, output: str, source: str) -> None:
        if not instruction or len(output) < max(self._filters.min_output_length, 1):
            self.reject(record_id, "empty", instruction)
            return
        # The path is no part of the id: a file gives the same pairs wherever it lies.
        pair = SeedPair(records.stable_id("seed", instruction, output), instruction, output, source)
        if pair.pair_id in self._pairs:
            self.reject(record_id, "duplicate", instruction)
            return
        self._taken_in += 1
        self._pairs[pair.pair_id] = pair

    def _best_reply(
        self, replies: Iterable[Mapping[str, Any]]
    ) -> tuple[Mapping[str, Any] | None, str]:
        candidates = [r for r in replies if r.get("role", "assistant") == "assistant"]
        if not candidates:
            return None, "no_reply"
        if any(r.get("rank") is not None for r in candidates):
            candidates = [r for r in candidates if r.get("rank") == 0]
            absent = "no_rank_0"
        elif self._filters.accept_unranked:
            candidates = [r for r in candidates if not r.get("deleted")]
            absent = "deleted"
        else:
            return None, "unranked"
        reasons = [self._unfit(reply) for reply in candidates]
        fit = [reply for reply, reason in zip(candidates, reasons, strict=True) if not reason]
        return (fit[0], "") if fit else (None, reasons[0] if reasons else absent)

    def _unfit(self, message: Mapping[str, Any]) -> str:
        if message.get("deleted"):
            return "deleted"
        language = str(message.get("lang") or "")
        if language and not language.lower().startswith(self._filters.language.lower()):
            return "language"
        if message.get("synthetic") and not self._filters.accept_synthetic:
            return "synthetic"
        return ""

"""The records that pass between stages, and their Parquet and JSONL forms.

Each record is a frozen dataclass; its Parquet schema is derived from its annotations, so a field
is declared once. Every record can be followed back to the WARC offset of the page it came from.
"""

import dataclasses
import functools
import hashlib
import io
import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from humpback_jax.errors import UserError

CandidateStatus = Literal["ok", "leaked", "empty", "too_long", "wrong_language", "error"]
RatingStatus = Literal["ok", "too_long", "error"]
Origin = Literal["seed", "augmented"]

T = typing.TypeVar("T")


def stable_id(*parts: object) -> str:
    """Returns 20 hex digits that depend on the parts alone: the id of a record.

    Parts are joined with a separator that cannot occur in text, so `("ab", "c")` and
    `("a", "bc")` differ.
    """
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:20]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a page stands: `file`, compressed byte `offset` of its record, and `record_id`."""

    file: str
    offset: int
    record_id: str


@dataclasses.dataclass(frozen=True)
class Signals:
    """What the filters measured on a segment.

    `length` is in characters; `link_density` and `capital_share` (of the header's letters) and
    `repetition` (the share of the text in sentences that repeat an earlier one) lie in [0, 1].
    """

    length: int
    link_density: float
    capital_share: float
    repetition: float


@dataclasses.dataclass(frozen=True)
class Segment:
    """The text under one header of a page, with the sub-trees of its lower-level headers."""

    segment_id: str
    source: Source
    url: str
    language: str
    header_path: tuple[str, ...]
    header: str
    text: str
    site: str
    signals: Signals


@dataclasses.dataclass(frozen=True)
class SeedPair:
    """A human-written instruction and its answer; `source` names the file and the message."""

    pair_id: str
    instruction: str
    output: str
    source: str


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An instruction that the backward model wrote for a segment, whose text is `output`.

    `model` is the fingerprint of Myx, `sampling` says how the instruction was drawn. There is
    exactly one candidate for each segment; only those of status "ok" are rated. If several were
    drawn for the segment, this is the chosen one, and `detail` says how many of the samples were
    rejected, by status: "samples rejected: 2 of 4 (leaked 1, too_long 1)". `truncated` is how many
    characters at the text's end the model was not shown, 0 in files of before there was any.
    """

    segment_id: str
    instruction: str
    output: str
    model: str
    sampling: str
    status: CandidateStatus
    detail: str = ""
    truncated: int = 0


@dataclasses.dataclass(frozen=True)
class Rating:
    """A model's opinion of a candidate: `score` in [1, 5] and its `distribution` over 1..5.

    `truncated` is how many characters at the output's end the model was not shown.
    """

    segment_id: str
    iteration: int
    model: str
    score: float
    distribution: tuple[float, ...]
    rationale: str
    status: RatingStatus
    detail: str = ""
    truncated: int = 0


@dataclasses.dataclass(frozen=True)
class Example:
    """A training example: the tag says where it came from, `source_ids` which records made it."""

    example_id: str
    tag: str
    instruction: str
    output: str
    origin: Origin
    source_ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Reject:
    """A record that a stage did not pass on: its id, the named reason, and what there is to see."""

    record_id: str
    source: str
    reason: str
    detail: str


_SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _arrow_type(annotation: Any) -> pa.DataType:
    if dataclasses.is_dataclass(annotation):
        return pa.struct(list(schema_of(typing.cast(type, annotation))))
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return pa.string()
    if origin is tuple:
        return pa.list_(_arrow_type(typing.get_args(annotation)[0]))
    return _SCALARS[annotation]


@functools.cache
def schema_of(cls: type) -> pa.Schema:
    """Returns the Parquet schema of a record class; the class name is kept as metadata."""
    hints = _hints(cls)
    fields = [pa.field(f.name, _arrow_type(hints[f.name]), nullable=False) for f in _fields(cls)]
    return pa.schema(fields, metadata={"record": cls.__name__})


# Asked for every record: evaluating annotations anew takes longer than reading a record.
_hints = functools.cache(typing.get_type_hints)


@functools.cache
def _names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in _fields(cls))


def _fields(cls: type) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]


def from_dict(cls: type[T], row: Mapping[str, Any]) -> T:
    """Builds a record from a mapping; raises UserError naming a missing field."""
    hints = _hints(cls)
    values = {}
    for field in _fields(cls):
        if field.name not in row:
            if field.default is not dataclasses.MISSING:
                continue
            raise UserError(
                f"a {cls.__name__} record has no field '{field.name}' "
                f"(it has {sorted(row)}): add it to the file"
            )
        value, hint = row[field.name], hints[field.name]
        if dataclasses.is_dataclass(hint):
            value = from_dict(typing.cast(type, hint), value)
        elif typing.get_origin(hint) is tuple:
            value = tuple(value)
        values[field.name] = value
    return cls(**values)


def to_dict(record: Any) -> dict[str, Any]:
    """Returns a record as plain dictionaries, lists and scalars, ready for JSON."""
    return {name: _plain(getattr(record, name)) for name in _names(type(record))}


def _plain(value: Any) -> Any:
    """Returns a value without records in it; `dataclasses.asdict` would take twice the time."""
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return to_dict(value) if dataclasses.is_dataclass(value) else value


def to_parquet(cls: type[T], records: Iterable[T]) -> bytes:
    """Returns the records as one Parquet file, zstd-compressed; equal records, equal bytes."""
    table = pa.Table.from_pylist([to_dict(r) for r in records], schema=schema_of(cls))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_parquet(cls: type[T], path: epath.PathLike) -> list[T]:
    """Reads all records of a Parquet file; raises UserError if it holds another record."""
    path = epath.Path(path)
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet ({error}): remake it") from error
    kept = (table.schema.metadata or {}).get(b"record", cls.__name__.encode()).decode()
    if kept != cls.__name__:
        raise UserError(f"{path} holds {kept} records, not {cls.__name__}: give another file")
    return [from_dict(cls, row) for row in table.to_pylist()]


def read_jsonl(path: epath.PathLike) -> Iterator[tuple[int, Any]]:
    """Yields (line number, value) of a JSON lines file; a broken line gives a ValueError as value.

    The reader goes on after a broken line: its caller counts it and keeps it as a reject.
    """
    # Lines end at "\n" alone: a JSON string may hold U+2028, which str.splitlines() also cuts at.
    for number, line in enumerate(epath.Path(path).read_bytes().split(b"\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                yield number, error


def to_jsonl(rows: Iterable[Any]) -> str:
    """Returns rows (records or mappings) as JSON lines."""
    plain = (to_dict(r) if dataclasses.is_dataclass(r) else r for r in rows)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain)

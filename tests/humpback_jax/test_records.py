import dataclasses
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humpback_jax import records
from humpback_jax.errors import UserError
from humpback_jax.records import Candidate, Rating, Reject, SeedPair, Segment

SOURCE = records.Source("crawl.warc.gz", 1 << 40, "<urn:uuid:1>")
SIGNALS = records.Signals(300, 0.1, 1 / 3, 0.0)
RECORDS = [
    Segment(
        "s1", SOURCE, "http://a/b", "en", ("A", "B c"), "B c", "text\n\u2028more", "a", SIGNALS
    ),
    SeedPair("p1", "do\tit", "done \U0001f600", "seed.jsonl:3"),
    Candidate("s1", "ask", "text", "f00d", "t0.7", "ok"),
    Rating("s1", 1, "f00d", 4.25, (0.0, 0.125, 0.125, 0.25, 0.5), "because", "ok"),
    records.Example("e1", "tag", "ask", "text", "augmented", ("s1",)),
    Reject("r1", "crawl.warc.gz@17", "too_short", "len 3"),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def _write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_parquet_round_trip(record, tmp_path):
    cls = type(record)
    other = dataclasses.replace(record, **{dataclasses.fields(cls)[0].name: "other"})
    path = _write(tmp_path / "a.parquet", records.to_parquet(cls, [record, other]))
    assert records.read_parquet(cls, path) == [record, other]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_no_records_keep_their_schema(record, tmp_path):
    cls = type(record)
    path = _write(tmp_path / "a.parquet", records.to_parquet(cls, []))
    assert records.read_parquet(cls, path) == []
    assert pq.read_schema(path).equals(records.schema_of(cls))


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_json_round_trip(record):
    row = json.loads(json.dumps(records.to_dict(record)))
    assert records.from_dict(type(record), row) == record


def test_equal_records_give_equal_bytes():
    rows = [dataclasses.replace(RECORDS[0], segment_id=str(i)) for i in range(50)]
    whole = records.to_parquet(Segment, rows)
    assert records.to_parquet(Segment, iter(rows)) == whole
    assert records.to_parquet(Segment, rows[::-1]) != whole


@pytest.mark.parametrize("record", [r for r in RECORDS if hasattr(r, "truncated")])
def test_a_file_of_before_there_was_truncation_is_read(record, tmp_path):
    path = tmp_path / "old.parquet"
    table = pq.read_table(io.BytesIO(records.to_parquet(type(record), [record])))
    pq.write_table(table.drop_columns(["truncated"]), path)
    assert records.read_parquet(type(record), path) == [record]


def test_the_golden_schema_of_a_segment():
    """Whoever reads the shards with another program relies on these names and types."""
    schema = records.schema_of(Segment)
    assert schema.names == [
        *("segment_id", "source", "url", "language", "header_path", "header", "text", "site"),
        "signals",
    ]
    assert schema.field("source").type == pa.struct(
        [
            pa.field("file", pa.string(), nullable=False),
            pa.field("offset", pa.int64(), nullable=False),
            pa.field("record_id", pa.string(), nullable=False),
        ]
    )
    assert schema.field("header_path").type.value_type == pa.string()
    assert schema.metadata == {b"record": b"Segment"}
    assert records.schema_of(Rating).field("score").type == pa.float64()


def test_a_missing_field_is_named():
    row = records.to_dict(RECORDS[1])
    del row["instruction"]
    with pytest.raises(UserError, match="SeedPair record has no field 'instruction'"):
        records.from_dict(SeedPair, row)


def test_a_missing_field_inside_a_field_is_named():
    row = records.to_dict(RECORDS[0])
    del row["source"]["offset"]
    with pytest.raises(UserError, match="Source record has no field 'offset'"):
        records.from_dict(Segment, row)


def test_a_field_with_a_default_may_be_missing_and_others_are_ignored():
    row = records.to_dict(RECORDS[2])
    del row["detail"]
    assert records.from_dict(Candidate, {**row, "comment": 1}) == RECORDS[2]


@pytest.mark.parametrize("rows", [[RECORDS[1]], []])
def test_another_record_is_refused(rows, tmp_path):
    path = _write(tmp_path / "seed.parquet", records.to_parquet(SeedPair, rows))
    with pytest.raises(UserError, match=r"seed.parquet holds SeedPair records, not Candidate"):
        records.read_parquet(Candidate, path)


def test_parquet_of_another_program_is_read(tmp_path):
    plain = records.to_dict(RECORDS[1])
    pq.write_table(pa.Table.from_pylist([plain]), tmp_path / "a.parquet")
    assert records.read_parquet(SeedPair, tmp_path / "a.parquet") == [RECORDS[1]]


@pytest.mark.parametrize("cut", [0, 3, 100, -1])
def test_a_broken_parquet_file_is_named(cut, tmp_path):
    content = records.to_parquet(SeedPair, [RECORDS[1]])
    path = _write(tmp_path / "cut.parquet", content[:cut])
    with pytest.raises(UserError, match=r"cut.parquet cannot be read as Parquet"):
        records.read_parquet(SeedPair, path)


def test_jsonl_goes_on_after_a_broken_line(tmp_path):
    content = b'{"a": 1}\n\n  \nnot json\n{"a": "\xff"}\r\n{"a": 2}'
    found = list(records.read_jsonl(_write(tmp_path / "a.jsonl", content)))
    assert [number for number, _ in found] == [1, 4, 5, 6]
    assert [found[0][1], found[3][1]] == [{"a": 1}, {"a": 2}]
    assert isinstance(found[1][1], ValueError)
    assert isinstance(found[2][1], ValueError)  # no UTF-8


def test_jsonl_may_begin_with_a_byte_order_mark(tmp_path):
    path = _write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert [value for _, value in records.read_jsonl(path)] == [{"a": 1}, {"a": 2}]


def test_line_separators_within_a_text_end_no_line(tmp_path):
    rows = [{"text": f"a{mark}b"} for mark in "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e\r\n"]
    path = _write(tmp_path / "a.jsonl", records.to_jsonl(rows).encode())
    assert [value for _, value in records.read_jsonl(path)] == rows


@given(rows=st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=4))
@settings(max_examples=50, deadline=None)
def test_jsonl_round_trip(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    _write(path, records.to_jsonl(rows).encode())
    assert list(records.read_jsonl(path)) == list(enumerate(rows, start=1))


def test_jsonl_of_records_and_mappings():
    text = records.to_jsonl([RECORDS[1], {"text": "ü"}])
    first, second = text.splitlines()
    assert json.loads(first) == records.to_dict(RECORDS[1])
    assert second == '{"text": "ü"}'


def test_stable_ids():
    """Golden: an id that changes with a version would orphan every run directory."""
    assert records.stable_id("a", 1) == "839e11a421d370be28db"
    assert records.stable_id("ab", "c") != records.stable_id("a", "bc")
    assert records.stable_id("a", "") != records.stable_id("a")

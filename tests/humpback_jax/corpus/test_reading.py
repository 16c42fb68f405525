import gzip
import io
import itertools
import json
import pathlib
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from humpback_jax.corpus.filters import SegmentFilters, select
from humpback_jax.corpus.html import PageError
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.reading import Part, ReadConfig, format_of, read_part
from humpback_jax.corpus.segments import page_headers
from humpback_jax.errors import UsageError, UserError

HTML = "<html><meta charset=utf-8><h1>Bröd</h1><p>Flour and water.</p></html>"
SKIP = ReadConfig(on_bad_file="skip")


def read(path, config=SKIP, start=0, end=None, max_page_bytes=10_000):
    items = list(read_part(Part((str(path),), start, end), config, max_page_bytes))
    return [i for i in items if isinstance(i, Page)], [i for i in items if not isinstance(i, Page)]


def reasons(rejects):
    return [reject.reason for reject in rejects]


def zstd(data):
    return zstandard.ZstdCompressor().compress(data)


def gzipped(data):
    return gzip.compress(data, mtime=0)


def lines_of(*rows):
    return [json.dumps(row).encode() + b"\n" for row in rows]


ROWS = [{"url": f"http://a.b/{n}", "html": HTML, "n": n} for n in range(6)]


# JSON lines.


@pytest.mark.parametrize(
    ("name", "compress"), [("a.jsonl", bytes), ("a.jsonl.gz", gzipped), ("a.jsonl.zst", zstd)]
)
@pytest.mark.parametrize("by_line", [True, False])
def test_json_lines_with_html(tmp_path, name, compress, by_line):
    lines = lines_of(*ROWS)
    pieces = map(compress, lines) if by_line else [compress(b"".join(lines))]
    (tmp_path / name).write_bytes(b"".join(pieces))
    pages, rejects = read(tmp_path / name)
    assert rejects == []
    assert [p.url for p in pages] == [row["url"] for row in ROWS]
    # Bytes of the decompressed text, which tell lines apart whatever holds them.
    assert [p.source.offset for p in pages] == [sum(map(len, lines[:n])) for n in range(len(lines))]
    assert pages[0].payload == HTML.encode()
    assert (pages[0].charset, pages[0].content_type) == ("utf-8", "text/html")
    assert page_headers(pages[0], 10_000)[0].header == "Bröd"


def test_text_is_one_segment_for_the_document(tmp_path):
    text = "First paragraph,\r\nof two lines.\n\n \nSecond paragraph.\n"
    rows = [{"url": "http://a.b/", "text": text, "language": "en"}]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines_of(*rows)))
    (page,), _ = read(tmp_path / "a.jsonl")
    assert (page.is_text, page.language) == (True, "en")
    (node,) = page_headers(page, 10_000)
    assert (node.level, node.header, node.path) == (0, "", ("",))
    assert node.text() == "First paragraph,\nof two lines.\n\nSecond paragraph."
    assert node.length == len(node.text())
    (segment,), rejected, _ = select(page, [node], SegmentFilters(min_length=10))
    assert (segment.header, rejected) == ("", [])


@pytest.mark.parametrize(("text", "reason"), [(" \n ", "empty"), ("word " * 99, "too_large")])
def test_text_that_gives_no_segment(tmp_path, text, reason):
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines_of({"url": "u", "text": text})))
    (page,), _ = read(tmp_path / "a.jsonl", max_page_bytes=100)
    with pytest.raises(PageError, match=reason):
        page_headers(page, 100)


def test_lines_that_hold_no_page_are_named(tmp_path):
    good, other = lines_of({"url": "a", "html": HTML}, {"url": "b", "title": "no page"})
    lines = [good, b"\n", b'{"url": \n', b"[1]\n", other, b"9" * 5000 + b"\n", good[:-20]]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    pages, rejects = read(tmp_path / "a.jsonl")
    assert len(pages) == 1
    assert reasons(rejects) == ["bad_line", "bad_line", "no_page", "bad_line", "truncated"]


@pytest.mark.parametrize("compress", [bytes, gzipped, zstd])
def test_line_longer_than_memory_allows_is_passed_over(tmp_path, compress):
    good = lines_of({"url": "a", "html": HTML})[0]
    huge = b'{"url": "b", "html": "' + b"x" * (6 << 20) + b'"}\n'
    (tmp_path / "a.jsonl").write_bytes(compress(good + huge + good))
    pages, rejects = read(tmp_path / "a.jsonl")
    assert [p.source.offset for p in pages] == [0, len(good) + len(huge)]
    assert [(r.reason, r.record_id) for r in rejects] == [("too_large", f"@{len(good)}")]


@pytest.mark.parametrize("compress", [gzipped, zstd])
def test_damaged_members_of_json_lines_are_read_past(tmp_path, compress):
    members = [compress(line) for line in lines_of(*ROWS)]
    spoilt = members[2][:12] + b"\xff" * 14 + members[2][26:]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join([*members[:2], spoilt, *members[3:]]))
    pages, rejects = read(path)
    assert [p.url[-1] for p in pages] == ["0", "1", "3", "4", "5"]
    assert reasons(rejects) == ["damaged"]
    if compress is gzipped:  # a frame of zstd has no beginning where its only block is spoilt
        spoilt_end = members[3][:-9] + b"\xff" * 9
        path.write_bytes(b"".join([*members[:2], spoilt, spoilt_end, *members[4:]]))
        assert reasons(read(path)[1]) == ["damaged", "damaged"]
    path.write_bytes(b"".join([*members[:2], b"rubbish", *members[2:]]))
    assert (len(read(path)[0]), reasons(read(path)[1])) == (6, ["garbage"])
    path.write_bytes(b"".join(members)[:-15])
    assert (len(read(path)[0]), reasons(read(path)[1])) == (5, ["truncated"])


def test_truncated_single_stream_gives_the_lines_before(tmp_path):
    lines = lines_of(*({"url": str(n), "html": HTML + str(hash((n,)))} for n in range(500)))
    content = gzipped(b"".join(lines))
    (tmp_path / "a.jsonl.gz").write_bytes(content[: len(content) // 2])
    pages, rejects = read(tmp_path / "a.jsonl.gz")
    assert 100 < len(pages) < 400
    assert reasons(rejects) == ["truncated"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=12),
    st.integers(1, 200),
    st.sampled_from([bytes, gzipped]),
    st.booleans(),
)
def test_parts_of_json_lines_give_what_the_file_gives(
    tmp_path_factory, lengths, size, compress, ends
):
    lines = [
        json.dumps({"url": str(i), "text": "x" * n}).encode() + b"\n" if n else b"\n"
        for i, n in enumerate(lengths)
    ]
    content = compress(b"".join(lines)[: None if ends else -1])
    path = tmp_path_factory.mktemp("parts") / "a.jsonl"
    path.write_bytes(content)
    whole = [*itertools.chain(*read(path))]
    bounds = [*range(0, len(content), size), None]
    parts = [read(path, start=a, end=b) for a, b in itertools.pairwise(bounds)]
    pages = [page for part in parts for page in part[0]]
    assert pages + [reject for part in parts for reject in part[1]] == whole


# Parquet.


def write_parquet(path, rows, group=2, schema=None):
    pq.write_table(
        pa.Table.from_pylist(rows, schema), path, row_group_size=group, compression="none"
    )


def test_parquet_with_html_as_text_or_bytes(tmp_path):
    write_parquet(tmp_path / "a.parquet", ROWS)
    pages, rejects = read(tmp_path / "a.parquet")
    assert rejects == []
    assert [p.url for p in pages] == [row["url"] for row in ROWS]
    assert [p.source.offset for p in pages] == list(range(6))
    rows = [{"uri": "u", "raw_html": HTML.encode("utf-16")}]
    write_parquet(tmp_path / "b.parquet", rows)
    (page,), _ = read(tmp_path / "b.parquet")
    assert (page.url, page.charset) == ("u", "")
    assert page_headers(page, 10_000)[0].header == "Bröd"


@pytest.mark.parametrize("size", [1, 200, 1000, 10_000])
def test_parquet_is_divided_by_row_groups(tmp_path, size):
    write_parquet(tmp_path / "a.parquet", ROWS)
    length = (tmp_path / "a.parquet").stat().st_size
    bounds = [*range(0, length, size), None]
    parts = [read(tmp_path / "a.parquet", start=a, end=b)[0] for a, b in itertools.pairwise(bounds)]
    assert [p for part in parts for p in part] == read(tmp_path / "a.parquet")[0]
    assert (sum(map(bool, parts)) > 1) == (size < 1000)


def test_damaged_row_group_costs_its_own_rows(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, [row | {"html": HTML * 50} for row in ROWS])
    offset = pq.ParquetFile(path).metadata.row_group(1).column(1).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 30] = b"\xff" * 30
    path.write_bytes(content)
    pages, rejects = read(path)
    assert [p.source.offset for p in pages] == [0, 1, 4, 5]
    assert [(r.reason, r.record_id) for r in rejects] == [("damaged", "@2"), ("damaged", "@3")]


def test_row_without_content_is_a_reject(tmp_path):
    schema = pa.schema([("url", pa.string()), ("html", pa.string()), ("text", pa.string())])
    rows = [
        {"url": "a", "html": None, "text": None},
        {"url": "b", "html": None, "text": "only text"},
        {"url": "c", "html": HTML, "text": "both"},
    ]
    write_parquet(tmp_path / "a.parquet", rows, schema=schema)
    pages, rejects = read(tmp_path / "a.parquet")
    assert [(p.url, p.is_text) for p in pages] == [("b", True), ("c", False)]
    assert [(r.reason, r.record_id) for r in rejects] == [("no_page", "@0")]


# HTML.


@pytest.mark.parametrize(
    ("name", "compress"),
    [("b.html", bytes), ("b.HTM", bytes), ("b.xhtml", bytes), ("b.html.gz", gzipped)],
)
def test_html_file_is_named_by_its_path(tmp_path, name, compress):
    path = tmp_path / "a" / name
    path.parent.mkdir()
    path.write_bytes(compress(HTML.encode()))
    (page,) = read_part(Part((str(path),), folder=str(tmp_path)), SKIP, 10_000)
    assert page.url == f"a/{name}"
    assert page_headers(page, 10_000)[0].header == "Bröd"


def test_html_file_is_cut_one_byte_after_the_limit(tmp_path):
    for name, compress in (("a.html", bytes), ("b.html.gz", gzipped)):
        (tmp_path / name).write_bytes(compress(HTML.encode() * 99))
        assert len(read(tmp_path / name, max_page_bytes=1000)[0][0].payload) == 1001


def test_damaged_html_file(tmp_path):
    content = gzipped(HTML.encode() * 9)
    (tmp_path / "a.html.gz").write_bytes(content[:-9])
    (tmp_path / "b.html.gz").write_bytes(content[:12] + b"\xff" * 9 + content[21:])
    assert reasons(read(tmp_path / "a.html.gz")[1]) == ["truncated"]
    assert reasons(read(tmp_path / "b.html.gz")[1]) == ["damaged"]


# What crawlers write.


def response(url, body=HTML, kind="response", head="Content-Type: text/html", **headers):
    block = (
        body.encode() if kind == "resource" else f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}".encode()
    )
    fields = {"WARC-Type": kind, "WARC-Target-URI": url, "WARC-Record-ID": f"<urn:{url}>"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [*(f"{k}: {v}" for k, v in fields.items()), f"Content-Length: {len(block)}"]
    return "\r\n".join(["WARC/1.1", *lines, "", ""]).encode() + block + b"\r\n\r\n"


BROWSERTRIX = [
    response("http://a.b/"),
    response("http://a.b/", "", "revisit"),
    response("urn:pageinfo:http://a.b/", "{}", "resource", Content_Type="application/json"),
    response("http://a.b/2"),
]


def wacz(path, compression=zipfile.ZIP_STORED, entries=None):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("datapackage.json", "{}")
        for name, content in (entries or {}).items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_wacz_of_browsertrix(tmp_path, compression):
    archive = b"".join(map(gzipped, BROWSERTRIX))
    entries = {"archive/1.warc.gz": archive, "archive/2.warc": BROWSERTRIX[0], "pages/p.jsonl": ""}
    path = wacz(tmp_path / "crawl.wacz", compression, entries)
    pages, rejects = read(path)
    assert rejects == []
    found = [(pathlib.Path(p.source.file).name, p.url, p.content_type) for p in pages]
    assert found == [
        ("1.warc.gz", "http://a.b/", "text/html"),
        ("1.warc.gz", "urn:pageinfo:http://a.b/", "application/json"),
        ("1.warc.gz", "http://a.b/2", "text/html"),
        ("2.warc", "http://a.b/", "text/html"),
    ]
    assert pages[0].source.file == f"{path}!archive/1.warc.gz"
    assert gzip.decompress(archive[pages[2].source.offset :]).startswith(b"WARC/1.1")
    assert read(path, start=100) == ([], [])


def test_damaged_wacz(tmp_path):
    archive = b"".join(map(gzipped, BROWSERTRIX))
    path = wacz(tmp_path / "a.wacz", entries={"archive/1.warc.gz": archive[:-20]})
    assert (len(read(path)[0]), reasons(read(path)[1])) == (2, ["truncated"])
    assert reasons(read(wacz(tmp_path / "b.wacz"))[1]) == ["not_warc"]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"a\.wacz cannot be read as WACZ \(File is not a zip"):
        read(path, ReadConfig())


def test_ids_and_addresses_of_other_corpora(tmp_path):
    trec_id = "clueweb12-0200wb-93-16911"
    records = [
        response("http://a.b/", WARC_TREC_ID=trec_id, WARC_Date="2008-10-294T"),
        response("<http://a.b/wget>", head="Content-Type: text/html\r\nContent-Encoding: gzip"),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records).replace(b"WARC/1.1", b"WARC/0.18"))
    pages, rejects = read(tmp_path / "a.warc")
    assert rejects == []
    assert pages[0].source.record_id == trec_id
    assert [p.url for p in pages] == ["http://a.b/", "http://a.b/wget"]
    assert [p.payload for p in pages] == [HTML.encode()] * 2


# Formats, and files that are bad as a whole.


def parquet_bytes():
    buffer = io.BytesIO()
    pq.write_table(pa.table({"html": [HTML]}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.warc.gz", b"<html>", "warc"),
        ("a", b"WARC/1.0\r\nWARC-Type: response\r\n", "warc"),
        ("a.gz", gzipped(b"WARC/1.0\r\nWARC-Type: response\r\n"), "warc"),
        ("a.zst", zstd(b'{"html": ""}\n'), "json"),
        ("part-0", b'{"html": ""}\n', "json"),
        ("part-1", parquet_bytes(), "parquet"),
        ("index", b"\xef\xbb\xbf <!DOCTYPE html><p>", "html"),
        ("a.txt", b"plain words", "warc"),
        ("empty", b"", "warc"),
    ],
)
def test_format_is_told_by_name_and_content(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert format_of(str(tmp_path / name)) == kind


def test_unknown_format_is_one_reject(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"plain words")
    assert reasons(read(tmp_path / "a.txt", ReadConfig())[1]) == ["not_warc"]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, r"has no column html or text \(it has title, url\)"),
        ({"html_column": "raw"}, r"has no column 'raw' \(it has title, url\)"),
    ],
)
def test_file_without_the_columns_is_named(tmp_path, name, config, says):
    path, rows = tmp_path / name, [{"url": "u", "title": "t"}] * 9
    if name.endswith(".parquet"):
        write_parquet(path, rows)
    else:
        content = b"".join(lines_of(*rows))
        path.write_bytes(gzipped(content) if name.endswith(".gz") else content)
    with pytest.raises(UserError, match=rf"{name} {says}: name them .* = 'skip'$"):
        read(path, ReadConfig(**config))
    skipping = ReadConfig(on_bad_file="skip", **config)
    assert reasons(read(path, skipping)[1]) == ["no_columns"]
    assert reasons(read(path, skipping, 0, 50)[1]) == ["no_columns"]
    assert read(path, skipping, 50) == ([], [])


def test_columns_of_other_names(tmp_path):
    rows = [{"where": "u", "page": HTML, "plain": "text of the page"}]
    write_parquet(tmp_path / "a.parquet", rows)
    (page,), _ = read(tmp_path / "a.parquet", ReadConfig(url_column="where", html_column="page"))
    assert (page.url, page.payload, page.is_text) == ("u", HTML.encode(), False)
    (page,), _ = read(tmp_path / "a.parquet", ReadConfig(text_column="plain"))
    assert (page.url, page.payload, page.is_text) == ("", b"text of the page", True)


def test_file_that_is_no_parquet_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", ROWS)
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:-40])
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as Parquet"):
        read(tmp_path / "a.parquet", ReadConfig())
    assert reasons(read(tmp_path / "a.parquet")[1]) == ["unreadable"]
    assert read(tmp_path / "a.parquet", start=9) == ([], [])


@pytest.mark.parametrize("name", ["a.warc", "a.jsonl", "a.parquet", "a.html", "a"])
def test_object_that_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name} could not be read \(No such file.*= 'skip'$"):
        read(tmp_path / name, ReadConfig())
    assert reasons(read(tmp_path / name)[1]) == ["unreadable"]
    # It opens, but each read fails.
    (tmp_path / name).symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=rf"{name} could not be read \((Input/output|Invalid)"):
        read(tmp_path / name, ReadConfig())
    assert reasons(read(tmp_path / name)[1]) == ["unreadable"]


@pytest.mark.parametrize("wrong", [{"on_bad_file": "ignore"}, {"part_bytes": 0}])
def test_wrong_configuration_is_refused(wrong):
    with pytest.raises(UsageError, match=f"ReadConfig.{next(iter(wrong))} is "):
        ReadConfig(**wrong)


def test_every_file_of_a_part_is_read(tmp_path):
    files = []
    for name in ("a.html", "b.html", "c.html"):
        (tmp_path / name).write_text(HTML)
        files.append(str(tmp_path / name))
    files.insert(1, str(tmp_path / "absent.html"))
    items = list(read_part(Part(tuple(files), folder=str(tmp_path)), SKIP, 10_000))
    assert [i.url if isinstance(i, Page) else i.reason for i in items] == [
        *("a.html", "unreadable", "b.html", "c.html")
    ]
    assert pathlib.Path(items[0].source.file) == tmp_path / "a.html"

import gzip
import io
import itertools
import pathlib
import random
import tempfile
import time

import pytest
import zstandard
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from humpback_jax.corpus.http_message import parse_http
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.storage import UnreadableError
from humpback_jax.corpus.warc import read_pages

CORPUS = pathlib.Path(__file__).resolve().parents[3].parent / "shared" / "data" / "corpus"
needs_corpus = pytest.mark.skipif(not CORPUS.exists(), reason="the development corpus is absent")

HTML = b"<html><h1>Bread</h1><p>Flour and water.</p></html>"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=ISO-8859-1\r\n\r\n" + HTML


def record(number, block=RESPONSE, kind="response", newline="\r\n", version="1.0", **changes):
    headers = {
        "WARC-Type": kind,
        "WARC-Target-URI": f"http://www.example.com/{number}",
        "WARC-Record-ID": f"<urn:uuid:{number}>",
        "Content-Type": "application/http; msgtype=response",
        "Content-Length": str(len(block)),
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    head = [f"WARC/{version}", *(f"{k}: {v}" for k, v in headers.items() if v is not None)]
    text = newline.join(head) + newline * 2
    return text.encode() + block + newline.encode() * 2


def members(*records):
    return [gzip.compress(r, mtime=0) for r in records]


def read(tmp_path, content, name="some.warc.gz", **options):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    items = list(read_pages(path, **options))
    pages = [item for item in items if isinstance(item, Page)]
    return pages, [item for item in items if not isinstance(item, Page)]


@pytest.mark.parametrize("compressed", [True, False])
def test_page_of_a_plain_archive(tmp_path, compressed):
    parts = [record(0, kind="request"), record(1), record(2)]
    parts = members(*parts) if compressed else parts
    pages, rejects = read(tmp_path, b"".join(parts), "a.warc.gz" if compressed else "a.warc")
    assert rejects == []
    assert [p.source.record_id for p in pages] == ["urn:uuid:1", "urn:uuid:2"]
    assert [p.source.offset for p in pages] == [len(parts[0]), len(parts[0]) + len(parts[1])]
    page = pages[0]
    assert page.source.file == str(tmp_path / ("a.warc.gz" if compressed else "a.warc"))
    assert (page.url, page.status) == ("http://www.example.com/1", 200)
    assert (page.content_type, page.charset, page.language) == ("text/html", "iso-8859-1", "")
    assert page.payload == HTML


def test_clueweb22_page_is_bare_html_with_a_language(tmp_path):
    content = record(
        1, block=HTML, version="1.1", Language="en", ClueWeb22_ID="clueweb22-en0000-00-00000"
    )
    pages, rejects = read(tmp_path, gzip.compress(content))
    assert rejects == []
    assert pages[0].payload == HTML
    assert pages[0].content_type == "text/html"
    assert pages[0].language == "en"
    assert pages[0].source.record_id == "clueweb22-en0000-00-00000"


def test_clueweb09_header_that_a_blank_line_cuts_in_two(tmp_path):
    block = RESPONSE.replace(b"\r\n", b"\n")
    broken = record(1, block, newline="\n", version="0.18").replace(
        b"\nContent-Type: application", b"\n\nContent-Type: application"
    )
    content = b"".join(members(broken, record(2, block, newline="\n", version="0.18")))
    pages, rejects = read(tmp_path, content)
    assert rejects == []
    assert [p.payload for p in pages] == [HTML, HTML]
    assert pages[0].source.record_id == "urn:uuid:1"


def test_target_uri_in_angle_brackets(tmp_path):
    content = record(1, WARC_Target_URI="<http://example.com/a b>")
    assert read(tmp_path, content)[0][0].url == "http://example.com/a b"


def test_reading_goes_on_after_a_corrupt_member(tmp_path):
    parts = members(record(0), record(1), record(2), record(3))
    middle = bytearray(parts[1])
    middle[40:44] = b"\xff\xff\xff\xff"
    pages, rejects = read(tmp_path, parts[0] + bytes(middle) + parts[2] + parts[3])
    assert [p.source.record_id for p in pages] == ["urn:uuid:0", "urn:uuid:2", "urn:uuid:3"]
    assert [r.reason for r in rejects] == ["damaged"]
    assert rejects[0].source.endswith(f"some.warc.gz@{len(parts[0])}")


def test_bytes_between_members_are_counted_once(tmp_path):
    parts = members(record(0), record(1))
    pages, rejects = read(tmp_path, parts[0] + b"rubbish" + parts[1])
    assert len(pages) == 2
    assert [r.reason for r in rejects] == ["garbage"]


@pytest.mark.parametrize(("compressed", "missing"), [(True, 60), (True, 200), (False, 10)])
def test_truncation_is_noticed(tmp_path, compressed, missing):
    parts = [record(0), record(1)]
    content = b"".join(members(*parts) if compressed else parts)
    pages, rejects = read(tmp_path, content[:-missing])
    assert [p.source.record_id for p in pages] == ["urn:uuid:0"]
    assert [r.reason for r in rejects] == ["truncated"]


def test_truncation_after_the_last_byte_of_a_page_keeps_the_page(tmp_path):
    pages, rejects = read(tmp_path, b"".join(members(record(0), record(1)))[:-8])
    assert len(pages) == 2
    assert [r.reason for r in rejects] == ["truncated"]


def test_truncation_of_a_single_gzip_stream(tmp_path):
    content = gzip.compress(b"".join(record(i, HTML * (i + 1)) for i in range(30)))
    pages, rejects = read(tmp_path, content)
    assert (len(pages), rejects) == (30, [])
    pages, rejects = read(tmp_path, content[:-100])
    assert 0 < len(pages) < 30
    assert "truncated" in {r.reason for r in rejects}


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("excess", [20, 400, 10_000])
def test_content_length_that_runs_into_other_records(tmp_path, compressed, excess):
    wrong = record(1, Content_Length=str(len(RESPONSE) + excess))
    parts = [record(0), wrong, record(2), record(3)]
    pages, rejects = read(tmp_path, b"".join(members(*parts) if compressed else parts))
    assert [p.source.record_id for p in pages] == ["urn:uuid:0", "urn:uuid:2", "urn:uuid:3"]
    assert [(r.reason, r.record_id) for r in rejects] == [("bad_length", "urn:uuid:1")]


@pytest.mark.parametrize(
    ("value", "reason"),
    [("many", "bad_length"), ("9" * 5000, "bad_length"), ("²", "bad_length"), (None, "bad_header")],
)
def test_content_length_that_is_no_number(tmp_path, value, reason):
    content = b"".join(members(record(1, Content_Length=value), record(2)))
    pages, rejects = read(tmp_path, content)
    assert [p.source.record_id for p in pages] == ["urn:uuid:2"]
    assert [r.reason for r in rejects] == [reason]


@pytest.mark.parametrize(
    "content", [b"", b"<html>" * 99, b"PK\x03\x04" * 99, gzip.compress(b"<html>" * 99)]
)
def test_what_is_no_archive_is_one_reject(tmp_path, content):
    pages, rejects = read(tmp_path, content)
    assert pages == []
    assert [r.reason for r in rejects] == ["not_warc"]


def test_long_page_is_cut_one_byte_after_the_limit(tmp_path):
    pages, rejects = read(tmp_path, gzip.compress(record(1, HTML * 100)), max_page_bytes=1000)
    assert rejects == []
    assert len(pages[0].payload) == 1001


def test_storage_failure_is_no_damage(tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 0:
                raise OSError("timed out")
            return super().read(20)

    monkeypatch.setattr(type(epath.Path("a")), "open", lambda *_: Failing(b"WARC/1.0\r\n" * 99))
    with pytest.raises(UnreadableError, match=r"a\.warc could not be read \(timed out\)"):
        list(read_pages("a.warc"))


def test_absent_file_is_named(tmp_path):
    with pytest.raises(UnreadableError, match=r"absent\.warc could not be read \(No such file"):
        list(read_pages(tmp_path / "absent.warc"))


# Compressed as archives are: a member for each record, several, or wherever 700 bytes end.
def one_each(records, compress):
    return [compress(r) for r in records]


def two_each(records, compress):
    return [compress(a + b) for a, b in zip(records[::2], records[1::2], strict=True)]


def in_blocks(records, compress):
    whole = b"".join(records)
    return [compress(whole[i : i + 700]) for i in range(0, len(whole), 700)]


def in_one(records, compress):
    return [compress(b"".join(records))]


def gzipped(data):
    return gzip.compress(data, mtime=0)


def zstd(data):
    return zstandard.ZstdCompressor().compress(data)


def varied(number):
    return record(number, RESPONSE + random.Random(number).randbytes(100 * number))


@pytest.mark.parametrize("divide", [one_each, two_each, in_blocks, in_one])
@pytest.mark.parametrize("compress", [gzipped, zstd])
def test_every_way_of_compressing_an_archive(tmp_path, divide, compress):
    records = [varied(number) for number in range(12)]
    pages, rejects = read(tmp_path, b"".join(divide(records, compress)))
    assert rejects == []
    assert [p.source.record_id for p in pages] == [f"urn:uuid:{n}" for n in range(12)]


def dictionary_frame(records, is_compressed):
    dictionary = zstandard.train_dictionary(1000, records)
    content = dictionary.as_bytes()
    if is_compressed:
        content = zstd(content)
    frame = b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
    return frame, zstandard.ZstdCompressor(dict_data=dictionary).compress


@pytest.mark.parametrize("is_compressed", [True, False])
def test_zstd_with_a_dictionary_and_a_damaged_frame(tmp_path, is_compressed):
    records = [record(number, RESPONSE + b"word " * number) for number in range(60)]
    frame, compress = dictionary_frame(records, is_compressed)
    frames = one_each(records, compress)
    pages, rejects = read(tmp_path, frame + b"".join(frames), "a.warc.zst")
    assert (len(pages), rejects) == (60, [])
    frames[30] = frames[30][:8] + b"\xff" * 12 + frames[30][20:]
    pages, rejects = read(tmp_path, frame + b"".join(frames), "a.warc.zst")
    assert (len(pages), [r.reason for r in rejects]) == (59, ["damaged"])
    assert rejects[0].record_id == f"@{len(frame) + sum(map(len, frames[:30]))}"
    pages, rejects = read(tmp_path, frame + b"".join(frames[:20])[:-5], "a.warc.zst")
    assert (len(pages), [r.reason for r in rejects]) == (19, ["truncated"])


@pytest.mark.parametrize("compress", [bytes, gzipped, zstd])
def test_record_that_fastwarc_passes_over_without_a_word(tmp_path, compress):
    spoilt = b"X" + record(1)[1:]
    parts = [compress(r) for r in (record(0), spoilt, record(2))]
    pages, rejects = read(tmp_path, b"".join(parts), "a.warc")
    assert [p.source.record_id for p in pages] == ["urn:uuid:0", "urn:uuid:2"]
    assert [r.reason for r in rejects] == ["garbage"]


@pytest.mark.parametrize("compress", [bytes, gzipped])
def test_content_length_that_leaves_text_out(tmp_path, compress):
    long = RESPONSE + b"<p>" + b"more " * 100
    parts = [record(0), record(1, long, Content_Length=str(len(RESPONSE))), record(2)]
    pages, rejects = read(tmp_path, b"".join(map(compress, parts)), "a.warc")
    assert len(pages) == 3
    assert [r.reason for r in rejects] == ["garbage"]


def test_request_that_runs_into_a_page_does_not_hide_it(tmp_path):
    request = record(0, b"GET / HTTP/1.1\r\n\r\n", kind="request", Content_Length="600")
    pages, rejects = read(tmp_path, b"".join(members(request, record(1), record(2))))
    assert [p.source.record_id for p in pages] == ["urn:uuid:1", "urn:uuid:2"]
    assert [r.reason for r in rejects] == ["bad_length"]


def test_empty_member_is_no_loss(tmp_path):
    content = b"".join(members(record(0))) + gzipped(b"") + b"".join(members(record(1)))
    pages, rejects = read(tmp_path, content)
    assert (len(pages), rejects) == (2, [])


@pytest.mark.parametrize(
    ("compress", "name"), [(gzipped, "a.warc.gz"), (zstd, "a.warc.zst"), (bytes, "a.warc.gz")]
)
def test_damaged_start_does_not_hide_the_rest(tmp_path, compress, name):
    content = b"\0\0\0\0\0\0" + b"".join(compress(record(n)) for n in range(3))[6:]
    if compress is bytes:
        content = content.replace(b"\0", b"x")
    pages, rejects = read(tmp_path, content, name)
    assert [p.source.record_id for p in pages] == ["urn:uuid:1", "urn:uuid:2"]
    assert [r.reason for r in rejects] == ["garbage"]


def test_record_of_unknown_length_is_named_where_it_may_hide_pages(tmp_path):
    request = record(0, b"GET / HTTP/1.1", kind="request", Content_Length=None)
    pages, rejects = read(tmp_path, request.removesuffix(b"\r\n\r\n") + record(1), "a.warc")
    assert (pages, [r.reason for r in rejects]) == ([], ["bad_header"])
    assert read(tmp_path, b"".join(members(request, record(1))))[1] == []


@pytest.mark.parametrize(
    "junk", [b"x" * 3_000_000, b"x: " * 1_000_000, b"\r\n" * 1_500_000, b"a:\n\n" * 700_000]
)
@pytest.mark.parametrize("compress", [bytes, gzipped])
def test_header_of_junk_takes_no_longer_than_its_bytes(tmp_path, junk, compress):
    broken = record(1, Content_Length=None).removesuffix(RESPONSE + b"\r\n\r\n") + junk
    parts = [record(0), broken + b"\r\n\r\n", record(2)]
    start = time.process_time()
    pages, rejects = read(tmp_path, b"".join(map(compress, parts)), "a.warc")
    assert time.process_time() - start < 2
    assert {p.source.record_id for p in pages} >= {"urn:uuid:0", "urn:uuid:2"}
    assert len(rejects) == 1


def damaged_archives():
    """Yields the names and bytes of archives, whole and damaged in every way."""
    records = [varied(number) for number in range(9)]
    for name, compress in (("plain", bytes), ("gzip", gzipped), ("zstd", zstd)):
        parts = [compress(r) for r in records]
        broken = bytearray(parts[4])
        broken[len(broken) // 2 : len(broken) // 2 + 4] = b"\xff\xff\xff\xff"
        long = compress(record(4, Content_Length=str(len(RESPONSE) + 400)))
        many = compress(record(4, Content_Length="many"))
        no_record = compress(b"X" + records[4][1:])
        shapes = {
            "whole": parts,
            "broken": [*parts[:4], bytes(broken), *parts[5:]],
            "long": [*parts[:4], long, *parts[5:]],
            "many": [*parts[:4], many, *parts[5:]],
            "no record": [*parts[:4], no_record, *parts[5:]],
            "rubbish": [*parts[:4], b"rubbish" * 30, *parts[4:]],
            "zeros": [*parts, bytes(500)],
            "cut": [*parts[:-1], parts[-1][:-40]],
            "two": [compress(a + b) for a, b in zip(records[:8:2], records[1:8:2], strict=True)],
            "one stream": [compress(b"".join(records))],
        }
        for shape, pieces in shapes.items():
            yield pytest.param(b"".join(pieces), id=f"{name} {shape}")


def seen(items):
    """Returns what there is to compare of pages and rejects."""
    return [
        (i.source, i.url, i.payload) if isinstance(i, Page) else (i.source, i.reason, i.detail)
        for i in items
    ]


@pytest.mark.parametrize("content", [*damaged_archives()])
def test_parts_of_any_size_give_what_the_file_gives(tmp_path, content):
    path = tmp_path / "some.warc"
    path.write_bytes(content)
    whole = seen(read_pages(path))
    for size in (61, 400, 1500, 1501, 4000, len(content) - 1):
        bounds = [*range(0, len(content), size), None]
        parts = [
            item
            for start, end in itertools.pairwise(bounds)
            for item in read_pages(path, start=start, end=end)
        ]
        assert seen(parts) == whole, size


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_parts_of_a_mutated_archive_lose_and_invent_nothing(data):
    records = [record(number, RESPONSE + b"word " * number) for number in range(6)]
    compress = data.draw(st.sampled_from([bytes, gzipped, zstd]))
    content = bytearray(b"".join(map(compress, records)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cuts = data.draw(st.lists(st.integers(1, len(content)), max_size=4, unique=True))
    bounds = [0, *sorted(cuts), None]
    with tempfile.NamedTemporaryFile(suffix=".warc") as file:
        file.write(content)
        file.flush()
        whole = seen(read_pages(file.name))
        parts = [
            item
            for start, end in itertools.pairwise(bounds)
            for item in read_pages(file.name, start=start, end=end)
        ]
    assert seen(parts) == whole


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Transfer-Encoding: chunked", b"5\r\n<html\r\n3;x=1\r\n>hi\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"<html>hi"),  # was joined before it was stored
        ("Content-Encoding: gzip", b"<html>hi"),  # was decoded before it was stored
        ("Content-Encoding: gzip", gzip.compress(b"<html>hi")),
        ("Content-Encoding: zstd", zstd(b"<html>hi")),
        ("X-Crawler-Content-Encoding: br", b"<html>hi"),
        ("Content-Encoding: br", b"<html>hi"),
    ],
)
def test_http_body_is_believed_over_its_headers(headers, body):
    block = f"HTTP/1.1 200 OK\r\n{headers}\r\n\r\n".encode() + body
    assert parse_http(block, 1000).body == b"<html>hi"


@pytest.mark.parametrize("compress", [gzipped, zstd])
def test_compressed_body_cannot_fill_the_memory(compress):
    block = b"HTTP/1.1 200 OK\r\n\r\n" + compress(b"x" * 1_000_000)
    assert len(parse_http(block, 1000).body) == 1001


@needs_corpus
@pytest.mark.parametrize(
    ("name", "pages", "reasons"),
    [
        ("documentation.warc.gz", 351, []),
        ("commoncrawl-whirlwind.warc.gz", 1, []),
        ("clueweb22-shaped/html/en/en00/en0000/en0000-00.warc.gz", 40, []),
        ("clueweb22-shaped/html/zh_chs/zh_chs00/zh_chs0000/zh_chs0000-00.warc.gz", 10, []),
        ("malformed/content_length_nan.warc.gz", 12, ["bad_length"]),
        ("malformed/content_length_too_large.warc.gz", 12, ["bad_length"]),
        ("malformed/corrupt_member.warc.gz", 12, ["damaged"]),
        ("malformed/garbage_between.warc.gz", 13, ["garbage"]),
        ("malformed/header_1mb.warc.gz", 13, []),
        ("malformed/trailing_zeros.warc.gz", 13, ["garbage"]),
        ("malformed/truncated.warc.gz", 6, ["truncated"]),
        ("warcio/example-iana.org-chunked.warc", 1, []),
        ("warcio/example-wrong-chunks.warc.gz", 1, []),
    ],
)
def test_real_archives(name, pages, reasons):
    items = list(read_pages(CORPUS / name))
    assert sum(isinstance(item, Page) for item in items) == pages
    assert [item.reason for item in items if not isinstance(item, Page)] == reasons

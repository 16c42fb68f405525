import gzip
import io
import pathlib

import pytest

from humpback_jax.corpus import warc
from humpback_jax.corpus.http_message import parse_http
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.warc import read_pages
from humpback_jax.errors import UserError

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


@pytest.mark.parametrize(("value", "reason"), [("many", "bad_length"), (None, "bad_header")])
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


def test_storage_failure_is_no_damage(tmp_path):
    class Storage(io.BytesIO):
        def read(self, size=-1):
            raise OSError("timed out")

    with pytest.raises(UserError, match="timed out"):
        warc._Storage("gs://bucket/a.warc.gz", Storage()).read(10)
    with pytest.raises(UserError, match=r"absent\.warc"):
        list(read_pages(tmp_path / "absent.warc"))


def test_missing_documents_of_a_clueweb22_file(tmp_path):
    folder = "html/en/en00/en0000"
    content = b"".join(members(record(1, HTML), record(2, HTML)))
    offsets = tmp_path / folder / "en0000-00.warc.offset"
    offsets.parent.mkdir(parents=True)
    offsets.write_text("0000000000\n" * 4)
    pages, rejects = read(tmp_path, content, f"{folder}/en0000-00.warc.gz")
    assert len(pages) == 2
    assert [r.reason for r in rejects] == ["missing_records"]
    assert "counts 3 documents in this file, 2 were read" in rejects[0].detail
    offsets.unlink()
    counts = tmp_path / "record_counts" / "html" / "en00_counts.csv"
    counts.parent.mkdir(parents=True)
    counts.write_text("en0000-00,2\nen0000-01,9\n")
    assert read(tmp_path, content, f"{folder}/en0000-00.warc.gz")[1] == []
    rejects = read(tmp_path, content, f"{folder}/en0000-01.warc.gz")[1]
    assert [r.reason for r in rejects] == ["missing_records"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Transfer-Encoding: chunked", b"5\r\n<html\r\n3;x=1\r\n>hi\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"<html>hi"),  # was joined before it was stored
        ("Content-Encoding: gzip", b"<html>hi"),  # was decoded before it was stored
        ("Content-Encoding: gzip", gzip.compress(b"<html>hi")),
        ("X-Crawler-Content-Encoding: br", b"<html>hi"),
        ("Content-Encoding: br", b"<html>hi"),
    ],
)
def test_http_body_is_believed_over_its_headers(headers, body):
    block = f"HTTP/1.1 200 OK\r\n{headers}\r\n\r\n".encode() + body
    assert parse_http(block, 1000).body == b"<html>hi"


def test_compressed_body_cannot_fill_the_memory():
    block = b"HTTP/1.1 200 OK\r\n\r\n" + gzip.compress(b"x" * 1_000_000)
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

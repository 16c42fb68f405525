"""One WARC record: its header, what it says of its own length, and the page that it holds."""

import dataclasses
import re

from fastwarc.warc import WarcRecordType

from humpback_jax.corpus.http_message import parse_content_type, parse_http
from humpback_jax.corpus.page import Page
from humpback_jax.records import Source

PAGE_TYPES = WarcRecordType.response | WarcRecordType.resource

RECORD_START = re.compile(rb"WARC/[01]\.\d+\r?\n")
# Inside a body, only the head of another record looks like the first; at its end, the others are
# one that Content-Length cuts in two, and FastWARC would then skip that record without a word.
_SWALLOWED = re.compile(rb"\r?\n\r?\nWARC/[01]\.\d+\r?\n(?:[\w-]+:[^\n]*\n){2}")
_CUT_HEADER = re.compile(rb"\r?\n\r?\nWARC/[01]\.\d+\r?\n(?:[\w-]+:[^\n]*\n)?[^\n]*\Z")
_CUT_NAME = re.compile(rb"\r?\n\r?\nW(?:A(?:R(?:C(?:/[\d.]*\r?)?)?)?)?\Z")
_NAME_BYTES = 16
_LENGTH = re.compile(r"[0-9]{1,18}")
_MAX_LINES = 1000  # of a header
_GOES_ON = re.compile(rb"(?:\r?\n){0,3}[\w-]{1,100}:")  # bounded: it is tried on any bytes
_CORPUS_IDS = ("clueweb22-id", "warc-trec-id", "warc-record-id")


def record_id(headers: dict[str, str]) -> str:
    """Returns the corpus's own id of a record, "" if it has none."""
    values = (headers.get(name, "").strip() for name in _CORPUS_IDS)
    return next((v.removeprefix("<").removesuffix(">") for v in values if v), "")


def page_of(
    headers: dict[str, str],
    file: str,
    offset: int,
    block: bytes,
    max_page_bytes: int,
    primary_only: bool,
) -> Page:
    """Returns the page in the block of a record.

    Args:
      headers: of the WARC record, their names in lower case.
      file: the archive.
      offset: of the record in it.
      block: what follows the headers, cut one byte after `max_page_bytes`.
      max_page_bytes: a decompressed body is cut there too.
      primary_only: narrow a page of ClueWeb22 to its primary content.
    """
    http = parse_http(block, max_page_bytes)
    content_type, charset = http.content_type, http.charset
    if not http.status:
        content_type, charset = parse_content_type(headers.get("content-type", ""))
        if content_type == "application/http":  # ClueWeb22 says so of bare HTML
            content_type, charset = "text/html", ""
    url = headers.get("warc-target-uri", "").strip().removeprefix("<").removesuffix(">")
    return Page(
        Source(file, offset, record_id(headers)),
        url,
        content_type,
        charset,
        http.status,
        headers.get("language", "").strip(),
        http.body,
        primary=_primary(headers) if primary_only else None,
    )


def _primary(headers: dict[str, str]) -> frozenset[int] | None:
    if "clueweb22-id" not in headers:
        return None
    words = headers.get("vdom-primary", "").split()
    return frozenset(int(word) for word in words if word.isdecimal())


def length_of(headers: dict[str, str]) -> int | None:
    """Returns the Content-Length of a record, None if there is none that can be one."""
    text = headers.get("content-length", "").strip()
    return int(text) if _LENGTH.fullmatch(text) else None


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why a record cannot be used, and whether what follows it must be looked for."""

    reason: str
    detail: str
    is_cut: bool


def fault_of(headers: dict[str, str], body: bytes, max_page_bytes: int) -> Fault | None:
    """Returns what is wrong with a record's length, None if nothing is.

    Args:
      headers: of the record.
      body: the block as it was read by that length, cut one byte after `max_page_bytes`.
      max_page_bytes: see `body`.
    """
    text, length = headers.get("content-length", "").strip(), length_of(headers)
    if not text:
        return Fault("bad_header", "the header has no Content-Length", False)
    if length is None:
        return Fault("bad_length", f"Content-Length is {text[:100]!r}", False)
    if _runs_on(body):
        return Fault("bad_length", f"Content-Length {length} runs into the next record", True)
    if len(body) < min(length, max_page_bytes):
        detail = f"Content-Length is {length}, only {len(body)} bytes follow"
        return Fault("truncated", detail, True)
    return None


def is_followed_by_record(data: bytes) -> bool:
    """Returns whether `data` begins with the two line ends after a record, and the next record."""
    return any(_SWALLOWED.match(data, position) for position in range(3))


def end_of(data: bytes) -> int | None:
    """Returns where the record at the start of `data` ends by its Content-Length, None if unknown.

    The end may lie behind that of `data`.
    """
    headers, begin = header_of(data)
    length = length_of(headers)
    return None if begin < 0 or length is None else begin + length


def _runs_on(body: bytes) -> bool:
    if b"\nWARC/" in body and (
        _SWALLOWED.search(body) or _CUT_HEADER.search(body, max(len(body) - 4096, 0))
    ):
        return True
    return _CUT_NAME.search(body, max(len(body) - _NAME_BYTES, 0)) is not None


def header_of(data: bytes) -> tuple[dict[str, str], int]:
    """Returns the header at the start of `data` and where its block begins, -1 if it has no end.

    Blank lines within the header (ClueWeb09 has them) are passed over as long as no Content-Length
    came.
    """
    start = RECORD_START.match(data)
    if start is None:
        return {}, -1
    headers: dict[str, str] = {}
    position = start.end()
    for _ in range(_MAX_LINES):
        newline = data.find(b"\n", position)
        if newline < 0:
            break
        line = data[position:newline].rstrip(b"\r")
        position = newline + 1
        name, colon, value = line.partition(b":")
        if colon:
            key = name.decode("latin-1").lower()
            headers.setdefault(key, value.strip().decode("utf-8", "replace"))
        elif not line and ("content-length" in headers or not _GOES_ON.match(data, position)):
            return headers, position
    return headers, -1

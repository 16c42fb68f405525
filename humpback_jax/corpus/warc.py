"""Pages out of WARC files: ClueWeb22, ClueWeb09 and ClueWeb12, Common Crawl, plain WARC.

A web archive is read to its end whatever stands in it. FastWARC parses the records; this module
adds what FastWARC leaves to its caller: going on at the next gzip member after a damaged one,
noticing that a file was cut off (FastWARC then ends without an error), noticing a record whose
Content-Length runs into the records after it, and reading header blocks that a stray blank line
has cut in two (ClueWeb09). Every loss is one `Reject` with a named reason.
"""

import csv
import io
import re
import zlib
from collections.abc import Generator, Iterator
from typing import IO

from etils import epath
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from humpback_jax.corpus.http_message import parse_content_type, parse_http
from humpback_jax.corpus.page import MAX_PAGE_BYTES, Page
from humpback_jax.errors import UserError
from humpback_jax.records import Reject, Source

_GZIP_MAGIC = b"\x1f\x8b\x08"
_BLOCK = 1 << 20
# A longer header ends the whole file in FastWARC, and ClueWeb22's VDOM lists pass its default of
# 32 KiB.
_MAX_HEADER_BYTES = 16 << 20
_RECORD_START = re.compile(rb"WARC/[01]\.\d+\r?\n")
# Inside a body, only the head of another record looks like the first; at its end, the second is one
# that Content-Length cuts in two, and FastWARC would then skip that record without a word.
_SWALLOWED = re.compile(rb"\r?\n\r?\nWARC/[01]\.\d+\r?\n(?:[\w-]+:[^\n]*\n){2}")
_CUT_RECORD = re.compile(
    rb"\r?\n\r?\n(?:WARC/[01]\.\d+\r?\n[^<]*|W(?:A(?:R(?:C(?:/[\d.]*\r?)?)?)?)?)\Z"
)
_HEADER_LINE = re.compile(rb"([\w-]+):[ \t]*([^\r\n]*)\r?\n")
_CLUEWEB22_FILE = re.compile(r"(\w+?\d\d)\d\d-\d\d\.warc(?:\.gz)?$")
_CORPUS_IDS = ("ClueWeb22-ID", "WARC-TREC-ID", "WARC-Record-ID")


def read_pages(
    path: epath.PathLike, max_page_bytes: int = MAX_PAGE_BYTES
) -> Iterator[Page | Reject]:
    """Yields the pages of a WARC file in order, and a Reject for whatever could not be read.

    Reasons: "damaged" (a gzip member that cannot be decompressed), "truncated" (the file or a
    record ends early), "garbage" (bytes that belong to no record), "bad_length" and "bad_header"
    (a record whose header cannot be trusted), "not_warc" (no record at all), and
    "missing_records" (fewer pages than the corpus's own count).

    Raises:
      UserError: the file cannot be opened or its storage fails; running again may help, so this
        is not kept as a reject.
    """
    name = str(path)
    try:
        with epath.Path(path).open("rb") as stream:
            reader = _Reader(name, _Storage(name, stream), max_page_bytes)
            position: int | None = 0
            while position is not None:
                position = yield from reader.run(position)
            if reader.records == 0:
                yield reader.reject(0, "not_warc", "no WARC record found in this file")
            else:
                yield from _missing_records(name, reader)
    except OSError as error:
        raise UserError(
            f"{name} could not be read ({error.strerror or error}): check the file and its "
            "permissions, then run the same command again; what is done is kept"
        ) from error


class _Storage(io.RawIOBase):
    """The file, with I/O failures told apart from FastWARC's own OSError for damaged data."""

    def __init__(self, name: str, stream: IO[bytes]):
        self._name, self._stream = name, stream

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise UserError(
                f"{self._name} could not be read ({error}): run the same command again when the "
                "storage answers; what is done is kept"
            ) from error

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


class _Reader:
    """Reads one file in runs; a run ends at the end of the file or at damage."""

    def __init__(self, name: str, stream: _Storage, max_page_bytes: int):
        self.name = name
        self.records = 0
        self.pages = 0
        self._stream = stream
        self._max_page_bytes = max_page_bytes
        self._gzipped = stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC

    def reject(self, offset: int, reason: str, detail: str, record_id: str = "") -> Reject:
        return Reject(record_id or f"@{offset}", f"{self.name}@{offset}", reason, detail)

    def run(self, start: int) -> Generator[Page | Reject, None, int | None]:
        """Yields what stands from `start` on; returns where to go on after damage, else None."""
        offset, in_body, found = start, False, False
        self._stream.seek(start)
        try:
            for record in ArchiveIterator(
                self._stream,
                parse_http=False,
                quirks_mode=True,
                max_header_len=_MAX_HEADER_BYTES,
                fsspec_args=False,
            ):
                offset, in_body, found = record.stream_pos, True, True
                # Read before anything is said of the record, so that damage is put down to it.
                body = record.reader.read(self._max_page_bytes + 1)
                in_body = False
                item, is_cut = self._read_record(record, offset, body)
                self.records += 1
                if item is not None:
                    yield item
                if is_cut:
                    return self._next_record(offset + 1)
        except OSError as error:
            is_here = in_body or not found
            if is_here and (self.records or self._is_record(offset)):
                self.records += 1
                yield self.reject(offset, "damaged", str(error))
            if is_here or not self._gzipped:
                return self._next_record(offset + 1)
        return (yield from self._after(offset, start))

    def _after(self, last: int, start: int) -> Generator[Reject, None, int | None]:
        """Checks what follows the last record that was read whole; returns where to go on."""
        if not self._gzipped:
            return None
        self._stream.seek(last)
        if self._stream.read(len(_GZIP_MAGIC)) != _GZIP_MAGIC:
            last = start  # a single gzip stream, where offsets are not those of members
        end = self._member_end(last)
        if end is None:
            yield self.reject(last, "truncated", "the file ends inside this record")
            return None
        self._stream.seek(end)
        if not self._stream.read(1):
            return None
        position = self._next_record(end)
        if position != end:
            yield self._gap(end, position)
        return position

    def _gap(self, start: int, end: int | None) -> Reject:
        """Names what stands between the end of a record and the next one."""
        self._stream.seek(start)
        if self._stream.read(len(_GZIP_MAGIC)) != _GZIP_MAGIC:
            return self.reject(start, "garbage", "bytes that belong to no record")
        if end is None and self._ends_early(start):
            return self.reject(start, "truncated", "the file ends inside this record")
        return self.reject(start, "damaged", "this gzip member cannot be decompressed")

    def _read_record(
        self, record: WarcRecord, offset: int, body: bytes
    ) -> tuple[Page | Reject | None, bool]:
        """Returns what a record holds, and whether reading must start anew after it."""
        headers = {name.lower(): value for name, value in record.headers}
        length = headers.get("content-length", "").strip()
        kind = record.record_type
        if not length and kind & (_PAGE_TYPES | WarcRecordType.unknown):
            headers, repaired = self._reread(offset)
            if repaired is not None and headers.get("warc-type") in ("response", "resource"):
                self.pages += 1
                return self._page(headers, offset, repaired), False
        if not kind & _PAGE_TYPES:
            return None, False
        record_id = _record_id(headers)
        if not length.isdigit():
            detail = (
                f"Content-Length is {length!r}" if length else "the header has no Content-Length"
            )
            reason = "bad_length" if length else "bad_header"
            return self.reject(offset, reason, detail, record_id), False
        is_swallowed = b"\nWARC/" in body and _SWALLOWED.search(body)
        if is_swallowed or _CUT_RECORD.search(body, max(len(body) - 4096, 0)):
            detail = f"Content-Length {length} runs into the next record"
            return self.reject(offset, "bad_length", detail, record_id), True
        if len(body) < min(int(length), self._max_page_bytes):
            detail = f"Content-Length is {length}, only {len(body)} bytes follow"
            return self.reject(offset, "truncated", detail, record_id), True
        self.pages += 1
        return self._page(headers, offset, body), False

    def _page(self, headers: dict[str, str], offset: int, block: bytes) -> Page:
        http = parse_http(block, self._max_page_bytes)
        content_type, charset = http.content_type, http.charset
        if not http.status:
            content_type, charset = parse_content_type(headers.get("content-type", ""))
            if content_type == "application/http":  # ClueWeb22 says so of bare HTML
                content_type, charset = "text/html", ""
        url = headers.get("warc-target-uri", "").strip().removeprefix("<").removesuffix(">")
        source = Source(self.name, offset, _record_id(headers))
        language = headers.get("language", "").strip()
        return Page(source, url, content_type, charset, http.status, language, http.body)

    def _reread(self, offset: int) -> tuple[dict[str, str], bytes | None]:
        """Reads a record again whose header block a blank line has cut in two."""
        position_before = self._stream.tell()
        self._stream.seek(offset)
        data = self._stream.read(self._max_page_bytes)
        if self._gzipped:
            data = _inflate_head(data, self._max_page_bytes)
        self._stream.seek(position_before)
        start = _RECORD_START.match(data)
        if start is None:
            return {}, None
        headers: dict[str, str] = {}
        position = start.end()
        while line := _HEADER_LINE.match(data, position):
            headers.setdefault(
                line[1].decode("latin-1").lower(), line[2].decode("utf-8", "replace")
            )
            position = line.end()
            if "content-length" not in headers:
                position += len(data[position:]) - len(data[position:].lstrip(b"\r\n"))
        length = headers.get("content-length", "")
        end = re.compile(rb"\r?\n").match(data, position)
        if not length.isdigit() or end is None or len(data) < end.end() + int(length):
            return headers, None
        return headers, data[end.end() : end.end() + int(length)]

    def _next_record(self, position: int) -> int | None:
        """Returns the offset of the first record at or after `position`, None if there is none."""
        mark = _GZIP_MAGIC if self._gzipped else b"WARC/"
        overlap = b""
        while True:
            self._stream.seek(position)
            block = overlap + self._stream.read(_BLOCK)
            base = position - len(overlap)
            found = block.find(mark)
            while found >= 0:
                if self._is_record(base + found):
                    return base + found
                found = block.find(mark, found + 1)
            if len(block) < _BLOCK:
                return None
            position = base + len(block)
            overlap = block[1 - len(mark) :]

    def _is_record(self, offset: int) -> bool:
        self._stream.seek(max(offset - 1, 0))
        head = self._stream.read(4096)
        if offset and not self._gzipped and not head.startswith(b"\n"):
            return False
        head = head[1:] if offset else head
        if self._gzipped:
            head = _inflate_head(head, 64)
        return _RECORD_START.match(head.lstrip(b"\r\n")) is not None

    def _ends_early(self, offset: int) -> bool:
        try:
            return self._inflate_member(offset) is None
        except zlib.error:
            return False

    def _member_end(self, offset: int) -> int | None:
        """Returns where the gzip member at `offset` ends; None if it does not."""
        try:
            return self._inflate_member(offset)
        except zlib.error:
            return None

    def _inflate_member(self, offset: int) -> int | None:
        self._stream.seek(offset)
        inflater = zlib.decompressobj(31)
        position = offset
        while block := self._stream.read(_BLOCK):
            position += len(block)
            inflater.decompress(block, _BLOCK)
            while inflater.unconsumed_tail:
                inflater.decompress(inflater.unconsumed_tail, _BLOCK)
            if inflater.eof:
                return position - len(inflater.unused_data)
        return None


_PAGE_TYPES = WarcRecordType.response | WarcRecordType.resource


def _record_id(headers: dict[str, str]) -> str:
    values = (headers.get(name.lower(), "").strip() for name in _CORPUS_IDS)
    return next((v.removeprefix("<").removesuffix(">") for v in values if v), "")


def _inflate_head(data: bytes, max_bytes: int) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(data, max_bytes)
    except zlib.error:
        return b""


def _missing_records(name: str, reader: _Reader) -> Iterator[Reject]:
    expected = _expected_pages(epath.Path(name))
    if expected is not None and reader.pages < expected:
        detail = f"the corpus counts {expected} documents in this file, {reader.pages} were read"
        yield reader.reject(0, "missing_records", detail)


def _expected_pages(path: epath.Path) -> int | None:
    """Returns how many documents ClueWeb22 says a file holds; None for other archives.

    The count stands in record_counts/ at the root of the corpus, and follows from the offset file
    beside the archive, which has one line more than documents.
    """
    match = _CLUEWEB22_FILE.match(path.name)
    if match is None:
        return None
    offsets = path.parent / path.name.replace(".warc.gz", ".warc.offset")
    if offsets != path and offsets.exists():
        return len(offsets.read_text().split()) - 1
    if len(path.parents) > 4:
        counts = path.parents[4] / "record_counts" / "html" / f"{match[1]}_counts.csv"
        if counts.exists():
            stem = path.name.partition(".")[0]
            rows = csv.reader(counts.read_text().splitlines())
            return next((int(row[1]) for row in rows if row and row[0] == stem), None)
    return None

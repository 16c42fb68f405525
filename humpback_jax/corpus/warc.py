"""Pages out of WARC files: ClueWeb22, ClueWeb09 and ClueWeb12, Common Crawl, plain WARC.

A web archive is read to its end whatever stands in it. FastWARC parses the records; this module
adds what FastWARC leaves to its caller: going on at the next member after a damaged one, noticing
that a file was cut off (FastWARC then ends without an error), noticing what it passes over without
a word (members and bytes that hold no record), noticing a record whose Content-Length runs into the
records after it, and reading header blocks that a stray blank line has cut in two (ClueWeb09).
Every loss is one `Reject` with a named reason.

A file can be read in parts. A part of the bytes [start, end) reads from the first record that
starts at or after `start` up to the first one that starts at or after `end`, and answers for all
that is lost between the two; so the parts together give what the file gives in one go.
"""

import contextlib
import io
from collections.abc import Generator, Iterator
from typing import BinaryIO

from etils import epath
from fastwarc.warc import WarcRecord, WarcRecordType

from humpback_jax.corpus import compression, warc_record
from humpback_jax.corpus.clueweb22 import Ledger, expected_documents
from humpback_jax.corpus.compression import DamageError, Gzip
from humpback_jax.corpus.page import MAX_PAGE_BYTES, Page, reject_at
from humpback_jax.corpus.storage import open_storage, size_of
from humpback_jax.corpus.warc_record import RECORD_START
from humpback_jax.corpus.warc_source import MAX_HEADER_BYTES, Source, kept_position, parse
from humpback_jax.records import Reject

_PLAIN_MARK = b"WARC/"
# Longer records are not read again to see what follows them in their member.
_MAX_EXCESS = 64 << 20


def read_pages(
    path: epath.PathLike,
    max_page_bytes: int = MAX_PAGE_BYTES,
    start: int = 0,
    end: int | None = None,
    primary_only: bool = False,
) -> Iterator[Page | Reject]:
    """Yields the pages of a WARC file in order, and a Reject for whatever could not be read.

    Reasons: "damaged" (a member that cannot be decompressed), "truncated" (the file or a record
    ends early), "garbage" (bytes that belong to no record), "bad_length" and "bad_header" (a record
    whose header cannot be trusted), "not_warc" (no record at all), "missing_records" (a document
    that the corpus lists or counts and that was not found), and "bad_offsets" (ClueWeb22's offset
    file disagrees with the archive).

    Args:
      path: the archive, local or gs://.
      max_page_bytes: a page is cut one byte after these.
      start: offset at which the part begins that is to be read.
      end: offset at which it ends, None for the end of the file.
      primary_only: narrow the pages of ClueWeb22 to their primary content.

    Raises:
      UnreadableError: the file cannot be opened or its storage fails.
    """
    name = str(path)
    expected = expected_documents(name)
    if expected is not None and not expected.is_divisible:  # a count is of the whole file
        if start:
            return
        end = None
    with open_storage(name) as stream:
        reader = _Reader(name, stream, max_page_bytes, primary_only)
        first = reader.boundary(start, end) if start else 0
        if first is None:
            return
        stop = None if end is None else reader.boundary(end)
        yield from reader.read(first, stop)
        if expected is not None:
            yield from reader.ledger.compare(name, expected, first, stop, size_of(stream))


def read_archive(name: str, stream: BinaryIO, max_page_bytes: int) -> Iterator[Page | Reject]:
    """Yields the pages of an open WARC file, as `read_pages` does, under the name given."""
    yield from _Reader(name, stream, max_page_bytes, primary_only=False).read(0, None)


class _Reader:
    """Reads one file in runs; a run ends at the end of its part or at damage."""

    def __init__(self, name: str, stream: BinaryIO, max_page_bytes: int, primary_only: bool):
        self.ledger = Ledger()
        self._name = name
        self._stream = stream
        self._max_page_bytes, self._primary_only = max_page_bytes, primary_only
        self._codec = compression.detect(stream, name)
        self._records = 0
        self._size: int | None = None  # about the size of the last record, None if unknown
        self._slack = 0  # what it may lack

    def read(self, start: int, stop: int | None) -> Iterator[Page | Reject]:
        """Yields what stands from the record at `start` (or the file's start) to that at `stop`."""
        position: int | None = start
        while position is not None and (stop is None or position < stop):
            position = yield from self._run(position, stop)
        if self._records == 0 and start == 0 and stop is None:
            yield self._reject(0, "not_warc", "no WARC record found in this file")

    def boundary(self, start: int, stop: int | None = None) -> int | None:
        """Returns where a part begins: the first record in [start, stop), None if there is none."""
        if self._codec is not None:
            return self._first_record(start, stop)
        return compression.find(self._stream, _PLAIN_MARK, self._is_plain_record, start, stop)

    def _first_record(self, start: int, stop: int | None = None) -> int | None:
        mark = self._codec.magic if self._codec else _PLAIN_MARK
        return compression.find(self._stream, mark, self._is_record, start, stop)

    def _run(self, start: int, stop: int | None) -> Generator[Page | Reject, None, int | None]:
        """Yields what stands from `start` on; returns where to go on after damage, else None."""
        offset, in_body, found = start, False, False
        source = Source(self._stream, self._codec, start)
        try:
            for record in parse(source):
                before, offset = offset, record.stream_pos + source.base
                if offset > before:
                    check = (
                        self._passed_over(source, before, offset)
                        if found
                        else (self._passed_start(start, offset))
                    )
                    skipped = yield from check
                    if skipped is not None:
                        return skipped
                if stop is not None and offset >= stop and self._is_past(record, offset, stop):
                    return None
                in_body, found = True, True
                # Read before anything is said of the record, so that damage is put down to it.
                body = record.reader.read(self._max_page_bytes + 1)
                in_body = False
                item, is_cut = self._read_record(record, offset, body)
                self._records += 1
                if item is not None:
                    yield item
                if is_cut:
                    return self._resume(offset)
        except OSError as error:
            if in_body or not found:
                return (yield from self._damaged(offset, str(error)))
            if self._codec is None:
                return self._resume(offset)
        if not found:
            return (yield from self._nothing_at(start))
        if self._codec is None:
            return (yield from self._plain_gap(offset, None))
        return (yield from self._after(offset, start))

    def _damaged(self, offset: int, detail: str) -> Generator[Reject, None, int | None]:
        """Says that a record, or the file's start, is damaged; returns where to go on."""
        position = self._resume(offset)
        if self._records or position is not None or self._is_record(offset):  # else it is no WARC
            self._records += 1
            reason = "truncated" if self._ends_early(offset) else "damaged"
            yield self._reject(offset, reason, detail)
        return position

    def _nothing_at(self, start: int) -> Generator[Reject, None, int | None]:
        """Says why FastWARC sees no record from `start` on; returns where to go on."""
        position = self.boundary(start + 1)
        self.ledger.add_lost(start + 1, position)
        if self._is_record(start):
            self._records += 1
            is_cut = position is None
            yield self._reject(start, "truncated" if is_cut else "bad_header", "no whole header")
        elif position is not None:
            yield self._reject(start, "garbage", "bytes that belong to no record")
        return position

    def _resume(self, offset: int) -> int | None:
        """Returns where reading goes on after damage at `offset`."""
        position = self._first_record(offset + 1)
        self.ledger.add_lost(offset + 1, position)
        return position

    def _is_past(self, record: WarcRecord, offset: int, stop: int) -> bool:
        """Returns whether a record belongs to the next part.

        Where a member holds several records, FastWARC gives the end of the member for the offset of
        the later ones, which is where the next part begins.
        """
        if offset > stop or self._codec is None:
            return True
        with kept_position(self._stream):
            data = self._bytes_at(offset, MAX_HEADER_BYTES)
        with contextlib.suppress(OSError):
            for following in parse(io.BytesIO(data)):
                return [*following.headers] == [*record.headers]
        return True

    # Records.

    def _read_record(
        self, record: WarcRecord, offset: int, body: bytes
    ) -> tuple[Page | Reject | None, bool]:
        """Returns what a record holds, and whether reading must start anew after it."""
        headers = {name.lower(): value for name, value in record.headers}
        kind, is_page = record.record_type, bool(record.record_type & warc_record.PAGE_TYPES)
        self._size = None
        is_lacking = not headers.get("content-length", "").strip()
        if is_lacking and (is_page or kind & WarcRecordType.unknown):
            headers, repaired = self._reread(offset)
            if repaired is not None and headers.get("warc-type") in ("response", "resource"):
                return self._page(headers, offset, repaired), False
        fault = warc_record.fault_of(headers, body, self._max_page_bytes)
        if fault is not None and (is_page or self._hides_pages(fault, kind)):
            record_id = warc_record.record_id(headers)
            return self._reject(offset, fault.reason, fault.detail, record_id), fault.is_cut
        length = warc_record.length_of(headers)
        if fault is None and length is not None:
            lines = sum(map(len, headers)) + sum(map(len, headers.values())) + 2 * len(headers)
            self._size, self._slack = lines + length, 24 + 3 * len(headers)
        return (self._page(headers, offset, body) if is_page else None), False

    def _hides_pages(self, fault: warc_record.Fault, kind: WarcRecordType) -> bool:
        """Returns whether what is wrong with a record that is no page may cost pages after it."""
        if self._codec is None:  # without its length, everything up to the next record is skipped
            return fault.is_cut or kind != WarcRecordType.warcinfo
        return fault.is_cut and fault.reason == "bad_length"  # _after tells if a member is cut

    def _page(self, headers: dict[str, str], offset: int, block: bytes) -> Page:
        self.ledger.add_page(offset)
        return warc_record.page_of(
            headers, self._name, offset, block, self._max_page_bytes, self._primary_only
        )

    def _reread(self, offset: int) -> tuple[dict[str, str], bytes | None]:
        """Reads a record again whose header block a blank line has cut in two."""
        with kept_position(self._stream):
            data = self._bytes_at(offset, self._max_page_bytes)
        headers, begin = warc_record.header_of(data)
        end = warc_record.end_of(data)
        is_whole = end is not None and end <= len(data)
        return headers, data[begin:end] if is_whole else None

    def _reject(self, offset: int, reason: str, detail: str, record_id: str = "") -> Reject:
        reject = reject_at(self._name, offset, reason, detail, record_id)
        self.ledger.add_reject(reject, offset)
        return reject

    # What FastWARC does not say.

    def _after(self, last: int, start: int) -> Generator[Reject, None, int | None]:
        """Checks what follows the last record that was read whole; returns where to go on."""
        assert self._codec is not None
        origin = last if self._starts_member(last) else start
        end = self._end_of(origin)
        while end is not None and end < last:  # members of several records, all of them read
            end = self._end_of(end)
        if end is None:
            # A member whose end is damaged may seem to go on up to the end of the file.
            position = self._resume(origin)
            if position is None:
                yield self._reject(origin, "truncated", "the file ends inside this record")
            else:
                detail = f"this {self._codec.name} has no end"
                yield self._reject(origin, "damaged", detail)
            return position
        position = self._first_record(end)
        if position != end:
            lacking = self._lacking_bytes(origin) if origin == last else 0
            yield from self._strangers(end, position, lacking)
            self.ledger.add_lost(end, position)
        return position

    def _passed_over(
        self, source: Source, before: int, offset: int
    ) -> Generator[Reject, None, int | None]:
        """Names what FastWARC skipped between two records; returns a record that it skipped."""
        if source.member_between(before, offset):
            with kept_position(self._stream):
                end = self._end_of(before) if self._starts_member(before) else None
                if end is None or end >= offset:
                    return None
                skipped = self._first_record(end, offset)
                stop = offset if skipped is None else skipped
                yield from self._strangers(end, stop, self._lacking_bytes(before))
                return skipped
        if self._has_excess(source, before, offset):
            with kept_position(self._stream):
                return (yield from self._excess(before, offset))
        return None

    def _passed_start(self, start: int, offset: int) -> Generator[Reject, None, int | None]:
        """Names what FastWARC skipped before the first record that it saw, as `_passed_over`."""
        with kept_position(self._stream):
            if self._codec is not None:
                start = max(start, len(self._codec.prelude))
            skipped = self._first_record(start + 1, offset)
            stop = offset if skipped is None else skipped
            if self._codec is not None:
                yield from self._strangers(start, stop, 0)
            elif self._bytes_at(start, min(stop - start, 1 << 16)).strip(b"\r\n"):
                yield self._reject(start, "garbage", "bytes that belong to no record")
            return skipped

    def _has_excess(self, source: Source, before: int, offset: int) -> bool:
        """Returns whether there seem to be more bytes before `offset` than the last record has."""
        size = offset - before
        if isinstance(self._codec, Gzip):  # a member ends with its size
            size = int.from_bytes(source.four_bytes_before(offset), "little")
        elif self._codec is not None:
            return False
        return self._size is not None and self._slack < size - self._size < _MAX_EXCESS

    def _excess(self, before: int, offset: int) -> Generator[Reject, None, int | None]:
        if self._codec is None:
            return (yield from self._plain_gap(before, offset))
        size = (self._size or 0) + 2 * self._slack
        data = self._bytes_at(before, size)
        end = warc_record.end_of(data)
        rest = b"" if end is None else data[end:].lstrip(b"\r\n")
        if rest and not RECORD_START.match(rest):
            yield self._reject(before, "garbage", "more bytes than this record's Content-Length")
        return None

    def _plain_gap(self, before: int, stop: int | None) -> Generator[Reject, None, int | None]:
        """Names bytes between a record and `stop`; returns a record that stands there."""
        end = warc_record.end_of(self._bytes_at(before, MAX_HEADER_BYTES))
        if end is None:
            return self.boundary(before + 1, stop)
        position = self._first_record(before + end, stop)
        limit = size_of(self._stream) if position is None and stop is None else position or stop
        assert limit is not None
        gap = self._bytes_at(before + end, max(min(limit - before - end, 1 << 16), 0))
        if gap.strip(b"\r\n"):
            yield self._reject(before + end, "garbage", "bytes that belong to no record")
        return position

    def _strangers(self, start: int, stop: int | None, lacking: int) -> Iterator[Reject]:
        """Names what stands in [start, stop) and is no record.

        Args:
          start: where a member ends.
          stop: the next record, None for the file's end.
          lacking: bytes that the record before has in members of their own.
        """
        end = size_of(self._stream) if stop is None else stop
        while start < end:
            if not self._starts_member(start):
                yield self._reject(start, "garbage", "bytes that belong to no record")
                return
            assert self._codec is not None
            try:
                after, size = compression.measure(self._codec, self._stream, start)
            except DamageError as error:
                detail = f"this {self._codec.name} cannot be decompressed: {error}"
                yield self._reject(start, "damaged", detail)
                return
            if after is None:
                yield self._reject(start, "truncated", "the file ends inside this record")
                return
            if size and lacking <= 0:
                detail = f"this {self._codec.name} holds no record"
                yield self._reject(start, "garbage", detail)
            lacking -= size
            start = after

    def _lacking_bytes(self, offset: int) -> int:
        """Returns how much of the last record its member does not hold."""
        assert self._codec is not None
        size = self._size or 0
        if not self._is_record(offset):  # it begins somewhere inside the member
            return size
        return size - compression.measure(self._codec, self._stream, offset)[1]

    # Offsets.

    def _starts_member(self, offset: int) -> bool:
        assert self._codec is not None
        self._stream.seek(offset)
        return self._codec.is_start(self._stream.read(4))

    def _end_of(self, offset: int) -> int | None:
        """Returns where a member ends that was read; None if the file ends before."""
        assert self._codec is not None
        try:
            return compression.measure(self._codec, self._stream, offset)[0]
        except DamageError:
            return None

    def _ends_early(self, offset: int) -> bool:
        try:
            return (
                self._codec is not None
                and compression.measure(self._codec, self._stream, offset)[0] is None
            )
        except DamageError:
            return False

    def _is_record(self, offset: int) -> bool:
        if self._codec is not None:
            head = self._bytes_at(offset, 64)
        else:
            self._stream.seek(max(offset - 1, 0))
            head = self._stream.read(64)
            if offset and not head.startswith(b"\n"):
                return False
        return RECORD_START.match(head.lstrip(b"\r\n")) is not None

    def _is_plain_record(self, offset: int) -> bool:
        # Stricter than after damage: a page may show the head of a record.
        self._stream.seek(max(offset - 4, 0))
        return warc_record.is_followed_by_record(self._stream.read(4096))

    def _bytes_at(self, offset: int, size: int) -> bytes:
        """Returns what stands at an offset, decompressed."""
        if self._codec is not None:
            return compression.head(self._codec, self._stream, offset, size)
        self._stream.seek(offset)
        return self._stream.read(size)

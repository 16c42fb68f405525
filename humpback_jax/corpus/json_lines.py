"""Pages out of JSON lines: {url, html or text} of any corpus, and the txt format of ClueWeb22.

A line that is no page is one Reject. A damaged member costs its own lines: reading goes on at the
next one. Only what is not compressed, and ClueWeb22, whose files have a member for each line, can
be read in parts.
"""

import json
import re
from collections.abc import Generator, Iterator
from typing import BinaryIO, NamedTuple

from humpback_jax.corpus import compression
from humpback_jax.corpus.clueweb22 import Ledger, expected_documents
from humpback_jax.corpus.columns import Columns
from humpback_jax.corpus.compression import Codec, DamageError
from humpback_jax.corpus.page import Page, reject_at
from humpback_jax.corpus.storage import open_storage, size_of
from humpback_jax.records import Reject

_LINE_START = re.compile(rb"\s*\{")


def read_json_lines(
    file: str, columns: Columns, max_page_bytes: int, start: int = 0, end: int | None = None
) -> Iterator[Page | Reject]:
    """Yields the pages of a JSON lines file in order, and a Reject for each line that is none.

    Reasons: "bad_line" (no JSON object), "no_page" (an object without html and text), "too_large"
    (a line longer than a page may be), "damaged", "truncated", "missing_records" and "bad_offsets"
    as in WARC files, and "no_columns" for a file whose first object has neither html nor text.

    Args:
      file: the file, local or gs://.
      columns: which fields hold what.
      max_page_bytes: a page is cut one byte after these.
      start: offset at which the part begins that is to be read; a line belongs to the part in
        which it starts.
      end: offset at which it ends, None for the end of the file.
    """
    expected = expected_documents(file)
    with open_storage(file) as stream:
        codec = compression.detect(stream, file)
        is_by_line = expected is not None and expected.is_divisible and codec is not None
        if start and codec is not None and not is_by_line:
            return
        lines = _Lines(stream, codec, is_by_line, max_line=4 * max_page_bytes + (1 << 20))
        first = lines.boundary(start, end) if start else 0
        if first is None:
            return
        is_divided = codec is None or is_by_line
        stop = lines.boundary(end) if is_divided and end is not None else None
        if missing := _missing_columns(file, columns, lines):
            if start == 0:
                yield reject_at(file, 0, "no_columns", missing)
            return
        ledger = Ledger()
        for item in lines.read(first, stop):
            page = _read_line(file, columns, max_page_bytes, item)
            if isinstance(page, Page):
                ledger.add_page(item.offset)
            elif page is not None:
                ledger.add_reject(page, item.offset)
            if page is not None:
                yield page
        if expected is not None:
            for lost in lines.lost:
                ledger.add_lost(*lost)
            yield from ledger.compare(file, expected, first, stop, size_of(stream))


class _Line(NamedTuple):
    """A line and its offset."""

    offset: int
    content: bytes


class _Loss(NamedTuple):
    """What could not be read from an offset on."""

    offset: int
    reason: str
    detail: str


def _read_line(
    file: str, columns: Columns, max_page_bytes: int, item: _Line | _Loss
) -> Page | Reject | None:
    """Returns the page of a line, its reject, or None for an empty line."""
    if isinstance(item, _Loss):
        return reject_at(file, item.offset, item.reason, item.detail)
    if not item.content.strip():
        return None
    row, problem = _parse(item.content)
    if problem:
        is_cut = not item.content.endswith(b"\n")
        return reject_at(file, item.offset, "truncated" if is_cut else "bad_line", problem)
    page = columns.page(file, item.offset, row, max_page_bytes)
    return page or reject_at(file, item.offset, "no_page", "neither HTML nor text in this line")


def _parse(content: bytes) -> tuple[dict, str]:
    """Returns (the object of a line, what is wrong with it)."""
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        return {}, f"{type(error).__name__}: {error}"
    return (row, "") if isinstance(row, dict) else ({}, f"a {type(row).__name__}, no object")


def _missing_columns(file: str, columns: Columns, lines: "_Lines") -> str:
    """Returns what the first object of a file lacks, as a sentence; "" if it lacks nothing."""
    for item in lines.read(0, None):
        if isinstance(item, _Line) and item.content.strip():
            row, problem = _parse(item.content)
            if not problem:
                return columns.missing_from(file, row)
    return ""


class _Lines:
    """The lines of an open file, by their offsets.

    Attributes:
      lost: (start, end) of what could not be read; None for the file's end.
    """

    def __init__(self, stream: BinaryIO, codec: Codec | None, is_by_line: bool, max_line: int):
        self.lost: list[tuple[int, int | None]] = []
        self._stream, self._codec = stream, codec
        self._is_by_line = is_by_line  # a member for each line
        self._max_line = max_line
        self._too_large = f"a line of more than {max_line} bytes"

    def boundary(self, start: int, stop: int | None = None) -> int | None:
        """Returns the offset of the first line in [start, stop), None if there is none."""
        if self._codec is not None:
            return compression.find(self._stream, self._codec.magic, self._is_line, start, stop)
        position = self._skip_line(start - 1)
        is_there = position < (size_of(self._stream) if stop is None else stop)
        return position if is_there else None

    def read(self, start: int, stop: int | None) -> Iterator[_Line | _Loss]:
        """Yields the lines from the one at `start` up to the one at `stop`."""
        self.lost.clear()
        return self._plain(start, stop) if self._codec is None else self._packed(start, stop)

    def _plain(self, start: int, stop: int | None) -> Iterator[_Line | _Loss]:
        position = start
        while stop is None or position < stop:
            self._stream.seek(position)
            line = self._stream.readline(self._max_line + 1)
            if not line:
                return
            if len(line) > self._max_line:
                yield _Loss(position, "too_large", self._too_large)
                position = self._skip_line(position + len(line) - 1)
            else:
                yield _Line(position, line)
                position += len(line)

    def _skip_line(self, position: int) -> int:
        """Returns where the line after the one with the byte at `position` begins."""
        self._stream.seek(position)
        while (piece := self._stream.readline(1 << 20)) and not piece.endswith(b"\n"):
            pass
        return self._stream.tell()

    def _packed(self, start: int, stop: int | None) -> Iterator[_Line | _Loss]:
        assert self._codec is not None
        cutter, member = _Cutter(self._max_line, self._too_large), start
        size = size_of(self._stream)
        while member < size and (stop is None or member < stop):
            try:
                end = yield from self._cut_member(cutter, member)
            except DamageError as error:
                detail = f"this {self._codec.name} cannot be decompressed: {error}"
                yield _Loss(self._offset(cutter, member), "damaged", detail)
                end = self._next_member(cutter, member)
            else:
                if end is None:
                    detail = "the file ends inside this line"
                    yield _Loss(self._offset(cutter, member), "truncated", detail)
                    self.lost.append((member + 1, None))
                    return
                if end < size and not self._is_member(end):
                    yield _Loss(
                        end if self._is_by_line else cutter.offset,
                        "garbage",
                        "bytes that belong to no line",
                    )
                    end = self._next_member(cutter, end)
            if end is None:
                return
            member = end
        if cutter.rest:
            yield _Line(self._offset(cutter, member), cutter.rest)

    def _cut_member(
        self, cutter: "_Cutter", member: int
    ) -> Generator[_Line | _Loss, None, int | None]:
        assert self._codec is not None
        blocks = self._codec.blocks(self._stream, member)
        while True:
            try:
                block = next(blocks)
            except StopIteration as stop:
                return stop.value
            for item in cutter.cut(block):
                yield item._replace(offset=member) if self._is_by_line else item

    def _offset(self, cutter: "_Cutter", member: int) -> int:
        return member if self._is_by_line else cutter.offset

    def _next_member(self, cutter: "_Cutter", member: int) -> int | None:
        """Returns where reading goes on after damage; the line that was begun is lost with it."""
        assert self._codec is not None
        cutter.drop()
        found = compression.find(self._stream, self._codec.magic, self._is_start, member + 1)
        self.lost.append((member + 1, found))
        return found

    def _is_member(self, offset: int) -> bool:
        assert self._codec is not None
        self._stream.seek(offset)
        return self._codec.is_start(self._stream.read(4))

    def _is_start(self, offset: int) -> bool:
        """Returns whether a member starts here: it begins with a line, or is whole."""
        assert self._codec is not None
        if self._is_line(offset):
            return True
        if self._is_by_line:
            return False
        try:
            return compression.measure(self._codec, self._stream, offset)[1] > 0
        except DamageError:
            return False

    def _is_line(self, offset: int) -> bool:
        assert self._codec is not None
        head = compression.head(self._codec, self._stream, offset, 64)
        return _LINE_START.match(head) is not None


class _Cutter:
    """Cuts blocks of text into lines.

    Attributes:
      offset: where the line that was begun starts, in bytes of the text.
      rest: the line that was begun.
    """

    def __init__(self, max_line: int, too_large: str):
        self.offset, self.rest = 0, b""
        self._max_line, self._too_large = max_line, too_large
        self._is_skipping = False

    def cut(self, block: bytes) -> Iterator[_Line | _Loss]:
        """Yields the lines that end in a block."""
        *lines, rest = (self.rest + block).split(b"\n")
        self.rest = b""
        for line in lines:
            at, self.offset = self.offset, self.offset + len(line) + 1
            if self._is_skipping:
                self._is_skipping = False
            elif len(line) > self._max_line:
                yield _Loss(at, "too_large", self._too_large)
            else:
                yield _Line(at, line + b"\n")
        self.rest = rest
        if len(rest) > self._max_line or self._is_skipping:
            if not self._is_skipping:
                yield _Loss(self.offset, "too_large", self._too_large)
            self.drop()
            self._is_skipping = True

    def drop(self) -> None:
        """Forgets the line that was begun."""
        self.offset += len(self.rest)
        self.rest, self._is_skipping = b"", False

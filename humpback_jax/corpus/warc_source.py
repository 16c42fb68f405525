"""An archive as FastWARC reads it, from any offset on."""

import bisect
import contextlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from fastwarc.warc import ArchiveIterator

from humpback_jax.corpus.compression import Codec

# A longer header ends the whole file in FastWARC, and ClueWeb22's VDOM lists pass its default of
# 32 KiB.
MAX_HEADER_BYTES = 16 << 20
# Bytes read before that are kept beside those read last; a header is mostly shorter.
_OVERLAP = 4096


def parse(source: Any) -> ArchiveIterator:
    """Returns the records of a Source, or of any binary stream."""
    return ArchiveIterator(
        source,
        parse_http=False,
        quirks_mode=True,
        max_header_len=MAX_HEADER_BYTES,
        fsspec_args=False,
    )


class Source:
    """The file as FastWARC reads it, from an offset on; notes where members seem to start.

    Attributes:
      base: what FastWARC's offsets lack.
    """

    def __init__(self, stream: BinaryIO, codec: Codec | None, start: int):
        self._stream = stream
        self._magic = codec.magic if codec else b""
        # A dictionary stands at the file's start and is needed wherever reading begins; FastWARC
        # looks for it at offset 0 alone.
        self._prelude = codec.prelude if codec and start else b""
        self.base = start - len(self._prelude) if self._prelude else 0
        self._marks: list[int] = []
        self._position, self._block = start, b""  # what was read last, and a little before it
        stream.seek(start)

    def read(self, size: int = -1) -> bytes:
        if self._prelude:
            data, self._prelude = self._prelude, b""
            return data
        position = self._stream.tell()
        data = self._stream.read(size)
        if self._magic:
            overlap = self._block[-_OVERLAP:]
            self._position, self._block = position - len(overlap), overlap + data
            found = self._block.find(self._magic, max(len(overlap) - len(self._magic) + 1, 0))
            while found >= 0:
                self._marks.append(self._position + found)
                found = self._block.find(self._magic, found + 1)
        return data

    def four_bytes_before(self, offset: int) -> bytes:
        """Returns what stands just before a record whose header was read."""
        start = offset - 4 - self._position
        if start >= 0:
            return self._block[start : start + 4]
        with kept_position(self._stream):
            self._stream.seek(offset - 4)
            return self._stream.read(4)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._block = b""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell() - len(self._prelude) - self.base

    def member_between(self, start: int, stop: int) -> bool:
        """Returns whether a member may start between two offsets; forgets what comes before."""
        below = bisect.bisect_right(self._marks, start)
        upto = bisect.bisect_left(self._marks, stop)
        del self._marks[:upto]
        return upto > below


@contextlib.contextmanager
def kept_position(stream: BinaryIO) -> Iterator[None]:
    """Leaves a stream where it was, for FastWARC to read on."""
    position = stream.tell()
    yield
    stream.seek(position)

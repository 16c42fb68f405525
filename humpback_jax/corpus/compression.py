"""Compressed files as a row of members: gzip members or zstd frames, each decompressed by itself.

Archives hold a member for each record, so that a reader can begin at any of them and go on after
one that is damaged. What a member decompresses to comes in blocks of bounded size, however well it
was compressed.
"""

import dataclasses
import io
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import BinaryIO

import zstandard

_READ = 64 << 10
_BLOCK = 1 << 20
_ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"  # a skippable frame that holds the dictionary of a .warc.zst
_MAX_DICTIONARY = 100 << 20
# No control characters but white space.
_TEXT = re.compile(rb"[^\x00-\x08\x0e-\x1f\x7f]*")
_TEXT_BYTES = 200

# Yields what a member decompresses to; returns where it ends, None if the file ends before.
Blocks = Generator[bytes, None, int | None]


class DamageError(Exception):
    """A member cannot be decompressed."""


@dataclasses.dataclass(frozen=True)
class Gzip:
    """Members of gzip."""

    name: str = "gzip member"
    magic: bytes = b"\x1f\x8b\x08"
    prelude: bytes = b""

    def is_start(self, head: bytes) -> bool:
        """Returns whether four bytes are those with which a member starts."""
        return head.startswith(self.magic)

    def blocks(self, stream: BinaryIO, offset: int, size: int = _BLOCK) -> Blocks:
        """Decompresses the member at `offset` in blocks of up to `size` bytes.

        Raises:
          DamageError: the member is damaged; what was yielded before may be wrong at its end.
        """
        inflater, position = zlib.decompressobj(31), offset
        stream.seek(position)
        while raw := stream.read(_READ):
            position += len(raw)
            while raw:
                try:
                    block = inflater.decompress(raw, size)
                except zlib.error as error:
                    raise DamageError(str(error)) from error
                if block:
                    yield block
                if inflater.eof:
                    return position - len(inflater.unused_data)
                raw = inflater.unconsumed_tail
            stream.seek(position)
        if rest := inflater.flush():
            yield rest
        return None


@dataclasses.dataclass(frozen=True)
class Zstd:
    """Frames of zstd, with the dictionary that a skippable frame at the file's start may hold."""

    dictionary: bytes = b""
    prelude: bytes = b""  # that frame, which FastWARC wants to see wherever it begins to read
    name: str = "zstd frame"
    magic: bytes = b"\x28\xb5\x2f\xfd"

    def is_start(self, head: bytes) -> bool:
        """Returns whether four bytes are those with which a frame starts."""
        return head == self.magic or _is_skippable(head)

    def blocks(self, stream: BinaryIO, offset: int, size: int = _BLOCK) -> Blocks:
        """Decompresses the frame at `offset`, as Gzip.blocks does; `size` is 128 KiB at most."""
        stream.seek(offset)
        head = stream.read(18)
        if _is_skippable(head):
            end = offset + 8 + int.from_bytes(head[4:8], "little")
            return end if len(head) >= 8 and end <= stream.seek(0, io.SEEK_END) else None
        try:
            header = zstandard.frame_header_size(head)
            has_checksum = zstandard.get_frame_parameters(head).has_checksum
            inflater = self._decompressor().decompressobj()
            inflater.decompress(head[:header])
            position, is_last = offset + header, False
            while not is_last:
                # Block by block, since a block gives 128 KiB at most.
                stream.seek(position)
                word = stream.read(3)
                value = int.from_bytes(word, "little")
                is_last, kind, length = value & 1, value >> 1 & 3, value >> 3
                length = (1 if kind == 1 else length) + (4 if is_last and has_checksum else 0)
                data = stream.read(length)
                if len(word) < 3 or len(data) < length:
                    return None
                position += 3 + length
                if block := inflater.decompress(word + data):
                    yield block
        except zstandard.ZstdError as error:
            raise DamageError(str(error)) from error
        return position

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        if not self.dictionary:
            return zstandard.ZstdDecompressor()
        return zstandard.ZstdDecompressor(zstandard.ZstdCompressionDict(self.dictionary))


Codec = Gzip | Zstd


def detect(stream: BinaryIO, name: str) -> Codec | None:
    """Returns how an open file is compressed, None if it is not.

    Its first bytes tell; where they are neither a member nor text, they are damaged, and the name
    tells.
    """
    stream.seek(0)
    magic = stream.read(4)
    if magic.startswith(Gzip().magic):
        return Gzip()
    if magic == Zstd().magic:
        return Zstd()
    if magic == _ZSTD_DICTIONARY:
        return _with_dictionary(stream)
    if _TEXT.fullmatch(magic + stream.read(_TEXT_BYTES)):
        return None
    suffix = name.lower().rpartition(".")[2]
    return Gzip() if suffix == "gz" else Zstd() if suffix in ("zst", "zstd") else None


def _is_skippable(head: bytes) -> bool:
    """Returns whether a frame of zstd holds no data."""
    return head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F


def _with_dictionary(stream: BinaryIO) -> Zstd:
    length = int.from_bytes(stream.read(4), "little")
    dictionary = stream.read(min(length, _MAX_DICTIONARY))
    prelude = _ZSTD_DICTIONARY + length.to_bytes(4, "little") + dictionary
    if dictionary.startswith(Zstd().magic):  # it may be compressed itself
        packed = io.BytesIO(dictionary)
        dictionary = head(Zstd(), packed, 0, _MAX_DICTIONARY)
    return Zstd(dictionary, prelude)


def head(codec: Codec, stream: BinaryIO, offset: int, size: int) -> bytes:
    """Returns the first `size` bytes of a member, fewer if it is shorter or damaged."""
    found, length = [], 0
    try:
        for block in codec.blocks(stream, offset, min(size, _BLOCK)):
            found.append(block)
            length += len(block)
            if length >= size:
                break
    except DamageError:
        pass
    return b"".join(found)[:size]


def measure(codec: Codec, stream: BinaryIO, offset: int) -> tuple[int | None, int]:
    """Returns where a member ends (None if the file ends before), and what it decompresses to.

    Raises:
      DamageError: it cannot be decompressed.
    """
    blocks, size = codec.blocks(stream, offset), 0
    while True:
        try:
            size += len(next(blocks))
        except StopIteration as stop:
            return stop.value, size


def find(
    stream: BinaryIO,
    mark: bytes,
    accept: Callable[[int], bool],
    start: int,
    stop: int | None = None,
) -> int | None:
    """Returns the first offset in [start, stop) where `mark` stands and `accept` agrees."""
    return next((o for o in occurrences(stream, mark, start, stop) if accept(o)), None)


def occurrences(
    stream: BinaryIO, mark: bytes, start: int, stop: int | None = None
) -> Iterator[int]:
    """Yields the offsets in [start, stop) where `mark` stands; the stream may be moved between."""
    position, overlap = start, b""
    while stop is None or position - len(overlap) < stop:
        stream.seek(position)
        read = stream.read(_BLOCK)
        if not read:
            return
        block = overlap + read
        base = position - len(overlap)
        found = block.find(mark)
        while found >= 0:
            if stop is not None and base + found >= stop:
                return
            yield base + found
            found = block.find(mark, found + 1)
        position += len(read)
        overlap = block[1 - len(mark) :]

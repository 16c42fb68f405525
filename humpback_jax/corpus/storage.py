"""The bytes of a corpus file, with failures of the storage told apart from damage in the file."""

import contextlib
import io
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

from etils import epath

from humpback_jax.errors import UserError

# Cloud storage is asked for this much at once; seeks inside it cost nothing.
BUFFER = 1 << 20


class UnreadableError(UserError):
    """The storage does not give a file; running again may help, so it is no damage in the file."""


@contextlib.contextmanager
def open_storage(file: str) -> Iterator[BinaryIO]:
    """Opens a file, local or gs://, for reading at any offset.

    Raises:
      UnreadableError: the file cannot be opened, or a later read fails.
    """
    with named(file):
        stream = epath.Path(file).open("rb")
    with stream, io.BufferedReader(_Storage(file, stream), BUFFER) as buffered:
        yield cast(BinaryIO, buffered)


def read_bytes(file: str) -> bytes:
    """Returns the content of a small file; raises UnreadableError as `open_storage` does."""
    with open_storage(file) as stream:
        return stream.read()


class _Storage(io.RawIOBase):
    """A file whose failing reads are no OSError, which readers take for damaged data."""

    def __init__(self, name: str, stream: IO[bytes]):
        self._name, self._stream = name, stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        with named(self._name):
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        with named(self._name):
            return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def window(stream: BinaryIO, start: int, end: int) -> BinaryIO:
    """Returns the bytes [start, end) of an open file as a file of their own."""
    return cast(BinaryIO, io.BufferedReader(_Window(stream, start, end), BUFFER))


class _Window(io.RawIOBase):
    def __init__(self, stream: BinaryIO, start: int, end: int):
        self._stream, self._start, self._end = stream, start, end
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        position = self._start + self._position
        self._stream.seek(position)
        data = self._stream.read(max(min(len(buffer), self._end - position), 0))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._end - self._start)[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position


def size_of(stream: BinaryIO) -> int:
    """Returns the size of an open file in bytes; the position is then at its end."""
    return stream.seek(0, io.SEEK_END)


@contextlib.contextmanager
def named(file: str) -> Iterator[None]:
    """Makes any error of the storage inside the block an UnreadableError that names the file."""
    try:
        yield
    except Exception as error:  # clients of cloud storage raise errors of their own
        what = getattr(error, "strerror", None) or error
        raise UnreadableError(
            f"{file} could not be read ({what}): check the file and its permissions, then run the "
            "same command again; what is done is kept"
        ) from error

"""Arrays as they lie in files: read by slice, some rows at a time, never whole.

Safetensors and torch's .pth files both hold their tensors row by row at some offset, so one
reader serves both; Meta's shards are several such tensors end to end along one axis.
"""

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterable, Sequence

import ml_dtypes
import numpy as np
from etils import epath

from humpback_jax.errors import UserError

# The dtypes that weights may have.
FLOATS = {
    np.dtype(np.float32): "float32",
    np.dtype(np.float16): "float16",
    np.dtype(ml_dtypes.bfloat16): "bfloat16",
}

_BLOCK_BYTES = 1 << 22  # what is read and turned at once

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A row-major tensor in a file.

    Attributes:
      path: the file.
      offset: of its first byte.
      dtype: of its numbers; None for one that numpy or we do not know, which cannot be read.
      shape: as it is stored, or any other of the same number of elements.
    """

    path: epath.Path
    offset: int
    dtype: np.dtype | None
    shape: tuple[int, ...]

    def reshape(self, shape: Sequence[int]) -> "StoredTensor":
        """Returns the same bytes under another shape."""
        return dataclasses.replace(self, shape=tuple(shape))

    def read(self, index: Index, out: np.ndarray) -> None:
        """Copies self[index] into `out`, cast to its dtype.

        Args:
          index: a slice with start and stop for each axis.
          out: an array or view of the slice's shape.
        """
        row_bytes = self._itemsize * math.prod(self.shape[1:])
        step = max(1, _BLOCK_BYTES // row_bytes)
        rows = index[0]
        for start in range(rows.start, rows.stop, step):
            stop = min(start + step, rows.stop)
            block = self._rows(start, stop, row_bytes)
            out[start - rows.start : stop - rows.start] = block[:, *index[1:]]

    @property
    def _itemsize(self) -> int:
        assert self.dtype is not None, "checked before anything is read"
        return self.dtype.itemsize

    def _rows(self, start: int, stop: int, row_bytes: int) -> np.ndarray:
        """Returns some rows: mapped, so that only pages that are used are read, if on a disk."""
        offset, shape = self.offset + start * row_bytes, (stop - start, *self.shape[1:])
        if isinstance(self.path, os.PathLike) and "://" not in os.fspath(self.path):
            return np.memmap(self.path, self.dtype, "r", offset, shape)  # pyright: ignore
        with self.path.open("rb") as file:
            file.seek(offset)
            content = file.read((stop - start) * row_bytes)
        return np.frombuffer(content, self.dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Concatenated:
    """Tensors of several files, end to end along axis 0 or 1."""

    parts: tuple[StoredTensor, ...]
    axis: int

    @property
    def path(self) -> epath.Path:
        return self.parts[0].path

    @property
    def dtype(self) -> np.dtype | None:
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.parts[0].shape)
        shape[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(shape)

    def reshape(self, shape: Sequence[int]) -> "Concatenated":
        """Returns the same parts, their other axes split; the parts stay whole along `axis`.

        Raises:
          UserError: the parts end within what is one step along the axis now, such as a head.
        """
        others = math.prod(shape) // shape[self.axis]
        parts = []
        for part in self.parts:
            size = math.prod(part.shape)
            if size % others:
                raise UserError(
                    f"{part.path} ends within a head: {shape[self.axis]} heads do not divide "
                    f"among {len(self.parts)} files, which no model of Meta's does; copy it again"
                )
            own = list(shape)
            own[self.axis] = size // others
            parts.append(part.reshape(own))
        return Concatenated(tuple(parts), self.axis)

    def read(self, index: Index, out: np.ndarray) -> None:
        """Copies self[index] into `out`, as `StoredTensor.read` does."""
        wanted, begin = index[self.axis], 0
        for part in self.parts:
            size = part.shape[self.axis]
            start, stop = max(wanted.start - begin, 0), min(wanted.stop - begin, size)
            if start < stop:
                inner = (*index[: self.axis], slice(start, stop), *index[self.axis + 1 :])
                first = begin + start - wanted.start
                place = (slice(None),) * self.axis + (slice(first, first + stop - start),)
                part.read(inner, out[place])
            begin += size


Tensor = StoredTensor | Concatenated


def digest_files(paths: Iterable[epath.Path]) -> str:
    """Returns 16 hex digits of the names and contents of those files that exist."""
    total = hashlib.sha256()
    for path in sorted(path for path in paths if path.exists()):
        total.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(_BLOCK_BYTES):
                total.update(chunk)
    return total.hexdigest()[:16]

"""Files of torch.save, read without torch and without running what they hold.

Such a file is a zip archive with <name>/data.pkl, a pickle of the dictionary of tensors, and
<name>/data/<key>, the bytes of each storage, not compressed. A pickle may call any function it
names; this one may name four kinds of things, and none of them does anything.
"""

import collections
import io
import math
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from humpback_jax.checkpoints.stored import StoredTensor
from humpback_jax.errors import UserError

_STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
}
_MAX_PICKLE_BYTES = 1 << 28
_LOCAL_HEADER_BYTES = 30  # of a zip entry, before its name and its extra field


def read_tensors(path: epath.Path) -> dict[str, StoredTensor]:
    """Returns the tensors of a file by name; their bytes are not read.

    Raises:
      UserError: the file is cut off, none of torch.save's, or holds anything but tensors.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            (name,) = (n for n in entries if n.endswith("/data.pkl"))
            if entries[name].file_size > _MAX_PICKLE_BYTES:
                raise ValueError(f"its {name} has {entries[name].file_size} bytes")
            pickled = archive.read(name)
            prefix = name.removesuffix(".pkl") + "/"
            storages = {
                n.removeprefix(prefix): _place(file, entry)
                for n, entry in entries.items()
                if n.startswith(prefix)
            }
        found = _Unpickler(path, pickled, storages).load()
    except UserError:
        raise
    # A broken pickle ends in any of a dozen errors; none of its code has been run.
    except Exception as error:
        raise UserError(
            f"{path} is no whole file of torch.save ({error or type(error).__name__}): copy it "
            "again"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(t, StoredTensor) for t in found.values()):
        raise UserError(f"{path} is no dictionary of tensors: give a consolidated.*.pth of Meta's")
    return dict(found)


def _place(file: Any, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Returns (offset in the file, length) of an entry's bytes."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry.filename} is compressed")
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return entry.header_offset + _LOCAL_HEADER_BYTES + sum(lengths), entry.file_size


class _Storage:
    """The name of a torch storage class: a tag and no more."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: Any):
        self.dtype = np.dtype(dtype)


class _Rebuild:
    """What stands for torch._utils._rebuild_tensor_v2; it has nothing that a pickle could set."""

    __slots__ = ("_path",)

    def __init__(self, path: epath.Path):
        self._path = path

    def __call__(self, storage, offset, shape, strides, *_) -> StoredTensor:
        (begin, length), dtype = storage
        rows = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        turned = [s for s, want, n in zip(strides, rows, shape, strict=True) if s != want and n > 1]
        if turned:
            raise UserError(
                f"{self._path} has a tensor {list(shape)} with strides {list(strides)}: only "
                "tensors that lie row by row can be read; save them contiguous"
            )
        first, size = offset * dtype.itemsize, math.prod(shape) * dtype.itemsize
        if offset < 0 or min(shape, default=1) < 0 or first + size > length:
            raise ValueError(f"a tensor {list(shape)} is larger than its storage")
        return StoredTensor(self._path, begin + first, dtype, tuple(shape))


class _Unpickler(pickle.Unpickler):
    """Finds tensors, dictionaries and plain values; refuses every other name."""

    def __init__(self, path: epath.Path, content: bytes, storages: dict[str, tuple[int, int]]):
        super().__init__(io.BytesIO(content))
        self._path, self._storages = path, storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Rebuild(self._path)
        if module == "torch" and name in _STORAGES:
            return _Storage(_STORAGES[name])
        raise UserError(
            f"{self._path} asks for {module}.{name}, which no tensor needs and which could do "
            "anything, so the file is refused: get the weights from their maker"
        )

    def persistent_load(self, pid: Any) -> tuple[tuple[int, int], np.dtype]:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _Storage):
            raise ValueError(f"it refers to a {kind!r}")
        place = self._storages[key]
        if place[1] < count * storage.dtype.itemsize:
            raise ValueError(f"storage {key} has {place[1]} bytes, {count} numbers were announced")
        return place, storage.dtype

"""Digests of a checkpoint's small files, written beside them once it is committed.

Arrays have checksums of their own, taken before they were written. What describes them lies in
files of a few KiB, in which a flipped bit may change a name, a shape or a sharding unnoticed.

    <step>/seal.json    {"files": {"state/_METADATA": [bytes, sha256], ...}, "fingerprint": ...}
"""

import hashlib
import json
from collections.abc import Iterator

from etils import epath

from humpback_jax import rundir

NAME = "seal.json"
_CHANGED = "its bytes are not those that were written"
_SMALL = 1 << 20  # larger files hold arrays


def write_seal(step: epath.Path) -> None:
    """Writes the digests of a committed checkpoint's small files."""
    files = dict(_digests(step))
    rundir.write_json(step / NAME, {"files": files, "fingerprint": rundir.fingerprint(files)})


def broken_files(step: epath.Path) -> Iterator[tuple[str, str]]:
    """Yields (file, what is wrong with it) of the small files that are not what was sealed.

    Raises:
      FileNotFoundError: the checkpoint has no seal, being of others or killed before it got one.
    """
    content = (step / NAME).read_bytes()
    try:
        seal = json.loads(content)
        files, is_whole = seal["files"], seal["fingerprint"] == rundir.fingerprint(seal["files"])
    except (ValueError, KeyError, TypeError):
        files, is_whole = {}, False
    if not is_whole:
        yield NAME, _CHANGED
        return
    for name, (size, digest) in sorted(files.items()):
        path = step / name
        if not path.exists():
            yield name, "the file is missing"
        elif path.stat().length < size:
            yield name, "the file is cut short"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield name, _CHANGED


def _digests(folder: epath.Path, prefix: str = "") -> Iterator[tuple[str, list]]:
    for path in sorted(folder.iterdir()):
        name = f"{prefix}{path.name}"
        if path.is_dir():
            yield from _digests(path, f"{name}/")
        elif name != NAME and path.stat().length <= _SMALL:
            content = path.read_bytes()
            yield name, [len(content), hashlib.sha256(content).hexdigest()]

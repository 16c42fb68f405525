"""The files of a corpus: from a pattern to a list and its digest, locally and on cloud storage."""

import concurrent.futures
import glob
import hashlib
import re

from etils import epath

from humpback_jax.errors import UserError
from humpback_jax.rundir import fingerprint

_WILDCARD = re.compile(r"[*?\[]")
# Small files are told apart by content; for archives of a gigabyte the size has to do.
_HASHED_BYTES = 4 << 20
_THREADS = 16


def find_files(corpus: str) -> list[str]:
    """Returns the files of a pattern, or of several with commas between, each once.

    They are ordered by their names below the folder they share, so that the order does not depend
    on where that folder lies.

    Raises:
      UserError: a pattern matches no file.
    """
    if "://" not in corpus and epath.Path(corpus).is_file():  # a name may hold a comma
        return [str(epath.Path(corpus))]
    found: set[str] = set()
    for pattern in filter(None, (part.strip() for part in corpus.split(","))):
        files = _expand(pattern)
        if not files:
            raise UserError(_no_match(pattern))
        found.update(files)
    if not found:
        raise UserError("the corpus pattern is empty: give a glob of WARC files")
    return sorted(found, key=dict(zip(found, _names_below(list(found)), strict=True)).__getitem__)


def corpus_digest(files: list[str]) -> str:
    """Returns a digest of the files' names below their common folder, sizes and small contents."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(_file_digest, files))
    return fingerprint(list(zip(_names_below(files), digests, strict=True)))


def _expand(pattern: str) -> list[str]:
    path = epath.Path(pattern)
    wildcard = _WILDCARD.search(pattern)
    if wildcard is None or ("://" not in pattern and path.exists()):
        return [str(path)] if path.is_file() else []
    if "://" not in pattern:
        matches = map(epath.Path, glob.glob(pattern, recursive=True))
    elif "**" in pattern:
        raise UserError(f"'{pattern}' has a ** on cloud storage: write each level as * instead")
    else:
        root = pattern[: wildcard.start()].rpartition("/")[0]
        matches = epath.Path(root).glob(pattern[len(root) + 1 :])
    return [str(match) for match in matches if match.is_file()]


def _no_match(pattern: str) -> str:
    if _WILDCARD.search(pattern) is None and epath.Path(pattern).is_dir():
        return f"the corpus '{pattern}' is a folder: give a pattern such as {pattern}/**/*.warc.gz"
    return f"the corpus pattern '{pattern}' matches no file: correct the path, and quote the glob"


def _names_below(files: list[str]) -> list[str]:
    folders = [file.split("/")[:-1] for file in files]
    shared = 0
    for level in zip(*folders, strict=False):
        if len(set(level)) > 1:
            break
        shared += 1
    return ["/".join(file.split("/")[shared:]) for file in files]


def _file_digest(file: str) -> str:
    path = epath.Path(file)
    size = path.stat().length
    if size > _HASHED_BYTES:
        return f"{size} bytes"
    return hashlib.sha256(path.read_bytes()).hexdigest()

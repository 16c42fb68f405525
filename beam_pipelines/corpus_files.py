"""The files of a corpus: from a pattern to a list, its digest and its parts, local or on gs://."""

import concurrent.futures
import dataclasses
import glob
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence

from etils import epath

from humpback_jax.corpus.reading import Part, below, is_corpus_name, is_html_name
from humpback_jax.corpus.storage import UnreadableError, named, read_bytes
from humpback_jax.errors import UserError
from humpback_jax.rundir import fingerprint

_WILDCARD = re.compile(r"[*?\[]")
_MANIFEST = "@"
# Small files are told apart by content; for archives of a gigabyte the size has to do.
_HASHED_BYTES = 4 << 20
_THREADS = 16
# HTML files that are read as one part, however small they are.
_MAX_GROUP = 2000
# Folders of ClueWeb22 beside html and txt, which hold no pages.
_NO_PAGES = re.compile(r"(?:^|/)(?:inlink|outlink|vdom|record_counts)/")


def find_files(corpus: str, keep_missing: bool = False) -> list[str]:
    """Returns the files of a corpus, each once.

    They are ordered by their names below the folder they share, so that the order does not depend
    on where that folder lies.

    Args:
      corpus: a glob, a folder (the files below it that hold pages by their names), or
        @path/to/manifest.txt with a file on each line; or several of these with commas between.
      keep_missing: files of a manifest that are not there are listed with the others.

    Raises:
      UserError: a pattern or a folder holds no file, or files of a manifest are missing.
    """
    if "://" not in corpus and epath.Path(corpus).is_file():  # a name may hold a comma
        return [str(epath.Path(corpus))]
    found: set[str] = set()
    for pattern in filter(None, (part.strip() for part in corpus.split(","))):
        if pattern.startswith(_MANIFEST):
            found.update(_listed(pattern.removeprefix(_MANIFEST), keep_missing))
        else:
            found.update(_expand(pattern))
    if not found:
        raise UserError("the corpus pattern is empty: give a glob, a folder or @manifest.txt")
    return sorted(found, key=dict(zip(found, _names_below(list(found)), strict=True)).__getitem__)


@dataclasses.dataclass(frozen=True)
class Survey:
    """The files of a corpus as they are found: their sizes in bytes, and a digest of all.

    The digest is of the files' names below their common folder, sizes and small contents; a file
    that cannot be read has size 0, for a worker to name.
    """

    files: tuple[str, ...]
    sizes: tuple[int, ...]
    digest: str

    def parts(self, part_bytes: int) -> list[Part]:
        """Returns what is read at once, in the order of the files.

        Small HTML files are put together; a file of more than `part_bytes` is divided, and whoever
        reads a part sees which of the file's records lie in it.
        """
        html = [file for file in self.files if is_html_name(file)]
        folder = _common_folder(html)
        parts = []
        sized = zip(self.files, self.sizes, strict=True)
        for is_html, group in itertools.groupby(sized, lambda pair: is_html_name(pair[0])):
            if is_html:
                parts += _grouped(list(group), part_bytes, folder)
            else:
                for file, size in group:
                    parts += _divided(file, size, part_bytes)
        return parts


def survey(files: Sequence[str]) -> Survey:
    """Looks at every file once."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        seen = list(pool.map(_look_at, files))
    digests = [digest for _, digest in seen]
    return Survey(
        tuple(files),
        tuple(size for size, _ in seen),
        fingerprint(list(zip(_names_below(list(files)), digests, strict=True))),
    )


def _look_at(file: str) -> tuple[int, str]:
    path = epath.Path(file)
    try:
        with named(file):
            size = path.stat().length
            if size > _HASHED_BYTES:
                return size, f"{size} bytes"
            return size, hashlib.sha256(path.read_bytes()).hexdigest()
    except UnreadableError:
        return 0, "unreadable"


def _divided(file: str, size: int, part_bytes: int) -> Iterator[Part]:
    count = max(1, round(size / part_bytes))
    starts = [size * index // count for index in range(count)]
    for start, end in itertools.zip_longest(starts, starts[1:]):
        yield Part((file,), start, end)


def _grouped(sized: list[tuple[str, int]], part_bytes: int, folder: str) -> Iterator[Part]:
    group: list[str] = []
    total = 0
    for file, size in sized:
        if group and (total + size > part_bytes or len(group) == _MAX_GROUP):
            yield Part(tuple(group), folder=folder)
            group, total = [], 0
        group.append(file)
        total += size
    yield Part(tuple(group), folder=folder)


def _listed(manifest: str, keep_missing: bool) -> list[str]:
    try:
        lines = [line.strip() for line in read_bytes(manifest).decode().splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(
            f"the manifest '{manifest}' is no text ({error}): give @ and the path of a text file "
            "with the name of a file on each line"
        ) from error
    files = [str(epath.Path(line)) for line in lines if line and not line.startswith("#")]
    if not files:
        raise UserError(f"the manifest '{manifest}' lists no file: write one on each line")
    if not keep_missing:
        _check_listed(manifest, files)
    return files


def _check_listed(manifest: str, files: list[str]) -> None:
    missing = [
        file for file, is_there in zip(files, _are_files(files), strict=True) if not is_there
    ]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} files of the manifest '{manifest}' are missing, the "
            f"first is {missing[0]}: correct the manifest, or go on without them by "
            "ReadConfig.on_bad_file = 'skip'"
        )


def _are_files(paths: Sequence[str]) -> list[bool]:
    """Returns which of the paths are files; cloud storage is asked for many at once."""

    def is_file(path: str) -> bool:
        with named(path):
            return epath.Path(path).is_file()

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(is_file, paths))


def _expand(pattern: str) -> list[str]:
    path = epath.Path(pattern)
    wildcard = _WILDCARD.search(pattern)
    if wildcard is None or ("://" not in pattern and path.exists()):
        if path.is_file():
            return [str(path)]
        if path.is_dir():
            return _below_folder(path)
        matches = []
    elif "://" not in pattern:
        matches = [str(epath.Path(match)) for match in glob.glob(pattern, recursive=True)]
    elif "**" in pattern:
        raise UserError(f"'{pattern}' has a ** on cloud storage: write each level as * instead")
    else:
        root = pattern[: wildcard.start()].rpartition("/")[0]
        with named(pattern):
            matches = [str(path) for path in epath.Path(root).glob(pattern[len(root) + 1 :])]
    files = list(itertools.compress(matches, _are_files(matches)))
    if not files:
        raise UserError(
            f"the corpus pattern '{pattern}' matches no file: correct the path, and quote the glob"
        )
    return files


def _below_folder(folder: epath.Path) -> list[str]:
    with named(str(folder)):
        files = list(_walk(str(folder)))
    kept = [
        file
        for file in files
        if is_corpus_name(file) and not _NO_PAGES.search(below(file, str(folder)))
    ]
    if not kept:
        raise UserError(
            f"the folder '{folder}' holds no file of pages by its name (.warc, .jsonl, .parquet, "
            f".html, also .gz and .zst) among {len(files)} files: give a glob such as {folder}/*"
        )
    return kept


def _walk(folder: str) -> Iterator[str]:
    if "://" not in folder:
        for path, _, names in os.walk(folder):  # which does not follow links to folders
            yield from (os.path.join(path, name) for name in names)
        return
    for entry in epath.Path(folder).iterdir():
        if entry.is_dir():
            yield from _walk(str(entry))
        else:
            yield str(entry)


def _names_below(files: Sequence[str]) -> list[str]:
    folder = _common_folder(files)
    return [below(file, folder) if folder else file for file in files]


def _common_folder(files: Sequence[str]) -> str:
    folders = [file.split("/")[:-1] for file in files]
    shared = []
    for level in zip(*folders, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/".join(shared)

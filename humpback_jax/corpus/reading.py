"""Pages out of the files of a corpus, whatever their format.

A file is told by its name where that is plain, else by how its content begins: WARC (ClueWeb22,
ClueWeb09 and ClueWeb12, Common Crawl, wget), WACZ (browsertrix), ClueWeb22's txt, JSON lines,
Parquet and HTML; WARC, JSON lines and HTML may be compressed with gzip or zstd. What is none of
these is read as WARC, and is then one reject.
"""

import dataclasses
import re
from collections.abc import Iterator

from humpback_jax.configurable import configurable
from humpback_jax.corpus import compression
from humpback_jax.corpus.columns import Columns
from humpback_jax.corpus.html_files import read_html_file
from humpback_jax.corpus.json_lines import read_json_lines
from humpback_jax.corpus.page import Page, reject_at
from humpback_jax.corpus.parquet_pages import read_parquet_pages
from humpback_jax.corpus.storage import UnreadableError, open_storage
from humpback_jax.corpus.wacz import read_wacz
from humpback_jax.corpus.warc import read_pages
from humpback_jax.errors import UsageError, UserError
from humpback_jax.records import Reject

# Of a whole file, or of what the corpus says of it: the job stops, unless it is told to go on.
BAD_FILE_REASONS = ("unreadable", "no_columns", "bad_offsets")

_PACKED = r"(?:\.gz|\.zst|\.zstd)?$"
_NAMES = {
    "warc": re.compile(r"\.warc" + _PACKED, re.IGNORECASE),
    "wacz": re.compile(r"\.wacz$", re.IGNORECASE),
    "json": re.compile(r"\.(?:jsonl|ndjson|json)" + _PACKED, re.IGNORECASE),
    "parquet": re.compile(r"\.parquet$", re.IGNORECASE),
    "html": re.compile(r"\.(?:html?|xhtml)" + _PACKED, re.IGNORECASE),
}
_SNIFFED = 4096
_HTML_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml)", re.IGNORECASE)


@configurable
@dataclasses.dataclass(frozen=True)
class ReadConfig:
    """How the files of a corpus are read.

    Attributes:
      url_column: column of a Parquet file, or field of JSON lines, that holds the address of a
        page; "" for the usual names (url, uri, target_uri, ...).
      html_column: the same for its HTML ("" for html, raw_html, ...).
      text_column: the same for its text ("" for text, content, Clean-Text, ...); a row with text
        and no HTML gives one segment at most, the whole document.
      primary_only: narrow pages of ClueWeb22 to their main content (VDOM-Primary).
      on_bad_file: "stop" ends the job where a file cannot be opened or is no Parquet
        ("unreadable"), has no column with pages ("no_columns"), or disagrees with its offset file
        ("bad_offsets"); "skip" counts it as a reject and goes on.
      part_bytes: larger files are divided into parts of about this size, where their format allows;
        small HTML files are put together up to it.
    """

    url_column: str = ""
    html_column: str = ""
    text_column: str = ""
    primary_only: bool = False
    on_bad_file: str = "stop"
    part_bytes: int = 128 << 20

    def __post_init__(self):
        if self.on_bad_file not in ("stop", "skip"):
            raise UsageError(
                f"ReadConfig.on_bad_file is {self.on_bad_file!r}: choose 'stop' or 'skip'"
            )
        if self.part_bytes < 1:
            raise UsageError(f"ReadConfig.part_bytes is {self.part_bytes}: give 1 or more")

    @property
    def columns(self) -> Columns:
        return Columns(self.url_column, self.html_column, self.text_column)


@dataclasses.dataclass(frozen=True)
class Part:
    """What is read at once: the bytes [start, end) of a file, or several whole files.

    Attributes:
      files: one file, or small HTML files.
      start: offset at which the part begins.
      end: offset at which it ends, None for the end of the file.
      folder: of all HTML files of the corpus; they are named by their paths below it.
    """

    files: tuple[str, ...]
    start: int = 0
    end: int | None = None
    folder: str = ""


def read_part(part: Part, config: ReadConfig, max_page_bytes: int) -> Iterator[Page | Reject]:
    """Yields the pages of a part in order, and a Reject for each that could not be read.

    The parts of a file give together what the file gives when it is read in one go, for any sizes.

    Raises:
      UserError: a file is bad in a way of BAD_FILE_REASONS, and `config` says to stop.
    """
    for file in part.files:
        for item in _read_file(file, part, config, max_page_bytes):
            if isinstance(item, Reject) and config.on_bad_file == "stop":
                _check(item)
            yield item


def _check(reject: Reject) -> None:
    if reject.reason in BAD_FILE_REASONS:
        raise UserError(f"{reject.detail}, or go on without it by ReadConfig.on_bad_file = 'skip'")


def _read_file(
    file: str, part: Part, config: ReadConfig, max_page_bytes: int
) -> Iterator[Page | Reject]:
    start, end = part.start, part.end
    try:
        kind = format_of(file)
        if kind == "parquet":
            yield from read_parquet_pages(file, config.columns, max_page_bytes, start, end)
        elif kind == "json":
            yield from read_json_lines(file, config.columns, max_page_bytes, start, end)
        elif kind == "html":
            if start == 0:
                yield from read_html_file(file, below(file, part.folder), max_page_bytes)
        elif kind == "wacz":
            if start == 0:
                yield from read_wacz(file, max_page_bytes)
        else:
            yield from read_pages(file, max_page_bytes, start, end, config.primary_only)
    except UnreadableError as error:
        yield reject_at(file, start, "unreadable", str(error))


def is_html_name(file: str) -> bool:
    """Returns whether a file is an HTML page by its name."""
    return _NAMES["html"].search(file) is not None


def is_corpus_name(file: str) -> bool:
    """Returns whether a file holds pages by its name."""
    return any(name.search(file) for name in _NAMES.values())


def format_of(file: str) -> str:
    """Returns "warc", "wacz", "json", "parquet" or "html".

    Raises:
      UnreadableError: the name does not say it, and the file cannot be opened.
    """
    found = next((kind for kind, name in _NAMES.items() if name.search(file)), "")
    if found:
        return found
    with open_storage(file) as stream:
        codec = compression.detect(stream, file)
        stream.seek(0)
        if codec is None:
            head = stream.read(_SNIFFED)
        else:
            head = compression.head(codec, stream, 0, _SNIFFED)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.lstrip().startswith(b"{"):
        return "json"
    return "html" if _HTML_START.match(head) else "warc"


def below(file: str, folder: str) -> str:
    """Returns a file's path below a folder that holds it: ("a/b/c.html", "a") -> "b/c.html"."""
    return file.removeprefix(folder).lstrip("/")

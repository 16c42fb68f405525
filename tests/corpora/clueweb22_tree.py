"""A corpus in the shape of ClueWeb22, made of any pages: for tests, and the same on every call.

    html/en/en00/en0000/en0000-00.warc.gz + .warc.offset      bare HTML, VDOM ids in the headers
    txt/en/en00/en0000/en0000-00.json.gz + .offset            JSON lines with Clean-Text
    record_counts/{html,txt}/en00_counts.csv                  en0000-00,2

Elements carry their node's number (data-dcnode-id), and every text stands in a <span> of its own.
"""

import collections
import dataclasses
import gzip
import hashlib
import html
import json
import pathlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from html.parser import HTMLParser

_DATE = "2022-08-24T01:39:58.000000Z"
_VOID = {"br", "hr", "img", "input", "link", "meta"}
_RAW = {"script", "style", "title", "textarea"}
_ASIDE = {"nav", "header", "footer", "aside", "form"}
_ANNOTATED = {
    "Heading": ("h1", "h2", "h3", "h4", "h5", "h6"),
    "List": ("ul", "ol", "dl"),
    "Paragraph": ("p",),
    "Table": ("table",),
    "Title": ("title",),
}


@dataclasses.dataclass(frozen=True)
class Document:
    """A page of the corpus."""

    url: str
    html: str


def write_tree(root: pathlib.Path, files: Mapping[str, Sequence[Document]]) -> None:
    """Writes a corpus.

    Args:
      root: its folder.
      files: the documents of each file; "en0000-03" is file 3 of subdirectory 0 of stream 0.
    """
    counts: dict[str, list[str]] = collections.defaultdict(list)
    for name, documents in sorted(files.items()):
        archive = [_warcinfo(name)]
        lines = []
        for number, document in enumerate(documents):
            page = AnnotatedPage(document.html)
            archive.append(_response(name, number, document, page))
            lines.append(_json_line(name, number, document, page))
        # The first offset of an archive points past its warcinfo record.
        _write(file_path(root, "html", name), archive, skipped=1)
        _write(file_path(root, "txt", name), lines, skipped=0)
        counts[_stream(name)].append(f"{name},{len(documents)}\n")
    for kind in ("html", "txt"):
        for stream, rows in counts.items():
            path = root / "record_counts" / kind / f"{stream}_counts.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(rows))
    (root / "version_A_1.0").touch()


def file_path(root: pathlib.Path, kind: str, name: str) -> pathlib.Path:
    """Returns the path of a file: kind is "html" or "txt"."""
    suffix = {"html": ".warc.gz", "txt": ".json.gz"}[kind]
    folder = root / kind / _language(name) / _stream(name) / name.partition("-")[0]
    return folder / f"{name}{suffix}"


def offset_path(root: pathlib.Path, kind: str, name: str) -> pathlib.Path:
    """Returns the path of the offsets that go with a file."""
    suffix = {"html": ".warc.offset", "txt": ".offset"}[kind]
    return file_path(root, kind, name).with_name(f"{name}{suffix}")


def _stream(name: str) -> str:
    return name.partition("-")[0][:-2]


def _language(name: str) -> str:
    return name.partition("-")[0][:-4]


def _write(path: pathlib.Path, records: Iterable[bytes], skipped: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    members = [gzip.compress(record, mtime=0) for record in records]
    ends = [0]
    for member in members:
        ends.append(ends[-1] + len(member))
    path.write_bytes(b"".join(members))
    suffix = ".warc.offset" if path.name.endswith(".warc.gz") else ".offset"
    offsets = path.with_name(path.name.partition(".")[0] + suffix)
    offsets.write_text("".join(f"{end:010d}\n" for end in ends[skipped:]))


def _warcinfo(name: str) -> bytes:
    head = (
        f"WARC/1.1\r\nWARC-Type: warcinfo\r\nWARC-Date: {_DATE}\r\n"
        f"WARC-Record-ID: {_urn(name)}\r\nWARC-Filename: {name}.warc.gz\r\n"
        "Content-Type: application/warc-fields\r\n\r\n"  # there is no Content-Length
    )
    return (head + "software: humpback tests\r\nformat: WARC File Format 1.1\r\n\r\n\r\n").encode()


def _response(name: str, number: int, document: Document, page: "AnnotatedPage") -> bytes:
    block = page.html.encode()
    headers = {
        "WARC-Type": "response",
        "WARC-Record-ID": _urn(_document_id(name, number)),
        "WARC-Date": _DATE,
        "WARC-Target-URI": document.url,
        "Content-Type": "application/http; msgtype=response",
        "WARC-Payload-Digest": f"sha1:{hashlib.sha1(block).hexdigest()}",
        "ClueWeb22-ID": _document_id(name, number),
        "URL-Hash": _url_hash(document.url),
        "Language": _language(name),
        **{f"VDOM-{kind}": " ".join(map(str, ids)) for kind, ids in page.vdom.items() if ids},
        "Content-Length": str(len(block)),
    }
    lines = [f"{key}: {value}" for key, value in headers.items()]
    return "\r\n".join(["WARC/1.1", *lines, "", ""]).encode() + block + b"\r\n\r\n"


def _json_line(name: str, number: int, document: Document, page: "AnnotatedPage") -> bytes:
    row = {
        "URL": document.url + "\n",
        "URL-hash": _url_hash(document.url),
        "Language": _language(name),
        "ClueWeb22-ID": _document_id(name, number),
        "Clean-Text": page.text,
    }
    return json.dumps(row).encode() + b"\n"


def _document_id(name: str, number: int) -> str:
    return f"clueweb22-{name}-{number:05d}"


def _url_hash(url: str) -> str:
    return hashlib.md5(url.encode()).hexdigest().upper()


def _urn(name: str) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}>"


class AnnotatedPage(HTMLParser):
    """A page as ClueWeb22 keeps it.

    Attributes:
      html: the page, with the numbers of its nodes.
      vdom: the numbers of headings, lists, and so on; Primary are the texts of the main content.
      text: its texts, one on each line.
    """

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.vdom: dict[str, list[int]] = {kind: [] for kind in (*_ANNOTATED, "Primary")}
        self._pieces: list[str] = []
        self._texts: list[str] = []
        self._open: list[str] = []
        self._number = 0
        self.feed(source)
        self.close()
        self.html, self.text = "".join(self._pieces), "\n".join(self._texts)

    def handle_starttag(self, tag, attrs):
        number = self._next()
        for kind, tags in _ANNOTATED.items():
            if tag in tags:
                self.vdom[kind].append(number)
        given = [(key, value or "") for key, value in attrs]
        written = [*given, ("data-dcnode-id", str(number))]
        attributes = "".join(f' {key}="{html.escape(value)}"' for key, value in written)
        self._pieces.append(f"<{tag}{attributes}>")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass
            self._pieces.append(f"</{tag}>")

    def handle_data(self, data):
        if _RAW.intersection(self._open):
            self._pieces.append(data)
            return
        number = self._next()
        text = html.escape(data, quote=False)
        self._pieces.append(f'<span instrument_node="" data-dcnode-id="{number}">{text}</span>')
        if data.strip():
            self._texts.append(data.strip())
            if not _ASIDE.intersection(self._open):
                self.vdom["Primary"].append(number)

    def handle_decl(self, decl):
        self._pieces.append(f"<!{decl}>")

    def _next(self) -> int:
        self._number += 1
        return self._number - 1

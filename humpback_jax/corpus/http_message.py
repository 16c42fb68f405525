"""The HTTP response inside a WARC record: status, content type, charset, and the decoded body.

Parsing never fails: archives hold bodies that were decoded before they were stored while their
headers still announce an encoding (ClueWeb09), chunked bodies with wrong lengths, and records
without any HTTP header (ClueWeb22), so the bytes are believed and the headers are only hints.
"""

import dataclasses
import io
import re
import zlib

import zstandard
from fastwarc.stream_io import BrotliReader

_HEADER_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/[\d.]+\s+(\d{3})")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class HttpMessage:
    """A response: `status` is 0 when there was no HTTP header, strings are "" when not given."""

    status: int
    content_type: str
    charset: str
    body: bytes


def parse_content_type(value: str) -> tuple[str, str]:
    """Returns (media type, charset): "Text/HTML; charset=UTF-8" -> ("text/html", "utf-8")."""
    charset = _CHARSET.search(value)
    return value.partition(";")[0].strip().lower(), charset[1].lower() if charset else ""


def parse_http(block: bytes, max_bytes: int) -> HttpMessage:
    """Parses a WARC record's block; one without a status line is a bare body.

    Args:
      block: the bytes of the record after its WARC headers.
      max_bytes: a decompressed body is cut after this many bytes, so that a small record cannot
        fill the memory; the caller sees the length and rejects the page.
    """
    status = _STATUS.match(block)
    if status is None:
        return HttpMessage(0, "", "", block)
    end = _HEADER_END.search(block)
    head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
    headers: dict[str, str] = {}
    for line in head.decode("latin-1").splitlines()[1:]:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _join_chunks(body)
    body = _decompress(body, headers.get("content-encoding", "").lower(), max_bytes)
    media_type, charset = parse_content_type(headers.get("content-type", ""))
    return HttpMessage(int(status[1]), media_type, charset, body)


def _join_chunks(body: bytes) -> bytes:
    """Returns the chunks joined; a body that is not chunked as announced comes back as it is."""
    chunks, position = [], 0
    while match := _CHUNK_SIZE.match(body, position):
        size = int(match[1], 16)
        if size == 0:
            return b"".join(chunks)
        chunk = body[match.end() : match.end() + size]
        chunks.append(chunk)
        if len(chunk) < size:
            return b"".join(chunks)
        position = match.end() + size
        position += len(body[position : position + 2]) - len(body[position : position + 2].lstrip())
    return b"".join(chunks) if chunks and position >= len(body) else body


def _decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    # The magic bytes decide for gzip and zstd; deflate and brotli have none, so a body that does
    # not decompress is taken to be decoded already.
    if body.startswith(b"\x1f\x8b"):
        return _inflate(body, 31, max_bytes) or body
    if body.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            reader = zstandard.ZstdDecompressor().stream_reader(body)
            return reader.read(max_bytes + 1) or body
        except zstandard.ZstdError:
            return body
    if "deflate" in encoding:
        return _inflate(body, 15, max_bytes) or _inflate(body, -15, max_bytes) or body
    if encoding.strip() == "br" and not body.lstrip().startswith(b"<"):
        try:
            return BrotliReader(io.BytesIO(body)).read(max_bytes + 1) or body
        except OSError:
            return body
    return body


def _inflate(body: bytes, window_bits: int, max_bytes: int) -> bytes:
    try:
        return zlib.decompressobj(window_bits).decompress(body, max_bytes + 1)
    except zlib.error:
        return b""

"""Bytes of a web page -> a parsed tree without what is never part of the text.

The parser (lexbor) takes text: given bytes it turns UTF-16 into garbage, so pages are decoded here.
Pages that would hold it up are rejected unparsed.
"""

import html
import re

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
from selectolax.lexbor import LexborHTMLParser

from humpback_jax.corpus.limits import excess
from humpback_jax.corpus.page import Page

_HTML_TYPES = ("", "text/html", "application/xhtml+xml")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_META_CHARSET = re.compile(
    rb"<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE | re.DOTALL
)
# WHATWG looks for it in the first 1,024 bytes; pages put it later and mean it.
_META_BYTES = 4096
# Taken out of the tree: parts of a page that are no content and often large, and what the parser
# writes down unescaped. Each costs a pass, so the large ones come first.
_TAKEN_OUT = [
    *("svg", "nav", "footer", "img", "source", "script", "style", "template", "iframe", "math")
]
_RARELY_TAKEN_OUT = ["noembed", "noframes"]
_LISTINGS = ("xmp", "plaintext")


class PageError(Exception):
    """A page gives no segment, for a named reason.

    Attributes:
      reason: "http_status", "not_html", "empty", "too_large", "too_deep" or "no_header".
      detail: what there is to see.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def body_markup(page: Page, max_bytes: int, escape_all: bool = False) -> str:
    """Returns the markup of a page's body as `elements` reads it, "" if it has no body.

    Args:
      page: as it was read.
      max_bytes: longer pages are rejected.
      escape_all: as for `normal_markup`.

    Raises:
      PageError: the page is no HTML, not a success, empty, too large or nested too deeply.
    """
    _guard(page, max_bytes)
    if _declared_codec(page.payload, page.charset) == "utf-8":
        # The parser takes it as it is, which saves decoding it and encoding it again.
        markup = normal_markup(page.payload, escape_all)
        if not _is_damaged(markup):
            return markup
    text = decode(page.payload, page.charset)
    if not text or text.isspace():
        raise PageError("empty", "the page holds no text")
    if _is_utf16(page):
        _check_excess(text.encode("utf-8", "replace"))
    return normal_markup(text, escape_all)


def normal_markup(source: str | bytes, escape_all: bool = False) -> str:
    """Returns the body of an HTML text as the parser writes it down, for `elements.tokens`.

    Args:
      source: the text; if bytes, in UTF-8.
      escape_all: after an `UnescapedError`: noembed and noframes go, xmp and plaintext become pre.
    """
    tree = LexborHTMLParser(source)
    tree.strip_tags(_TAKEN_OUT + _RARELY_TAKEN_OUT if escape_all else _TAKEN_OUT)
    body = tree.body
    if body is None:
        return ""
    if not escape_all:
        return body.html or ""
    for name in _LISTINGS:
        for node in tree.tags(name):
            node.inner_html = html.escape(node.text(), quote=False)
    markup = body.html or ""
    for name in _LISTINGS:
        markup = markup.replace(f"<{name}", "<pre").replace(f"</{name}>", "</pre>")
    return markup


def decode(payload: bytes, http_charset: str = "") -> str:
    """Returns the text of a page: by its byte order mark, HTTP, meta element, or a detector.

    Encoding names are read as browsers read them (iso-8859-1 means windows-1252). Bytes that are
    invalid become U+FFFD; where they are many, the declaration is taken to be wrong and the
    detector decides.
    """
    for bom, encoding in _BOMS:
        if payload.startswith(bom):
            return payload[len(bom) :].decode(encoding, "replace")
    declared = _declared_codec(payload, http_charset)
    if declared is None:
        return payload.decode(_detect(payload), "replace")
    text = payload.decode(declared, "replace")
    if _is_damaged(text):
        detected = payload.decode(_detect(payload), "replace")
        return min(text, detected, key=lambda t: t.count("\ufffd"))
    return text


def _declared_codec(payload: bytes, http_charset: str) -> str | None:
    """Returns the codec that HTTP or a meta element names, None where a mark goes before it."""
    if payload.startswith(tuple(bom for bom, _ in _BOMS)):
        return None
    return _codec(http_charset) or _codec(_meta_charset(payload))


def _is_damaged(text: str) -> bool:
    return text.count("\ufffd") * 200 > len(text)


def _codec(label: str) -> str | None:
    codec = map_encoding_to_html5(label, fallback_utf8=False) if label else None
    if codec is None:
        return None
    try:
        "".encode(codec)
    except LookupError:
        return None
    return codec


def _meta_charset(payload: bytes) -> str:
    match = _META_CHARSET.search(payload, 0, _META_BYTES)
    label = match[1].decode("ascii", "replace") if match else ""
    # A meta element that can be read as ASCII is not in UTF-16, whatever it says.
    return "utf-8" if label.lower().startswith("utf-16") else label


def _detect(payload: bytes) -> str:
    return _codec(detect_encoding(payload) or "") or "utf-8"


def _guard(page: Page, max_bytes: int) -> None:
    if page.status and not 200 <= page.status < 300:
        raise PageError("http_status", f"HTTP status {page.status}")
    if page.content_type not in _HTML_TYPES:
        raise PageError("not_html", f"content type {page.content_type}")
    if not page.payload:
        raise PageError("empty", "the record has no body")
    if len(page.payload) > max_bytes:
        raise PageError("too_large", f"more than {max_bytes} bytes")
    if _is_utf16(page):
        return
    if b"<" not in page.payload or b"\0" in page.payload[:1024]:
        raise PageError("not_html", "the body holds no tag or is binary")
    _check_excess(page.payload)


def _is_utf16(page: Page) -> bool:
    return page.payload[:2] in (b"\xff\xfe", b"\xfe\xff") or "utf-16" in page.charset


def _check_excess(payload: bytes) -> None:
    if refusal := excess(payload):
        raise PageError(*refusal)

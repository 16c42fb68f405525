"""Damaged pages and archives, each of which depends on its number alone.

A case is (number, kind, bytes): `page_case` gives HTML, `archive_case` a file. The sound material
they are made from is the microworld's pages, and whatever real pages and archives are given.
"""

import dataclasses
import gzip
import random
import zlib
from collections.abc import Callable, Sequence

from humpback_jax.microworld.pages import make_pages, make_warc
from humpback_jax.microworld.segments import web_texts
from humpback_jax.microworld.world import WorldConfig, make_world

_MARKUP = (
    *(b"<", b">", b"</", b"/>", b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<?", b"&", b"&#", b";"),
    *(b"&#x110000;", b"&#55296;", b"\0", b"\x01", b"\x07", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b$B"),
    *(b"<plaintext>", b"<script>", b"</script>", b"<style>", b"<template>", b"<svg>", b"<math>"),
    *(b"<table>", b"<td>", b"<tr>", b"</td>", b"<select>", b"<option>", b"<frameset>"),
    *(b"<h1>", b"</h1>", b"<h6 role=heading aria-level=9>", b"<pre>", b"<ol start=-7>", b"<li>"),
    *(b"<a href='", b"\"'", b"style=display:none", b" hidden ", b"<body>", b"</html>", b"<head>"),
    *(b'<meta charset="utf-16">', b"<meta charset=iso-2022-jp>", b"<meta charset=x-user-defined>"),
)  # fmt: skip
_WARC_WORDS = (
    *(b"WARC/1.0\r\n", b"WARC/0.18\n", b"\r\n\r\n", b"Content-Length: 99999999999999999999\r\n"),
    *(b"Content-Length: -1\r\n", b"Content-Length: 0\r\n", b"WARC-Type: response\r\n", b"\n\n"),
    *(b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n"),
    *(b"Content-Encoding: br\r\n", b"\x1f\x8b\x08", b"Content-Type: text/html; charset=\xff\r\n"),
)  # fmt: skip
_ENCODINGS = ("utf-8", "utf-16", "utf-16-be", "shift_jis", "gb18030", "cp1252", "utf-7", "utf-32")
_TAGS = (
    *("div", "p", "span", "b", "a", "ul", "ol", "li", "table", "tr", "td", "h1", "h2", "h3", "pre"),
    *("section", "article", "details", "blockquote", "nav", "aside", "font", "code", "dl", "dd"),
)  # fmt: skip
_THINGS = (
    *("<h2>a</h2>", "<h2>a</h2>b", "<br>", "<li>", "&nbsp;", "&#0;", "word ", "\u00b6", "\u200b"),
    *("a\tb\n", "<td>", "<p>", "<span>x</span>", "<a href=x>y</a>", "[edit]", "- ", "<hr>", "\x01"),
    *("Share:<br>", "<div hidden>x</div>", "<pre> </pre>", "Nine words of a sentence stand here. "),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A damaged page or file; `kind` names what was done to it."""

    number: int
    kind: str
    content: bytes


def sound_pages() -> list[bytes]:
    """Returns the microworld's pages as HTML."""
    config = WorldConfig(segments=60, web_topics=6, known_topics=3, seed_pairs=12, files=1)
    texts = web_texts(make_world(config), config)
    return [html.encode() for _, html in make_pages(texts, config)]


def page_case(number: int, pages: Sequence[bytes]) -> Case:
    """Returns the damaged page of that number."""
    rng = random.Random(f"page {number}")
    kind = _PAGE_KINDS[number % len(_PAGE_KINDS)]
    return Case(number, kind.__name__.strip("_"), kind(rng, pages))


def archive_case(number: int, pages: Sequence[bytes], archives: Sequence[bytes] = ()) -> Case:
    """Returns the damaged archive of that number: of its own making, or from a given one."""
    rng = random.Random(f"archive {number}")
    if archives and number % 2:
        content, kind = rng.choice(archives), "given"
    else:
        content, kind = _archive(rng, pages), "made"
    if number % 3:
        return Case(number, f"{kind}_bytes", mutate(rng, content, _WARC_WORDS))
    try:  # damage under the compression, which bytes of gzip seldom reach
        plain = gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return Case(number, f"{kind}_bytes", mutate(rng, content, _WARC_WORDS))
    changed = mutate(rng, plain, _WARC_WORDS)
    return Case(
        number, f"{kind}_records", changed if rng.random() < 0.5 else gzip.compress(changed)
    )


def mutate(rng: random.Random, content: bytes, words: Sequence[bytes]) -> bytes:
    """Returns the content after one to eight changes of its bytes."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.choice((1, 2, 16, 300, 5000)))
        change = rng.randrange(7)
        if change == 0:
            changed[start:end] = rng.randbytes(end - start)
        elif change == 1:
            del changed[start:end]
        elif change == 2:
            changed[start:start] = changed[start:end] * rng.randint(1, 4)
        elif change == 3:
            changed[start:start] = rng.choice(words)
        elif change == 4:
            changed[start:end] = rng.choice(words) * rng.randint(1, 50)
        elif change == 5 and start < len(changed):
            changed[start] ^= 1 << rng.randrange(8)
        elif change == 6 and rng.random() < 0.3:
            del changed[start:]
    return bytes(changed)


def _archive(rng: random.Random, pages: Sequence[bytes]) -> bytes:
    chosen = [rng.choice(pages).decode("utf-8", "replace") for _ in range(rng.randint(1, 4))]
    return make_warc("fuzz", [(f"http://site.example/{i}", html) for i, html in enumerate(chosen)])


# Kinds of damaged pages.


def _bytes_changed(rng: random.Random, pages: Sequence[bytes]) -> bytes:
    return mutate(rng, rng.choice(pages), _MARKUP)


def _two_pages_spliced(rng: random.Random, pages: Sequence[bytes]) -> bytes:
    first, second = rng.choice(pages), rng.choice(pages)
    cut = rng.randrange(len(first) + 1)
    return first[:cut] + second[rng.randrange(len(second) + 1) :] + first[cut:]


def _random_tags(rng: random.Random, pages: Sequence[bytes]) -> bytes:
    parts = []
    for _ in range(rng.randint(1, 2000)):
        tag = rng.choice(_TAGS)
        close = "/" if rng.random() < 0.4 else ""
        attribute = rng.choice(
            ("", "", " hidden", " role=heading", " style='display:none'", " a=>")
        )
        parts.append(f"<{close}{tag}{attribute}>" + rng.choice(("", " ", "word ", "Two words.\n")))
    return "".join(parts).encode()


def _depth_bomb(rng: random.Random, pages: Sequence[bytes]) -> bytes:
    depth = rng.choice((100, 3000, 5500, 20_000, 100_000))
    opened = "".join(f"<{tag}>" for tag in rng.choices(_TAGS, k=rng.randint(1, 3)))
    closed = "</div>" * rng.choice((0, depth))
    return f"<h1>Deep</h1>{opened * depth}text{closed}".encode()


def _attribute_bomb(rng: random.Random, pages: Sequence[bytes]) -> bytes:
    count = rng.choice((100, 10_000, 50_000))
    names = " ".join(f"data-{i % rng.choice((7, 10**9))}=v{i}" for i in range(count))
    return f"<h1 {names}>Many</h1><p {names}>text".encode()


def _megabyte_tag(rng: random.Random, pages: Sequence[bytes]) -> bytes:
    filling = rng.choice(("x", "x ", '"', "'", "=", "<", "/", "&amp;", "\t", "é"))
    size = rng.choice((10_000, 1_000_000)) // len(filling)
    before = rng.choice(
        ("<div class=", "<", "<div style='", "<!--", '<a href="', "&", "</", "<h1>")
    )
    return f"<h1>Long</h1>{before}{filling * size}>text".encode()


def _much_of_one_thing(rng: random.Random, pages: Sequence[bytes]) -> bytes:
    thing = rng.choice(_THINGS)
    return f"<h1>Much</h1>{thing * rng.choice((1000, 30_000))}".encode()


def _wrong_encoding(rng: random.Random, pages: Sequence[bytes]) -> bytes:
    text = rng.choice(pages).decode("utf-8", "replace")
    written, said = rng.choice(_ENCODINGS), rng.choice(_ENCODINGS)
    meta = f'<meta charset="{said}">'
    return (meta + text).encode(written, "replace")


def _random_bytes(rng: random.Random, pages: Sequence[bytes]) -> bytes:
    start = rng.choice((b"", b"<h1>", b"<html>", b"\xff\xfe", b"\xef\xbb\xbf<p>"))
    return start + rng.randbytes(rng.randint(0, 20_000))


_PAGE_KINDS: tuple[Callable[[random.Random, Sequence[bytes]], bytes], ...] = (
    *(_bytes_changed, _two_pages_spliced, _random_tags, _depth_bomb, _attribute_bomb),
    *(_megabyte_tag, _much_of_one_thing, _wrong_encoding, _random_bytes),
)

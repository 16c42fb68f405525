"""The web of a world: HTML pages as they come out of a crawl, in WARC files.

Every labelled text stands in the body under a header of its own. Around it is what real pages have
and the corpus code takes away: navigation, asides, footers, scripts, sections that are too short,
headers that are empty, shouted or about advertisements, and copies of other pages' sections.
"""

import base64
import gzip
import hashlib
import html
import random
import uuid
from collections.abc import Sequence

from humpback_jax.microworld import voices
from humpback_jax.microworld.segments import MAX_CHARS, WebText
from humpback_jax.microworld.world import WorldConfig

DATE = "2024-05-17T08:30:00Z"

# Sections that the header filter or the length filter drops: (header, body).
REJECTED_SECTIONS = (
    ("ADVERTISEMENT", "Rooms for every guest. Call us now and save half the price!"),
    ("Quick links", "Home | Menu | Search | Next page | Login | Contact | Map | Top"),
    ("Free newsletter", "Order now, this offer ends soon! More in my next post!"),
    ("", "Do not miss the trip of the year! Call us now and save half the price!"),
    ("Pictures", "More soon."),
)


def make_pages(texts: Sequence[WebText], config: WorldConfig) -> list[tuple[str, str]]:
    """Returns (url, HTML) of pages that hold the texts in order, several on each page."""
    rng = random.Random(f"pages {config.seed} {config.draw}")
    pages, start = [], 0
    while start < len(texts):
        size = rng.randint(*config.segments_per_page)
        host = f"www.site{rng.randrange(config.sites):03d}.example"
        url = f"https://{host}/{len(pages):04d}.html"
        copied = [rng.choice(texts)] if rng.random() < 0.08 else []
        pages.append((url, _page(rng, host, [*texts[start : start + size], *copied])))
        start += size
    return pages


def _page(rng: random.Random, host: str, texts: Sequence[WebText]) -> str:
    # All sections of a page have one level, so that none is nested below a labelled text.
    level = rng.choice(("h2", "h2", "h3"))
    sections = [_section(rng, level, text.header, text.label.text) for text in texts]
    for header, body in rng.sample(REJECTED_SECTIONS, rng.choice((0, 0, 1, 2))):
        rejected = f"<{level}>{header}</{level}>\n<p>{html.escape(body, quote=False)}</p>\n"
        sections.insert(rng.randint(0, len(sections)), rejected)
    title = f"Towns at {host}"
    # Under an h1 all sections together are one larger segment: it must be too long to be eligible.
    long_enough = sum(len(text.label.text) for text in texts) > MAX_CHARS + 100
    headline = f"<h1>{title}</h1>\n" if long_enough and rng.random() < 0.7 else ""
    outer = rng.choice(("main", "article", "div"))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<style>nav {{ color: red; }}</style>\n"
        "<script>var visits = 0;</script>\n</head>\n<body>\n"
        f"{_boilerplate_before(rng, host)}<{outer}>\n{headline}{''.join(sections)}</{outer}>\n"
        f"{_boilerplate_after(rng, host)}</body>\n</html>\n"
    )


def _section(rng: random.Random, level: str, header: str, text: str) -> str:
    parts = voices.paragraphs(rng, text)
    body = "".join(f"<p>{html.escape(part, quote=False)}</p>\n" for part in parts)
    if rng.random() < 0.2:
        first, space, rest = body.removeprefix("<p>").partition(" ")
        body = f"<p><b>{first}</b>{space}{rest}"
    return f"<{level}>{html.escape(header)}</{level}>\n{body}"


def _boilerplate_before(rng: random.Random, host: str) -> str:
    links = "".join(f'<li><a href="/{w.lower()}">{w}</a></li>' for w in voices.MENU_AFTER)
    header = f"<header><p>{host}</p></header>\n" if rng.random() < 0.5 else ""
    return f"{header}<nav><h2>Pages of this site</h2><ul>{links}</ul></nav>\n"


def _boilerplate_after(rng: random.Random, host: str) -> str:
    aside = "<aside><h3>Read next</h3><p>Big sale on rooms in all towns!</p></aside>\n"
    footer = f"<footer><h4>Contact</h4><p>Write to the people of {host} any day.</p></footer>\n"
    return (aside if rng.random() < 0.5 else "") + footer


def make_warc(name: str, pages: Sequence[tuple[str, str]]) -> bytes:
    """Returns a WARC file of Common Crawl's shape: a gzip member for each record."""
    about = b"software: humpback-jax microworld\r\nformat: WARC File Format 1.0\r\n"
    warc_info = {"WARC-Filename": name, "Content-Type": "application/warc-fields"}
    parts = [_record("warcinfo", name, warc_info, about)]
    for url, page in pages:
        payload = page.encode()
        http = (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
            f"Content-Length: {len(payload)}\r\n\r\n"
        ).encode()
        digest = base64.b32encode(hashlib.sha1(payload).digest()).decode()
        headers = {
            "WARC-Target-URI": url,
            "WARC-Payload-Digest": f"sha1:{digest}",
            "Content-Type": "application/http; msgtype=response",
        }
        parts.append(_record("response", url, headers, http + payload))
    return b"".join(parts)


def _record(kind: str, key: str, headers: dict[str, str], block: bytes) -> bytes:
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{kind} {key}")
    fields = {
        "WARC-Type": kind,
        "WARC-Date": DATE,
        "WARC-Record-ID": f"<urn:uuid:{identity}>",
        **headers,
        "Content-Length": str(len(block)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    record = f"WARC/1.0\r\n{head}\r\n".encode() + block + b"\r\n\r\n"
    return gzip.compress(record, mtime=0)

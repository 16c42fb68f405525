"""No page takes long, whatever stands in it: at most a few times what an ordinary page may take."""

import time

import pytest

from humpback_jax.corpus.html import PageError
from humpback_jax.corpus.limits import MAX_ATTRIBUTES, MAX_TAGS
from humpback_jax.corpus.page import MAX_PAGE_BYTES, Page
from humpback_jax.corpus.segments import page_headers
from humpback_jax.records import Source

# An ordinary page as large as is allowed, in tags and in bytes, takes about a second of a core. One
# whose time grows faster than its size takes a hundred times that where no limit rejects it.
MOST_TIMES_ORDINARY = 5


def repeated(text, tags=MAX_TAGS - 10_000):
    """Returns as much of it as a page may hold, in bytes or in tags."""
    most = 8_000_000 // len(text.encode())
    return text * (min(most, tags // text.count("<")) if "<" in text else most)


PAGES = {
    "attributes": "<p" + "".join(f" a{i}" for i in range(MAX_ATTRIBUTES - 10)) + ">x",
    "more attributes": "<p" + "".join(f" a{i}" for i in range(500_000)) + ">x",
    "attributes that look like tags": "<p" + "".join(f"/<a{i}" for i in range(500_000)) + ">x",
    "the same attribute": "<p" + repeated(" a=b") + ">x",
    "a long attribute": f"<p title='{repeated('a>b ')}'>x",
    "a long name": f"<{repeated('abc')}>x",
    "a long unclosed tag": f"<p {repeated('abc')}",
    "quotes": f"<p {repeated(chr(34))}>x",
    "signs in text": repeated(' hidden="" role="heading" style="'),
    "a long style": f"<p style='{repeated('display : ')}'>x",
    "spaces in a style": f"<p style='display{repeated(' ')}'>x",
    "a long class": f"<p class='{repeated('headerlin ')}'>x",
    "a long rel": f"<a rel='{repeated('ta g')}'>x",
    "a long role": f"<p role='{repeated(' ')}heading'>x",
    "comments": repeated("<!-- > -- > -->x"),
    "an unclosed comment": "x<!--" + repeated("> - "),
    "less-than signs": repeated("< "),
    "ampersands": repeated("&amp;"),
    "lines": repeated("<br>"),
    "inline elements": repeated("<span>a</span>"),
    "items": "<ul>" * 1000 + repeated("<li>x"),
    "cells": "<table><tr>" + repeated("<td>"),
    "headers": repeated("<h2>x</h2>"),
    "headers in sections": "<section>" * 1000 + repeated("<h2>x</h2>y"),
    "preformatted": "<pre>" * 2000 + repeated("x\n "),
    "nested as far as is allowed": "<div>" * 4990 + "x",
    "nested inline elements": "<b><i>" * 300 + repeated("<p>x"),
    "formatting elements left open": "".join(f"<b class=x{i}><p>" for i in range(90_000)),
    "formatting elements opened again": (
        "<p>" + "".join(f"<i id={i}>" for i in range(400)) + repeated("<p>x", 90_000)
    ),
    "as many as are allowed": "<p>" + "".join(f"<u id={i}>" for i in range(10)) + "<p>x" * 90_000,
    "white space": repeated(" \n\t"),
    "zero-width characters": repeated("\u200b"),
    "one word": repeated("x"),
    "junk": repeated("<p>Share:</p>"),
    "junk in one line": repeated("Share this "),
    "networks": repeated("facebook "),
    "edit links": repeated("[ edit | "),
    "brackets": repeated("[      edit"),
    "scripts": repeated("<script>x</script>"),
    "unescaped listings": repeated("<xmp><b></xmp>"),
    "processing instructions": repeated("<?php ?>"),
    "meta elements": repeated("<meta charset"),
    "marks": repeated("\x01b\x01p\x08"),
}


def segmented(markup):
    """Returns the header nodes of a page, none if it is rejected, and its seconds of CPU."""
    html = "<h1>Header</h1>" + markup
    page = Page(Source("f", 0, "id"), "", "text/html", "utf-8", 200, "", html.encode())
    start = time.process_time()
    try:
        nodes = page_headers(page, MAX_PAGE_BYTES)
    except PageError:
        nodes = []
    return nodes, time.process_time() - start


@pytest.fixture(scope="module")
def ordinary_seconds():
    """Returns what an ordinary page takes here, which is 190,000 sentences in 8 MB."""
    nodes, seconds = segmented(repeated("<p>A sentence of a few words that end here. "))
    assert len(nodes) == 1
    return seconds


@pytest.mark.parametrize("name", PAGES)
def test_no_page_takes_long(name, ordinary_seconds):
    nodes, seconds = segmented(PAGES[name])
    assert seconds < MOST_TIMES_ORDINARY * ordinary_seconds
    assert all(node.length == len(node.text()) for node in nodes[:10])

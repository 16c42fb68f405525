"""Whole pages of common shapes against segments that were read through by hand."""

import json
import pathlib

import pytest

from humpback_jax.corpus.page import Page
from humpback_jax.corpus.segments import page_headers
from humpback_jax.records import Source

PAGES = sorted((pathlib.Path(__file__).resolve().parents[2] / "data" / "pages").glob("*.html"))


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_page_gives_the_expected_segments(file):
    page = Page(Source("f", 0, "id"), "", "text/html", "", 0, "", file.read_bytes())
    expected = json.loads(file.with_suffix(".json").read_text())["segments"]
    found = page_headers(page, 1 << 20)
    assert [{"path": list(node.path), "text": node.text()} for node in found] == expected
    assert [node.length for node in found] == [len(node.text()) for node in found]


def test_there_are_thirty_pages_of_different_kinds():
    assert len({file.stem.partition("-")[2] for file in PAGES}) == 30

import dataclasses
import pathlib

import pytest

from humpback_jax.corpus.html import normal_markup
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.primary import narrow
from humpback_jax.corpus.segments import page_headers
from humpback_jax.corpus.warc import read_pages
from humpback_jax.records import Source

CORPUS = pathlib.Path(__file__).resolve().parents[3].parent / "shared" / "data" / "corpus"
HTML = (
    '<div data-dcnode-id="1"><h1 data-dcnode-id="2">Bread</h1>'
    '<p data-dcnode-id="3"><span instrument_node="" data-dcnode-id="4">Mix </span>'
    '<b data-dcnode-id="5">flour</b><span instrument_node="" data-dcnode-id="6">s.</span></p>'
    '<div data-dcnode-id="7">Buy our book<br data-dcnode-id="8">now</div><!-- <p> --><?php x ?>'
    '<div role="heading" data-dcnode-id="9"><i data-dcnode-id="10">Related</i></div>'
    '<p data-dcnode-id="11">Rolls</p><h2 data-dcnode-id="12">Oven</h2><p data-dcnode-id="13">Hot.'
    "</p></div>"
)


def page(primary):
    return Page(
        Source("f", 0, "id"), "", "text/html", "utf-8", 200, "", HTML.encode(), primary=primary
    )


def test_text_of_elements_that_are_not_primary_goes_and_headers_keep_their_place():
    found = page_headers(page(frozenset({4, 5, 6, 13})), 1 << 20)
    assert [node.path for node in found] == [
        ("Bread",),
        ("Bread", "Related"),
        ("Bread", "Oven"),
    ]
    assert found[0].text() == "Mix flours.\n\nOven\n\nHot."
    assert [node.length for node in found] == [len(node.text()) for node in found]
    assert found[1].text() == ""


def test_without_primary_ids_the_whole_page_is_kept():
    found = page_headers(page(None), 1 << 20)
    assert found[0].text() == (
        "Mix flours.\n\nBuy our book\nnow\n\nRelated\n\nRolls\n\nOven\n\nHot."
    )


def test_an_id_says_nothing_of_the_elements_inside():
    found = page_headers(page(frozenset({1, 3, 7})), 1 << 20)
    assert found[0].text() == "Buy our book\nnow"


def test_narrowing_keeps_every_tag():
    markup = normal_markup(HTML)
    narrowed = narrow(markup, frozenset({4}))
    assert narrowed.count("<") == markup.count("<")
    assert narrow(markup, frozenset(range(20))) == markup


@pytest.mark.skipif(not CORPUS.exists(), reason="the development corpus is absent")
def test_primary_content_of_real_pages_is_a_part_of_them():
    file = CORPUS / "clueweb22-shaped/html/en/en00/en0000/en0000-00.warc.gz"
    pages = [item for item in read_pages(file) if isinstance(item, Page)]
    for number, whole in enumerate(pages[:8]):
        some = dataclasses.replace(whole, primary=frozenset(range(number, 400, 3)))
        pairs = zip(page_headers(some, 8 << 20), page_headers(whole, 8 << 20), strict=True)
        for part, full in pairs:
            assert part.path == full.path
            assert all(word in full.text() for word in part.text().split())
            assert len(part.text()) <= len(full.text())

import io

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from selectolax.lexbor import LexborHTMLParser

from humpback_jax.microworld import labels
from humpback_jax.microworld.pages import REJECTED_SECTIONS, make_pages, make_warc
from humpback_jax.microworld.segments import MAX_CHARS, web_texts
from humpback_jax.microworld.world import WorldConfig, make_world

CONFIG = WorldConfig()


@pytest.fixture(scope="module")
def texts():
    return web_texts(make_world(CONFIG), CONFIG)


@pytest.fixture(scope="module")
def pages(texts):
    return make_pages(texts, CONFIG)


def sections(page: str) -> list[tuple[str, str, str]]:
    """Returns (tag, header, text up to the next header) of a page's content."""
    tree = LexborHTMLParser(page)
    for node in tree.css("nav, aside, footer, script, style"):
        node.decompose()
    found = []
    for header in tree.css("h1, h2, h3, h4, h5, h6"):
        body, node = [], header.next
        while node is not None and node.tag not in ("h1", "h2", "h3"):
            body.append(node.text())
            node = node.next
        found.append((header.tag, header.text(), " ".join(body).strip()))
    return found


def test_every_labelled_text_is_found_under_a_header(texts, pages):
    found = {labels.label_key(text) for _, page in pages for _, _, text in sections(page)}
    assert {text.label.label_id for text in texts} <= found


def test_pages_hold_nothing_that_has_no_label(texts, pages):
    known = {text.label.label_id for text in texts}
    known |= {labels.label_key(body) for _, body in REJECTED_SECTIONS}
    unknown = [
        text
        for _, page in pages
        for tag, _, text in sections(page)
        if tag != "h1" and labels.label_key(text) not in known
    ]
    assert not unknown


def test_a_page_with_a_headline_is_too_long_to_be_a_segment_itself(pages):
    with_headline = 0
    for _, page in pages:
        found = sections(page)
        if any(tag == "h1" for tag, _, _ in found):
            with_headline += 1
            assert sum(len(text) for _, _, text in found) > MAX_CHARS
        # No section is nested below another one.
        assert len({tag for tag, _, _ in found if tag != "h1"}) == 1
    assert with_headline > 50


def test_pages_have_what_the_corpus_code_takes_away(pages):
    all_pages = "".join(page for _, page in pages)
    for part in ("<nav>", "<aside>", "<footer>", "<script>", "ADVERTISEMENT", "<h2></h2>"):
        assert part in all_pages
    assert len({url for url, _ in pages}) == len(pages)


def test_warc_is_read_back_record_by_record(pages):
    data = make_warc("x.warc.gz", pages[:5])
    assert data == make_warc("x.warc.gz", pages[:5])
    assert data[4:8] == bytes(4)  # gzip's time stamp
    read = [
        (r.headers["WARC-Target-URI"], r.reader.read().decode())
        for r in ArchiveIterator(io.BytesIO(data), record_types=WarcRecordType.response)
    ]
    assert read == pages[:5]
    every = list(ArchiveIterator(io.BytesIO(data), record_types=WarcRecordType.any_type))
    assert len(every) == 6
    verified = ArchiveIterator(io.BytesIO(data), record_types=WarcRecordType.response)
    assert sum(record.verify_payload_digest() for record in verified) == 5

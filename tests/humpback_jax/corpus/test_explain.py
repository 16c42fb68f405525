from humpback_jax.corpus.explain import explain
from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.corpus.page import Page
from humpback_jax.records import Source

WORDS = "The oven is heated while the dough of flour and water rests under a cloth on the table. "


def page(html, status=200):
    source = Source("web.warc.gz", 7, "id")
    return Page(source, "http://a.b/c", "text/html", "utf-8", status, "en", html.encode())


def test_every_header_is_shown_in_its_place_with_its_fate():
    long = "".join(
        f"<p>{i} {WORDS.replace('oven', 'oven' + 'abcdefghij'[i])}</p>" for i in range(9)
    )
    html = f"<h1>Bread</h1><p>x</p><h2>Dough</h2>{long}<h3>Salt</h3>little<h2>LOUD</h2>{long}"
    filters = SegmentFilters(max_repetition=1.0, max_length=1200)
    lines = list(explain(page(html), filters))
    assert lines[0] == "http://a.b/c"
    assert lines[1].strip().startswith("web.warc.gz@7: HTTP 200, text/html, ")
    assert lines[2].strip() == "language en, 4 headers, 1 kept"
    fates = [line.split()[0] for line in lines[4:]]
    assert fates == ["too_long", "kept", "too_short", "header_upper"]
    places = [line.index("h") for line in (text[15:] for text in lines[4:])]
    assert places[0] < places[1] < places[2]
    assert places[1] == places[3]
    assert "Salt (6 characters)" in lines[6]


def test_what_the_whole_corpus_decided_takes_the_place_of_kept():
    filters = SegmentFilters(min_length=10, max_repetition=1.0)
    lines = list(explain(page(f"<h1>Bread</h1>{WORDS}"), filters, lambda segment_id: "duplicate"))
    assert lines[-1].split()[0] == "duplicate"


def test_a_rejected_page_says_why():
    assert (
        "rejected: http_status: HTTP status 404"
        in list(explain(page("x", 404), SegmentFilters()))[-1]
    )

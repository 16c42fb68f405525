import time

import pytest
from selectolax.lexbor import LexborHTMLParser

from humpback_jax.corpus.parser_limits import excess


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("<div>" * 30_000, "too_deep"),
        ("<section><nav>" * 30_000 + "</div>" * 90_000, "too_deep"),
        ("<font><h1>" * 20_000 + "</p>" * 40_000, "too_deep"),
        ("".join(f"<i id={i}><p>" for i in range(15_000)), "too_deep"),
        ("<h1 " + " ".join(f"a{i}=v" for i in range(50_000)) + ">", "too_many_attributes"),
        ("<p " + " ".join(f"a{i}='x y' b{i}" for i in range(30_000)), "too_many_attributes"),
    ],
)
def test_what_would_hold_the_parser_up_is_found_soon(html, reason):
    start = time.process_time()
    found = excess(html.encode())
    assert found is not None
    assert found[0] == reason
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 900,
        "<p>One<p>Two" * 20_000,
        "<ul>" + "<li>One" * 20_000,
        "<table>" + "<tr><td>1<td>2" * 20_000,
        "<dl>" + "<dt>a<dd>b" * 20_000,
        "<br><img src=x>" * 30_000,
        "<div><b>x</b></div>" * 20_000,
        "<a href=x>link<p>" * 10_000,
        "<b>" * 100 + "<p>x</p>" * 5_000,
        '<img src="data:image/png;base64,' + "A" * 3_000_000 + '">',
        "<script>var data = {" + "'key': 'value', " * 100_000 + "}</script>",
    ],
)
def test_large_but_honest_markup_is_let_through_and_parsed_soon(html):
    assert excess(html.encode()) is None
    start = time.process_time()
    assert LexborHTMLParser(html).body is not None
    assert time.process_time() - start < 2

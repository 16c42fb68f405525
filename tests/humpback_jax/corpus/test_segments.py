import dataclasses
import pathlib

import pytest

from humpback_jax.corpus.html import PageError, body_markup, normal_markup
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.segments import header_nodes, page_headers
from humpback_jax.corpus.warc import read_pages
from humpback_jax.records import Source

CORPUS = pathlib.Path(__file__).resolve().parents[3].parent / "shared" / "data" / "corpus"


def segments(html):
    return {node.header: node.text() for node in nodes(html)}


def nodes(html):
    page = Page(Source("f", 0, "id"), "http://a.b/", "text/html", "utf-8", 200, "", html.encode())
    return header_nodes(body_markup(page, 1 << 20))


def test_tree_in_document_order_with_a_skipped_level():
    found = nodes("<h1>Bread</h1><p>One.</p><h3>Flour</h3><p>Two.</p><h2>Yeast</h2><p>Three.</p>")
    assert [n.path for n in found] == [("Bread",), ("Bread", "Flour"), ("Bread", "Yeast")]
    assert found[0].text() == "One.\n\nFlour\n\nTwo.\n\nYeast\n\nThree."
    assert [n.text() for n in found[1:]] == ["Two.", "Three."]


def test_header_without_siblings_collects_what_follows_in_the_document():
    html = "<div class=title><div><h2>Oven</h2></div></div><div><div><p>Heat it.</p></div></div>"
    assert segments(html) == {"Oven": "Heat it."}


def test_leaving_a_section_restores_the_outer_header_and_a_div_does_not():
    html = (
        "<h1>A</h1><p>1</p><section><h2>B</h2><p>2</p></section><p>3</p>"
        "<div><h2>C</h2><p>4</p></div><p>5</p>"
    )
    assert segments(html) == {"A": "1\n\nB\n\n2\n\n3\n\nC\n\n4\n\n5", "B": "2", "C": "4\n\n5"}


@pytest.mark.parametrize(
    "tag", ["article", "section", "main", "details", "figure", "blockquote", "td"]
)
def test_scopes(tag):
    inner = f"<{tag}><h2>In</h2><p>inside</p></{tag}>"
    html = f"<table><tr>{inner}</tr></table>" if tag == "td" else inner
    found = segments(f"<h1>Out</h1><p>before</p>{html}<p>after</p>")
    assert found["In"] == "inside"
    assert found["Out"].split() == ["before", "In", "inside", "after"]


def test_header_of_a_higher_level_in_a_cell_does_not_swallow_the_page():
    html = "<h2>Out</h2><p>1</p><table><tr><td><h1>In</h1>2</td></tr></table><p>3</p>"
    assert segments(html) == {"Out": "1\n\n3", "In": "2"}


def test_text_before_the_first_header_belongs_to_no_segment():
    assert segments("<p>Menu</p><h1>A</h1>text") == {"A": "text"}


def test_navigation_is_dropped_and_page_header_is_kept():
    html = (
        "<header><h1>Title</h1><nav><h2>Menu</h2>Home</nav></header><p>Body.</p>"
        "<aside><h2>Ads</h2>Buy!</aside><script>var x</script><style>p{}</style>"
        "<noscript>No</noscript><form><p>Kept.</p><button>Go</button></form>"
        "<svg><text>s</text></svg><template><h2>T</h2></template><footer><h2>Foot</h2></footer>"
    )
    assert segments(html) == {"Title": "Body.\n\nKept."}


def test_role_heading_and_role_presentation():
    html = (
        '<h1>A</h1>x<div role="heading" aria-level="3">B</div>y'
        '<p role="heading">C</p>z<h2 role="presentation">not one</h2>'
    )
    found = nodes(html)
    assert [(n.header, n.level) for n in found] == [("A", 1), ("B", 3), ("C", 2)]
    assert found[2].text() == "z\nnot one"


def test_levels_are_bounded_however_deep_aria_goes():
    html = "".join(f"<p role=heading aria-level={i}>h{i}</p>" for i in range(1, 500))
    assert max(len(n.path) for n in nodes(html)) <= 9


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One</p><p>Two</p>", "One\n\nTwo"),
        ("One<br>Two<br/><br>Three", "One\nTwo\nThree"),
        ("<div>One</div>Two<div><div>Three</div></div>", "One\nTwo\nThree"),
        ("<ul><li>One<li><p>Two</p></ul>x", "- One\n- Two\n\nx"),
        ("<ol start=3><li>One</li><li>Two</li></ol>", "3. One\n4. Two"),
        ("<ul><li>One<ul><li>Two</li></ul></li><li>Three</li></ul>", "- One\n  - Two\n- Three"),
        ("<ul><li></li><li>One</li></ul>", "- One"),
        ("a<table><tr><th>A</th><th>B</th></tr><tr><td><p>1</p></td><td><p>2</p></td></tr></table>b",
         "a\n\nA\tB\n1\t2\n\nb"),
        ("<dl><dt>One</dt><dd>Two</dd></dl>", "One\nTwo"),
        ("See:<pre>if x:\n    y\t= 1\n\n</pre>Done", "See:\n\nif x:\n    y\t= 1\n\nDone"),
        ("a <b>bold</b>, H<sub>2</sub>O\n  and   <i>more</i>", "a bold, H2O and more"),
        ("<span>One</span><span>Two</span>", "One Two"),
        ("<a href=x>One</a><a href=y>Two</a>", "One Two"),
        ("<span>os.</span><span>path</span><span>(</span>", "os.path("),
        ("<code><span>foo</span><span>bar</span></code>", "foobar"),
        ("zero\u200bwidth\ufeff soft\u00adhyphen", "zerowidth softhyphen"),
        ("Text.<?php echo 1 ?><!-- no --> More.", "Text. More."),
        ("A &lt;b&gt; &amp; c&nbsp;d", "A <b> & c d"),
        ("<p>Body.</p><p>Share:</p><p>Facebook Twitter</p>", "Body."),
        ("<p>Body.</p><p>Previous article</p><p>Next Article: Rolls</p>", "Body."),
        ("<p>Body.</p><ul><li>Tags: bread, oven</li></ul>", "Body."),
        ("<p>Body.</p><p>Tags</p><a rel=tag>bread</a>", "Body."),
        ("<p>Share of wheat in it.</p>", "Share of wheat in it."),
        ("<p>Next page numbers follow in the second volume of this long book, as you will see when "
         "you turn it over.</p>",
         "Next page numbers follow in the second volume of this long book, as you will see when "
         "you turn it over."),
    ],
)  # fmt: skip
def test_layout_of_text(html, text):
    assert segments(f"<h1>H</h1>{html}") == {"H": text}


def test_what_is_hidden_is_no_text_and_a_hidden_body_is():
    html = (
        "<body style='visibility:hidden'><h1>H<a class='x headerlink'>#</a></h1><div hidden>a"
        "<p hidden>b</p></div><p style='color:red; display : none'>c</p><p style='color:red'>d</p>"
        "<p role=search>e</p><a rel='nofollow tag'>f</a><img hidden><input hidden>g"
    )
    assert segments(html) == {"H": "d\n\ng"}


def test_header_text_is_one_clean_line():
    html = '<h2>\n <a href="#x">The</a>\u200b <br> oven <span>[edit]</span>¶</h2>x'
    assert segments(html) == {"The oven": "x"}


def test_lengths_and_link_characters_agree_with_the_text():
    html = "<h1>A</h1>one<h2>B</h2><p>two <a href=x>link</a></p><h3></h3>three<h2>C</h2><h2>D</h2>x"
    found = nodes(html)
    assert [n.length for n in found] == [len(n.text()) for n in found]
    assert [n.link_chars for n in found] == [4, 4, 0, 0, 0]
    assert found[0].text() == "one\n\nB\n\ntwo link\n\nthree\n\nC\n\nD\n\nx"


def test_page_without_a_header_is_rejected_by_name():
    page = Page(Source("f", 0, "id"), "", "", "", 200, "", b"<nav><h1>Menu</h1></nav><p>Text")
    with pytest.raises(PageError) as caught:
        page_headers(page, 1 << 20)
    assert caught.value.reason == "no_header"


def test_clean_text_is_one_segment_without_a_header():
    page = Page(Source("f", 0, "id"), "", "", "", 0, "", b" One.\r\n\r\n\nTwo\nlines. ", True)
    (node,) = page_headers(page, 1 << 20)
    assert (node.level, node.path, node.text()) == (0, ("",), "One.\n\nTwo\nlines.")
    assert node.length == len(node.text())
    for payload, size, reason in ((b" \n ", 10, "empty"), (b"long", 3, "too_large")):
        with pytest.raises(PageError) as caught:
            page_headers(dataclasses.replace(page, payload=payload), size)
        assert caught.value.reason == reason


def test_nested_headers_are_one():
    assert segments("<h1>A <span role=heading>B</span></h1>x") == {"A B": "x"}


def test_body_without_markup():
    assert header_nodes(normal_markup("")) == []


@pytest.mark.skipif(not CORPUS.exists(), reason="the development corpus is absent")
def test_every_documentation_page_gives_segments_whose_lengths_are_exact():
    pages = list(read_pages(CORPUS / "documentation.warc.gz"))
    found = [page_headers(page, 8 << 20) for page in pages if isinstance(page, Page)]
    assert len(found) == 351
    assert sum(map(len, found)) == 1765
    for headers in found[::10]:
        assert [n.length for n in headers] == [len(n.text()) for n in headers]
        assert not any(n.text() != n.text().strip() for n in headers)

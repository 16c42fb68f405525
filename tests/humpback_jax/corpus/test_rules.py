"""Each rule of "Segments" in docs/corpus.md, on the smallest page that shows it.

Every page is of a shape that was seen on real pages; taking a rule away fails its test.
"""

import pathlib
import re

import pytest

from humpback_jax.corpus.elements import KINDS, Kind
from humpback_jax.corpus.html import normal_markup
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.segments import header_nodes, page_headers
from humpback_jax.corpus.text_layout import PARAGRAPH, lay_out
from humpback_jax.records import Source

DOCUMENT = pathlib.Path(__file__).resolve().parents[3] / "docs" / "corpus.md"

# rule: (page, path of each header joined by " > " and its text)
RULES = {
    # The header tree
    "document order": (
        "<div><div><h2>Oven</h2></div></div><div><div><p>Heat it.</p></div></div>",
        {"Oven": "Heat it."},
    ),
    "levels": (
        "<h1>A</h1>1<h2>B</h2>2<h2>C</h2>3<h1>D</h1>4",
        {"A": "1\n\nB\n\n2\n\nC\n\n3", "A > B": "2", "A > C": "3", "D": "4"},
    ),
    "skipped level": (
        "<h1>A</h1><h4>B</h4>2<h2>C</h2>3",
        {"A": "B\n\n2\n\nC\n\n3", "A > B": "2", "A > C": "3"},
    ),
    "lead": ("<p>Menu</p>text<h1>A</h1>1", {"A": "1"}),
    "scope": (
        "<h1>A</h1><article><h2>B</h2>2</article>3<table><tr><td><h2>C</h2>4</td><td>5</td></tr>"
        "</table><details><summary><h2>D</h2></summary>6</details>7",
        {
            "A": "B\n\n2\n\n3\n\nC\n\n4\n\n5\n\nD\n\n6\n\n7",
            "A > B": "2",
            "A > C": "4",
            "A > D": "6",
        },
    ),
    "div is no scope": (
        "<h1>A</h1><div><h2>B</h2></div>2",
        {"A": "B\n\n2", "A > B": "2"},
    ),
    "text after a subsection": (
        "<section><h1>A</h1>1<section><h2>B</h2>2</section>3</section>",
        {"A": "1\n\nB\n\n2\n\n3", "A > B": "2"},
    ),
    "role=heading": (
        "<h1>A</h1>1<div role=heading aria-level=2>B</div>2<p role=heading aria-level=1>C</p>3",
        {"A": "1\n\nB\n\n2", "A > B": "2", "C": "3"},
    ),
    "header by name only": ("<h1>A</h1>1<h2 role=presentation>B</h2>2", {"A": "1\nB\n2"}),
    "header in a header": ("<h1>A <span><h2>B</h2></span></h1>1", {"A B": "1"}),
    "header text": (
        "<h2>\n<a href=x>The <b>oven</b></a><br>door\u200b \u00b6 [edit]</h2>1",
        {"The oven door": "1"},
    ),
    "empty header": ("<h1>A</h1>1<h2><img></h2>2", {"A": "1\n\n2", "A > ": "2"}),
    # What is left out
    "no content by name": (
        "<h1>A</h1>1<nav>n</nav><aside>n</aside><footer>n</footer><script>n</script><style>n</style>"
        "<noscript>n</noscript><template>n</template><svg><text>n</text></svg><iframe>n</iframe>"
        "<math><mi>n</mi></math><noembed>n</noembed><object>n</object><video>n</video>"
        "<audio>n</audio><canvas>n</canvas><dialog open>n</dialog>2",
        {"A": "12"},
    ),
    "form controls": (
        "<h1>A</h1><form>1 <input value=n><select><option>n</select><textarea>n</textarea>"
        "<button>n</button></form>",
        {"A": "1"},
    ),
    "page header stays": ("<header><h1>A</h1><p>1</p></header>2", {"A": "1\n\n2"}),
    "hidden": (
        "<h1>A</h1>1<p hidden>n</p><p aria-hidden=true>n</p><p style='color:red;display:none'>n</p>"
        "<p style='VISIBILITY : hidden'>n</p><p aria-hidden=false style='display:block'>2</p>",
        {"A": "1\n\n2"},
    ),
    "hidden body": ("<body style='display:none' hidden><h1>A</h1>1", {"A": "1"}),
    "no content by role": (
        "<h1>A</h1>1"
        + "".join(
            f"<div role={role}>n</div>"
            for role in ("navigation", "complementary", "contentinfo", "search", "menu", "dialog")
            + ("menubar", "toolbar", "alertdialog")
        )
        + "<div role=main>2</div>",
        {"A": "1\n2"},
    ),
    "tags of an article": (
        "<h1>A</h1>1<a rel='category tag'>n</a> <a rel=nofollow>2</a>",
        {"A": "1 2"},
    ),
    "edit and permanent links": (
        "<h1>A<a class=headerlink>#</a></h1>1<span class='x mw-editsection'>n</span> [edit] [ edit"
        " | edit source ]<a class='anchorjs-link '>n</a>\u00b6",
        {"A": "1"},
    ),
    "comments and processing instructions": (
        "<h1>A</h1>1<!-- <h2>n</h2> > --><?php n ?>2",
        {"A": "12"},
    ),
    # Layout
    "blocks": (
        "<h1>A</h1><p>1</p><p>2</p><div>3</div>4<br>5<hr>6",
        {"A": "1\n\n2\n\n3\n4\n5\n\n6"},
    ),
    "white space": ("<h1>A</h1>\n one\n\ttwo &nbsp; <b>three</b>  ", {"A": "one two three"}),
    "words do not fuse": (
        "<h1>A</h1><a>one</a><a>two</a><span>three</span><span>4</span><span>\u20ac5</span>",
        {"A": "one two three 4 \u20ac5"},
    ),
    "words are not torn": (
        "<h1>A</h1><span>os.</span><span>path</span> <b>w</b>ord <code><span>a</span><span>b</span>"
        "</code> H<sub>2</sub>O",
        {"A": "os.path word ab H2O"},
    ),
    "spans of ClueWeb22": (
        "<h1>A</h1><p><a>lake</a><span instrument_node>s</span></p>",
        {"A": "lakes"},
    ),
    "lists": (
        "<h1>A</h1>0<ul><li>1<li><p>2</p><ul><li>3</ul></ul>4<ol start=7><li>5<li>6</ol>",
        {"A": "0\n\n- 1\n- 2\n\n  - 3\n\n4\n\n7. 5\n8. 6"},
    ),
    "empty item": ("<h1>A</h1><ul><li><img></li><li>1</li></ul>", {"A": "- 1"}),
    "tables": (
        "<h1>A</h1>0<table><tr><th>a</th><th>b</th></tr><tr><td><p>c</p></td><td><div>d</div></td>"
        "</tr></table>1",
        {"A": "0\n\na\tb\nc\td\n\n1"},
    ),
    "definitions": ("<h1>A</h1><dl><dt>a<dd>b<dt>c<dd>d</dl>e", {"A": "a\nb\nc\nd\n\ne"}),
    "pre": (
        "<h1>A</h1>0<pre>\n  a\n\n\tb <b>c</b>\n\n</pre>1<xmp><i> x</xmp>",
        {"A": "0\n\n  a\n\n\tb c\n\n1\n\n<i> x"},
    ),
    "header in pre": (
        "<h1>A</h1><pre>a\n  b<h2>B</h2>c\n  d</pre>",
        {"A": "a\n  b\n\nB\n\nc\n  d", "A > B": "c\n  d"},
    ),
    "invisible characters": (
        "<h1>A</h1>zero\u200bwidth\ufeff soft\u00adhyphen",
        {"A": "zerowidth softhyphen"},
    ),
    "entities": ("<h1>A</h1>&lt;b&gt; &amp;amp; &quot;&eacute;&quot;", {"A": '<b> &amp; "\u00e9"'}),
    "trailing junk": (
        "<h1>A</h1><p>1</p><p>Share:</p><p>Facebook Twitter</p><ul><li>Tags: a, b</li></ul>"
        "<p>Previous article</p><p>Next article: B</p><p>Back to top</p>",
        {"A": "1"},
    ),
    "junk in the middle stays": (
        "<h1>A</h1><p>Share:</p><p>of wheat</p>",
        {"A": "Share:\n\nof wheat"},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule):
    html, expected = RULES[rule]
    page = Page(Source("f", 0, "id"), "", "text/html", "utf-8", 200, "", html.encode())
    found = page_headers(page, 1 << 20)
    assert {" > ".join(node.path): node.text() for node in found} == expected


@pytest.mark.parametrize(
    "line",
    ["Share", "Share this on:", "Tweet", "Pin it", "Back to top", "Return to top", "Read more »"]
    + ["Leave a comment", "Reply", "Permalink", "Print this page", "E-mail this", "Older posts"]
    + ["Newer entry", "Tagged: a", "Filed under: a", "Posted in: a", "Categories: a, b"]
    + [
        "Labels: a",
        "Topics: a",
        "Facebook | Twitter | LinkedIn",
        "WhatsApp",
        "- Tumblr",
        "3. Tags",
    ],
)
def test_lines_that_are_junk_at_the_end_of_a_block(line):
    assert lay_out([f"Text.{PARAGRAPH}{line}"]) == "Text."
    assert lay_out([f"Text.{PARAGRAPH}{line} of the mill, as it was in those days"]) != "Text." or (
        ":" in line or line in ("Print this page", "E-mail this", "Older posts", "Newer entry")
    )


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind == Kind.LINE])
def test_elements_that_are_lines(name):
    html = f"<{name}>1</{name}>"
    if name in ("caption", "thead", "tbody"):
        cells = "1" if name == "caption" else "<tr><td>1</td></tr>"
        html = f"<table><{name}>{cells}</{name}></table>"
    text = header_nodes(normal_markup(f"<h1>A</h1>0{html}2"))[0].text()
    assert text.split("\n")[0] == "0"
    assert text.split("\n")[-1] == "2"


def test_document_names_every_rule():
    section = DOCUMENT.read_text().partition("## Segments")[2].partition("\n## ")[0]
    named = re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE)
    assert set(named) - {"---"} >= set(RULES)
    assert len([name for name in named if name in RULES]) == len(RULES)

import time

import pytest
from selectolax.lexbor import LexborHTMLParser

from humpback_jax.corpus.elements import (
    KINDS,
    VOID_NAMES,
    Attributes,
    Kind,
    UnescapedError,
    skip_element,
    tokens,
    unescape,
)
from humpback_jax.corpus.html import normal_markup
from humpback_jax.corpus.segments import header_nodes


def start_tags(html):
    """Returns (name, attributes) of all start tags but the body's."""
    return [token[1:] for token in tokens(normal_markup(html)) if token[1]][1:]


def test_tokens_are_tags_with_the_text_before_them():
    markup = normal_markup('<p class="a">1 &amp; <b>2</b><br>3<?php x ?><!---->4<!-- <p>--- -->')
    assert list(tokens(markup)) == [
        ("", "body", ""),
        ("", "p", ""),
        ("1 &amp; ", "b", ""),
        ("2", None, None),
        ("", "br", ""),
        ("3", None, "?php x ?"),
        ("", None, "--"),
        ("4", None, "--- --"),
        ("", None, None),
        ("", None, None),
    ]


def test_attributes_begin_with_the_first_that_says_something():
    html = '<p id=x hidden class=y>a</p><a class="b headerlink">1</a><i class="c">'
    assert start_tags(html) == [
        ("p", ' hidden="" class="y"'),
        ("a", ' class="b headerlink"'),
        ("i", ""),
    ]


@pytest.mark.parametrize(
    "html",
    [
        '<a href="?hidden=1" title="role=" data-style="x">',
        "<a title=' hidden=&quot;&quot;'>",
        '<a>text hidden="" role="heading" and headerlink</a>',
        '<a id="color:red" class="button" rel="nofollow">',
        '<b title="x> y">z</b> style="display:none"<a>',
        '<b title="x hidden=">z</b>',
    ],
)
def test_what_only_looks_like_such_an_attribute_is_none(html):
    assert not any(attributes for _, attributes in start_tags(html))


@pytest.mark.parametrize("name", ["a<b", "a<!--b", 'a"b', "a'b", "o:p", "my-element", "aé", "A"])
def test_names_that_browsers_take(name):
    found = list(tokens(normal_markup(f"<i><{name} x<y z\"=1 =w='>' k=a>t</{name}></i>")))
    assert [token[1] for token in found[:3]] == ["body", "i", name.lower()]
    assert found[3][0] == "t"
    assert len(found) == 6


def test_void_elements_are_those_the_parser_gives_no_end_tag():
    for name, kind in [*KINDS.items(), ("meter", Kind.PLAIN), ("command", Kind.PLAIN)]:
        if kind == Kind.UNESCAPED or name in (
            "table",
            "tr",
            "td",
            "th",
            "thead",
            "tbody",
            "caption",
        ):
            continue
        html = f"<table><colgroup><{name}>" if name == "col" else f"<p>x<{name}>"
        markup = LexborHTMLParser(html).body.html
        assert (f"</{name}>" not in markup) == (kind >= Kind.VOID), name
        assert (name in VOID_NAMES) == (kind >= Kind.VOID), name


@pytest.mark.parametrize(
    "html",
    [
        "<aside><div><br>x<img hidden></div><aside hidden>y</aside><?a b?>z</aside>",
        "<aside></aside>",
        "<aside><p>unclosed</aside>",
    ],
)
def test_skipping_ends_with_the_element(html):
    following = tokens(normal_markup(f"<div>{html}after</div>"))
    while next(following)[1] != "aside":
        pass
    skip_element(following)
    assert next(following) == ("after", None, None)


@pytest.mark.parametrize(
    "html",
    [
        "<xmp></aside></xmp>",
        "<aside><xmp></aside></xmp></aside>",
        "<p hidden><noembed></p></noembed>",
    ]
    + ["<xmp hidden></p></xmp>", "<plaintext></p>"],
)
def test_markup_that_cannot_be_read_is_refused_and_can_be_made_readable(html):
    with pytest.raises(UnescapedError):
        header_nodes(normal_markup(f"<h1>A</h1>1{html}"))
    (node,) = header_nodes(normal_markup(f"<h1>A</h1>1{html}", escape_all=True))
    assert node.header == "A"
    assert node.text().startswith("1")


@pytest.mark.parametrize(
    ("attributes", "kinds"),
    [
        ("hidden", {"p": Kind.SKIPPED, "h1": Kind.SKIPPED, "br": Kind.VOID_SKIPPED}),
        ("aria-hidden=true", {"p": Kind.SKIPPED}),
        ("aria-hidden=false", {"p": Kind.BLOCK}),
        ("style='color:red; display : none'", {"p": Kind.SKIPPED}),
        ("style='visibility:HIDDEN'", {"p": Kind.SKIPPED}),
        ("style='DISPLAY:None'", {"h2": Kind.SKIPPED}),
        ("style='list-style:none'", {"p": Kind.BLOCK, "h2": Kind.HEADER}),
        ("role=' Search '", {"div": Kind.SKIPPED}),
        ("role=region", {"div": Kind.LINE}),
        ("rel='nofollow tag'", {"a": Kind.SKIPPED}),
        ("rel=vintage", {"a": Kind.LINK}),
        ("class='x headerlink'", {"a": Kind.SKIPPED}),
        ("class=headerlinks", {"a": Kind.LINK}),
        ("role=heading", {"b": Kind.HEADER, "aside": Kind.SKIPPED, "br": Kind.VOID_LINE}),
        ("role=presentation", {"h2": Kind.LINE, "p": Kind.BLOCK}),
        ("role", {"h2": Kind.LINE}),
        ("instrument_node=''", {"span": Kind.PLAIN}),
    ],
)
def test_what_attributes_make_of_an_element(attributes, kinds):
    for name, kind in kinds.items():
        ((found, text),) = start_tags(f"<{name} {attributes}>")
        assert Attributes(text).kind(found) == kind, name


def test_levels_and_numbers_are_bounded():
    texts = (" 3 ", "500", "9" * 5000, "x", "0")
    assert [Attributes(f' aria-level="{t}"').level for t in texts] == [3, 9, 2, 2, 1]
    assert [Attributes(f' start="{t}"').start for t in ("7", "-3", "1" * 9)] == [7, 1, 1]


def test_unescape_goes_once_over_the_text():
    assert unescape("&amp;lt; &lt;b&gt;&nbsp;&amp;") == "&lt; <b>\xa0&"


@pytest.mark.parametrize("text", [' hidden="' * 300_000, "<p style=x>" * 200_000])
def test_a_page_full_of_signs_takes_no_time(text):
    start = time.monotonic()
    assert sum(1 for _ in tokens(normal_markup(text)))
    assert time.monotonic() - start < 2

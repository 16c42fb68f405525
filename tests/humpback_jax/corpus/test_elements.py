import pytest
from selectolax.lexbor import LexborHTMLParser

from humpback_jax.corpus import elements
from humpback_jax.corpus.elements import Kind, read_marks, skip_element, tokens, unescape
from humpback_jax.corpus.html import normal_markup


def test_tokens_are_tags_with_the_text_before_them():
    markup = normal_markup('<p class="a">1 &amp; <b>2</b><br>3<?php x ?>')
    assert list(tokens(markup)) == [
        ("", "body", ""),
        ("", "p", ""),
        ("1 &amp; ", "b", ""),
        ("2", None, None),
        ("", "br", ""),
        ("3", None, "?php x ?"),
        ("", None, None),
        ("", None, None),
    ]


def test_attributes_begin_with_the_first_that_says_something():
    markup = normal_markup('<a href="?hidden=1" title="role=" data-style="x" hidden id=b>')
    assert ("", "a", ' hidden="" id="b"') in list(tokens(markup))
    with_classes = normal_markup('<a class="b headerlink">1</a><i class="c">')
    assert [token[1:] for token in tokens(with_classes)][1:4] == [
        ("a", ' class="b headerlink"'),
        (None, None),
        ("i", ""),
    ]


@pytest.mark.parametrize("name", ["a<b", 'a"b', "a'b", "o:p", "my-element", "aé", "A"])
def test_names_that_browsers_take(name):
    found = list(tokens(normal_markup(f"<i><{name} x<y z\"=1 =w='>' role=a>t</{name}></i>")))
    assert [token[1] for token in found[:3]] == ["body", "i", name.lower()]
    assert found[3][0] == "t"
    assert len(found) == 6


def test_void_elements_are_those_the_parser_gives_no_end_tag():
    names = {*elements.KINDS, "meter", "picture", "wbr", "command"} - {"table"}
    for name in names:
        if " " in name or name in ("tr", "td", "th", "thead", "tbody", "caption"):
            continue
        html = f"<table><colgroup><{name}>" if name == "col" else f"<p>x<{name}>"
        markup = LexborHTMLParser(html).body.html
        assert (f"</{name}>" not in markup) == (name in elements.VOID_NAMES), name


@pytest.mark.parametrize(
    "html",
    [
        "<nav><div><br>x<img></div><nav>y</nav><?a b?>z</nav>",
        "<nav></nav>",
        "<nav><p>unclosed</nav>",
    ],
)
def test_skipping_ends_with_the_element(html):
    following = tokens(normal_markup(f"<div>{html}after</div>"))
    while next(following)[1] != "nav":
        pass
    skip_element(following)
    assert next(following) == ("after", None, None)


@pytest.mark.parametrize(
    ("attributes", "kinds"),
    [
        (' hidden=""', {"p": Kind.SKIPPED, "h1": Kind.SKIPPED, "br": Kind.SKIPPED}),
        (' aria-hidden="true"', {"p": Kind.SKIPPED}),
        (' aria-hidden="false"', {"p": Kind.BLOCK}),
        (' style="color:red; display : none"', {"p": Kind.SKIPPED}),
        (' style="visibility:HIDDEN"', {"p": Kind.SKIPPED}),
        (' style="display:block"', {"p": Kind.BLOCK}),
        (' role=" Search "', {"div": Kind.SKIPPED}),
        (' role="region"', {"div": Kind.LINE}),
        (' rel="nofollow tag"', {"a": Kind.SKIPPED}),
        (' rel="vintage"', {"a": Kind.LINK}),
        (' class="x headerlink"', {"a": Kind.SKIPPED}),
        (' class="headerlinks"', {"a": Kind.LINK}),
        (' role="heading"', {"b": Kind.HEADER, "nav": Kind.SKIPPED, "br": Kind.VOID_LINE}),
        (' role="presentation"', {"h2": Kind.LINE, "td": Kind.CELL}),
        (' role=""', {"h2": Kind.LINE}),
    ],
)
def test_what_attributes_make_of_an_element(attributes, kinds):
    marked = read_marks(attributes)
    assert {name: marked.kind(name) for name in kinds} == kinds


def test_numbers_in_attributes_are_bounded():
    assert read_marks(' role="heading" aria-level=" 3 "').level == 3
    assert read_marks(f' role="heading" aria-level="{"9" * 5000}"').level == 2
    assert read_marks(' role="heading" aria-level="500"').level == 9
    assert [read_marks(f' start="{s}"').start for s in ("7", "-3", "x", "1" * 9)] == [7, 1, 1, 1]


def test_unescape_goes_once_over_the_text():
    assert unescape("&amp;lt; &lt;b&gt;&nbsp;&amp;") == "&lt; <b>\xa0&"

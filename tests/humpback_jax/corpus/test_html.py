import time

import pytest

from humpback_jax.corpus.html import PageError, body_markup, decode
from humpback_jax.corpus.page import Page
from humpback_jax.records import Source

TEXT = "<p>Crème brûlée, “sugar”</p>"


def page(payload, **changes):
    values = {"url": "http://a.b/", "content_type": "text/html", "charset": "", "status": 200}
    return Page(Source("f", 0, "id"), language="", payload=payload, **(values | changes))


@pytest.mark.parametrize(
    ("payload", "charset"),
    [
        (b"\xef\xbb\xbf" + TEXT.encode(), "iso-8859-1"),  # the byte order mark wins over HTTP
        (b"\xff\xfe" + TEXT.encode("utf-16-le"), "utf-8"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), ""),
        (TEXT.encode("cp1252"), "ISO-8859-1"),  # as browsers read that name
        (TEXT.encode("utf-8"), "utf-8"),
    ],
)
def test_decode_by_mark_or_http(payload, charset):
    assert decode(payload, charset) == TEXT


def test_decode_by_meta_unless_http_says_otherwise():
    html = '<meta charset="windows-1251"><p>Хлеб</p>'
    assert decode(html.encode("cp1251")) == html
    assert decode(html.encode("utf-8"), "utf-8") == html
    old = '<META http-equiv=Content-Type content="text/html; charset=windows-1251"><p>Хлеб</p>'
    assert decode(old.encode("cp1251")) == old


def test_decode_by_detector():
    russian = "<p>" + "Хлеб пекут из муки, воды и дрожжей. " * 20
    assert decode(russian.encode("cp1251")) == russian
    # A declaration that turns the text to rubbish is wrong.
    assert decode(russian.encode("cp1251"), "utf-8") == russian
    # One damaged byte is no reason to doubt it.
    assert decode(russian.encode() + b"\xff", "utf-8") == russian + "\ufffd"


def test_meta_that_cannot_be_true_is_read_as_utf8():
    html = '<meta charset="utf-16"><p>brûlée</p>'
    assert decode(html.encode()) == html
    assert decode(b'<meta charset="no-such-code"><p>plain</p>').endswith("plain</p>")


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (page(b"<p>x", status=404), "http_status"),
        (page(b"%PDF-1.4", content_type="application/pdf"), "not_html"),
        (page(b"GIF89a\0\0<"), "not_html"),
        (page(b"just words"), "not_html"),
        (page(b""), "empty"),
        (page(b"<p>" + b"x" * 200_000), "too_large"),
        (page(b"<div>" * 6000 + b"x"), "too_deep"),
        (page(b"\xff\xfe" + ("<div>" * 6000).encode("utf-16-le")), "too_deep"),
        (page(b"<UL><LI>" * 6000 + b"x"), "too_deep"),
    ],
)
def test_page_that_is_rejected_has_a_reason(page, reason):
    with pytest.raises(PageError) as caught:
        body_markup(page, max_bytes=100_000)
    assert caught.value.reason == reason


def test_deep_page_is_rejected_before_the_parser_sees_it():
    start = time.monotonic()
    with pytest.raises(PageError, match="too_deep"):
        body_markup(page(b"<div>" * 400_000), max_bytes=8 << 20)
    assert time.monotonic() - start < 2


def test_page_of_more_tags_than_can_be_read_in_time_is_rejected():
    with pytest.raises(PageError) as caught:
        body_markup(page(b"<p>" * 200_001), max_bytes=8 << 20)
    assert caught.value.reason == "too_large"
    assert "200001 tags" in str(caught.value)


def test_many_unclosed_paragraphs_are_not_deep():
    markup = body_markup(page(b"<p>x<br>" * 200), max_bytes=8000)
    assert markup == "<body>" + "<p>x<br></p>" * 200 + "</body>"


def test_markup_holds_nothing_that_is_not_escaped():
    html = (
        b"<p title='1>0'>1 &gt; 0 &amp; </p><script>'<p>'</script>"
        b"<svg><style>&lt;/svg></style></svg><noembed><b></noembed>"
        b"<template><script>'</template>'</script></template><xmp><b> &lt;</xmp>"
    )
    markup = body_markup(page(html), max_bytes=8000, escape_all=True)
    assert markup == (
        '<body><p title="1&gt;0">1 &gt; 0 &amp; </p><pre>&lt;b&gt; &amp;lt;</pre></body>'
    )


def test_a_page_that_is_not_in_the_utf8_it_declares_is_decoded_anew():
    russian = "<p>" + "Хлеб пекут из муки, воды и дрожжей. " * 20 + "</p>"
    found = body_markup(page(russian.encode("cp1251"), charset="utf-8"), max_bytes=8000)
    assert found == f"<body>{russian}</body>"
    damaged = body_markup(page(russian.encode() + b"<p>\xff"), max_bytes=8000)
    assert damaged == f"<body>{russian}<p>\ufffd</p></body>"


def test_page_of_frames_has_no_body():
    assert body_markup(page(b"<frameset><frame src=x></frameset>"), max_bytes=8000) == ""

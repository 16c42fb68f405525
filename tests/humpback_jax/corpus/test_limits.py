import pytest

from humpback_jax.corpus.limits import excess


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"<div>" * 6000, "too_deep"),
        (b"<DIV><Ul>" * 3000, "too_deep"),
        (b"<p>" * 200_001, "too_large"),
        (b"<p" + b"".join(b" a%d" % i for i in range(20_000)) + b">", "too_large"),
        (b"<p" + b"".join(b"/<a%d" % i for i in range(20_000)) + b">", "too_large"),
        (b"<p>" + b"<b class=x>" * 400 + b"<p>x" * 20_000, "too_deep"),
        (b"<FONT\ncolor=x><p>" * 5000, "too_deep"),
    ],
)
def test_pages_that_would_hold_up_the_parser(payload, reason):
    found = excess(payload)
    assert found is not None
    assert found[0] == reason


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"<div>" * 5000,
        b"<div></div>" * 60_000,
        b"<p>x<br>" * 20_000,
        b"<p title='" + b"a b " * 50_000 + b"'>",
        b"<pre>" + b"many words " * 50_000 + b"</pre>",
        b"<script>" + b"if (a < b) " * 20_000 + b"</script>",
        b"<b>x<p>" * 20_000,
        b"<b class=x>y</b><p>" * 20_000,
        b"<img src='data:" + b"A" * 200_000 + b"'>",
    ],
)
def test_pages_that_only_look_like_it(payload):
    assert excess(payload) is None

import pytest

from humpback_jax.corpus.blocklist import Blocklist, load_blocklist
from humpback_jax.errors import UserError

LINES = ["# comment", "", "example.com", " http://other.org/page?id=1 ", "WWW.Third.net/"]


@pytest.mark.parametrize(
    ("url", "blocked"),
    [
        ("http://example.com", True),
        ("https://www.example.com:8080/a/b?c#d", True),
        ("http://deep.sub.Example.COM/x", True),
        ("http://example.com./x", True),
        ("http://notexample.com/x", False),
        ("http://example.com.evil.net/", False),
        ("https://www.other.org/page?id=1#top", True),
        ("http://other.org/page?id=2", False),
        ("http://other.org/page", False),
        ("http://third.net/any", True),
        ("http://[broken", False),
        ("", False),
    ],
)
def test_domains_stand_for_their_subdomains_and_urls_for_themselves(url, blocked):
    assert (url in Blocklist(LINES)) == blocked


def test_files_are_read_together_and_a_wrong_line_is_named(tmp_path):
    (tmp_path / "a").write_text("one.com\n")
    (tmp_path / "b").write_text("# more\r\ntwo.com\r\n")
    files = (str(tmp_path / "a"), str(tmp_path / "b"))
    found = load_blocklist(files)
    assert "http://one.com/" in found
    assert "http://two.com/" in found
    assert found.digest == Blocklist(["two.com", "one.com"]).digest != Blocklist(LINES).digest
    (tmp_path / "c").write_text("http:///path\n")
    for name, message in (
        ("c", "'http:///path' is no domain"),
        ("absent", "absent cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            load_blocklist((str(tmp_path / name),))

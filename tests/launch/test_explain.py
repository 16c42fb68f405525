import pytest

from humpback_jax.microworld.pages import make_warc
from launch import main

BREAD = "<h1>Bread</h1><p>Bread is baked from a dough of flour and water in a hot oven.</p>"
PAGES = [
    (
        "http://a.org/bread",
        f"<nav><h2>Menu</h2></nav>{BREAD}<h2>MORE</h2>What else there is of it.",
    ),
    ("http://b.org/copy", BREAD),
    ("http://c.org/none", "<p>No header."),
]


@pytest.fixture
def flags(tmp_path):
    """Returns the flags of a run whose corpus is one small archive."""
    (tmp_path / "web.warc.gz").write_bytes(make_warc("web", PAGES))
    values = {"RUN_DIR": "run", "CORPUS": "web.warc.gz", "SEED": "seed.jsonl", "BASE": "llama"}
    given = [f'--gin.{name}="{tmp_path / value}"' for name, value in values.items()]
    lengths = ["--gin.SegmentFilters.min_length=20", "--gin.SegmentFilters.max_length=85"]
    language = '--gin.SegmentFilters.language=""'
    return ["segment", "--gin_file=recipes/humpback_7b.gin", *given, *lengths, language]


def _fates(capsys):
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[4:]]
    return {words[2]: words[0] for words in lines}


def test_a_page_is_explained_before_and_after_the_stage(flags, capsys, tmp_path):
    assert main.main([*flags, "--explain", "http://a.org/bread"]) == 0
    before = _fates(capsys)
    assert before == {"Bread": "too_long", "MORE": "header_upper"}
    assert main.main([*flags, "--explain", "http://b.org/copy"]) == 0
    assert _fates(capsys) == {"Bread": "kept"}
    assert not (tmp_path / "run").exists()


def test_what_was_dropped_as_a_duplicate_is_named_once_the_stage_is_done(flags, capsys, tmp_path):
    copies = [(f"http://{name}.org/", BREAD) for name in "ab"]
    (tmp_path / "web.warc.gz").write_bytes(make_warc("web", copies))
    assert main.main(flags) == 0
    capsys.readouterr()
    fates = []
    for url, _ in copies:
        assert main.main([*flags, "--explain", url]) == 0
        fates.append(_fates(capsys)["Bread"])
    assert sorted(fates) == ["duplicate", "kept"]


def test_a_page_without_headers_and_one_that_is_not_there(flags, capsys):
    assert main.main([*flags, "--explain", "http://c.org/none"]) == 0
    assert "rejected: no_header" in capsys.readouterr().out
    assert main.main([*flags, "--explain", "http://a.org/nowhere"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "none of the 3 pages" in error
    assert "http://a.org/nowhere" in error

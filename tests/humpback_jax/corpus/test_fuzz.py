"""The first cases of `make fuzz`."""

import pytest
from corpus_fuzz import check_page, load_material, run_cases
from corpus_mutations import Case
from hypothesis import given, settings
from hypothesis import strategies as st

CASES = 90
_NAMES = (
    *("h1", "h2", "h6", "p", "div", "section", "td", "tr", "table", "ul", "ol", "li", "pre", "a"),
    *("b", "font", "nav", "script", "style", "svg", "template", "select", "plaintext", "code"),
)
_TOKENS = [
    f"<{slash}{name}{rest}>" for name in _NAMES for slash in ("", "/") for rest in ("", " a")
]
_TOKENS += [
    "<p hidden>",
    "<p role=heading aria-level=4>",
    "<ol start=9>",
    "<!--",
    "-->",
    "<?x",
    "&lt",
]
_TOKENS += [
    "<a rel=tag>",
    "<td title='>'>",
    "<p style=display:none>",
    "\0",
    "\x01",
    "\x08",
    " ",
    "\n",
]


@pytest.fixture(scope="module")
def material():
    return load_material()


@pytest.mark.parametrize("target", ["page", "archive"])
def test_no_damage_crashes_hangs_or_loses_a_record(target, material, tmp_path):
    results = list(run_cases(material, [(target, number) for number in range(CASES)], tmp_path))
    assert len(results) == CASES
    assert [result for result in results if result[-1]] == []
    assert len({kind for _, _, kind, *_ in results}) >= (9 if target == "page" else 2)


def test_cases_are_the_same_each_time(material):
    for target in ("page", "archive"):
        assert material.case(target, 17) == material.case(target, 17)
        assert material.case(target, 17).content != material.case(target, 18).content


def test_what_fails_is_named(material, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("parser broke")

    monkeypatch.setattr("corpus_fuzz.select_page", fail)
    results = list(run_cases(material, [("page", 3)], tmp_path))
    assert [(r[0], r[1], r[-1]) for r in results] == [("page", 3, "ValueError: parser broke")]


@given(st.lists(st.sampled_from(_TOKENS) | st.text(max_size=8), max_size=80))
@settings(deadline=None, max_examples=300)
def test_any_markup_is_taken(tokens):
    check_page(Case(0, "hypothesis", "".join(tokens).encode("utf-8", "replace")))

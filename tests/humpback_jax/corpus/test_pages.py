"""Whole pages of common shapes against segments that were read through by hand."""

import importlib
import json
import pathlib
import statistics

import pytest

from humpback_jax.corpus.page import Page
from humpback_jax.corpus.segments import page_headers
from humpback_jax.records import Source

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGES = sorted((ROOT / "tests" / "data" / "pages").glob("*.html"))
BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_page_gives_the_expected_segments(file):
    page = Page(Source("f", 0, "id"), "", "text/html", "", 0, "", file.read_bytes())
    expected = json.loads(file.with_suffix(".json").read_text())["segments"]
    found = page_headers(page, 1 << 20)
    assert [{"path": list(node.path), "text": node.text()} for node in found] == expected
    assert [node.length for node in found] == [len(node.text()) for node in found]


def test_there_are_thirty_pages_of_different_kinds():
    assert len({file.stem.partition("-")[2] for file in PAGES}) == 30


def test_words_of_the_content_are_found(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    corpus = importlib.import_module("corpus")
    scores = []
    for file in PAGES:
        page = json.loads(file.with_suffix(".json").read_text())
        roots = [s for s in page["segments"] if len(s["path"]) == 1]
        found = "\n".join(f"{s['path'][0]}\n{s['text']}" for s in roots)
        scores.append(corpus.f1(corpus.main_content(page), found))
    assert statistics.mean(scores) > 0.96
    assert min(scores) > 0.8


def test_f1_counts_words_that_are_shared(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    corpus = importlib.import_module("corpus")
    assert corpus.f1("a b b c", "B a d") == pytest.approx(2 * 2 / 7)
    assert corpus.f1("a", "") == 0


def test_made_up_pages_are_the_same_every_time_and_have_the_shape_of_the_web(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    corpus_pages = importlib.import_module("corpus_pages")
    pages = list(corpus_pages.pages(12, seed=3))
    assert pages == list(corpus_pages.pages(12, seed=3))
    shape = corpus_pages.shape(pages)
    assert 80_000 < shape["bytes"] < 160_000
    assert 0.04 < shape["text"] < 0.1
    assert 9 < shape["tags"] < 13
    assert 10 < shape["headers"] < 25

import dataclasses
import json
import pathlib
import pickle
from collections import Counter

import gin
import pytest

from humpback_jax.corpus import filters as filters_module
from humpback_jax.corpus.filters import FUNNEL, SegmentFilters, funnel, select, select_page
from humpback_jax.corpus.header_filter import capital_share
from humpback_jax.corpus.html import PageError
from humpback_jax.corpus.identity import node_id, sample_key, site_of
from humpback_jax.corpus.language import other_script, page_language
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.segments import page_headers
from humpback_jax.corpus.warc import read_pages
from humpback_jax.errors import UsageError
from humpback_jax.records import Source

CORPUS = pathlib.Path(__file__).resolve().parents[3].parent / "shared" / "data" / "corpus"

WORDS = (
    "Bread is made of flour, water, salt and yeast. The dough rests in a warm place until it has "
    "doubled. Then it is folded twice and shaped with wet hands. A hot oven gives it a dark crust. "
)
SHORT = SegmentFilters(min_length=20, max_length=400)


def page(html, **changes):
    source = Source("/data/en/a.warc.gz", 7, "clueweb22-en0000-00-00001")
    values = {"url": "http://www.example.com/x", "language": "en", "source": source}
    values |= {"content_type": "text/html", "charset": "utf-8", "status": 200}
    return Page(payload=html.encode(), **(values | changes))


def judge(html, filters=SHORT, **changes):
    """Returns {header: reason}, "" for kept ones."""
    the_page = page(html, **changes)
    _, (segments, rejected, _) = select_page(the_page, filters)
    return {s.header: "" for s in segments} | {node.header: reason for node, reason in rejected}


def test_paper_lengths_are_the_defaults():
    assert (SegmentFilters().min_length, SegmentFilters().max_length) == (600, 3000)


def test_length():
    bounds = SegmentFilters(min_length=10, max_length=20)
    html = "".join(f"<h2>{n}</h2>{'x' * n}" for n in (9, 10, 20, 21)) + "<h2>0</h2>"
    assert judge(html, bounds) == {
        "9": "too_short",
        "10": "",
        "20": "",
        "21": "too_long",
        "0": "too_short",
    }
    assert judge("<h2>None</h2>", SegmentFilters(min_length=0)) == {"None": "too_short"}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("", "header_empty"),
        ("*** -- ***", "header_empty"),
        ("HOW TO BAKE", "header_upper"),
        ("DIY HTML CSS in PHP", "header_capitals"),
        ("C\u8a00\u8a9e", ""),
        ("The NASA and ESA programme", ""),
        ("How To Bake Bread", ""),
        ("A", ""),
        ("2.1", ""),
        ("Как испечь хлеб", ""),
        ("Advertisement", "header_navigation"),
        ("Visit our Forum!", "header_navigation"),
        ("Quick  Links", "header_navigation"),
        ("Get the free newsletter", "header_navigation"),
        ("Search", "header_navigation"),
        ("See Also:", "header_navigation"),
        ("Binary search", ""),
        ("Platforms of the forums'", "header_navigation"),
        ("Performing forumla tricks", ""),
        ("word " * 60, "header_navigation"),
    ],
)
def test_header(header, reason):
    assert SHORT.judge_header(header.strip()) == reason


def test_header_words_can_be_bound():
    filters = SegmentFilters(navigation_words=["oven"], navigation_headers=["bread"])
    assert filters.judge_header("The oven door") == "header_navigation"
    assert filters.judge_header("Bread") == "header_navigation"
    assert filters.judge_header("Advertisement") == ""


def test_link_density():
    link = f"<a href=x>{'y' * 40}</a>"
    html = f"<h2>Mostly links</h2>{link} {'z' * 20}<h2>Few links</h2>{link} {'z' * 200}"
    assert judge(html) == {"Mostly links": "links", "Few links": ""}


def test_language_is_declared_or_detected():
    german = "Brot wird aus Mehl, Wasser, Salz und Hefe gemacht, und der Teig ruht an einem Ort. "
    assert judge(f"<h2>Kept</h2>{WORDS}", language="en") == {"Kept": ""}
    assert judge(f"<h2>Kept</h2>{WORDS}", language="de") == {"Kept": "language"}
    assert judge(f"<h2>Kept</h2>{WORDS}", language="") == {"Kept": ""}
    assert judge(f"<h2>Brot</h2>{german * 2}", language="") == {"Brot": "language"}
    off = SegmentFilters(min_length=20, language="", max_repetition=1)
    assert judge(f"<h2>Brot</h2>{german * 2}", off, language="") == {"Brot": ""}
    assert page_language(page("", language="zh_chs"), []) == "zh"


def test_segment_in_another_script_is_in_another_language():
    chinese = "\u5411\u91cf\u901a\u8fc7\u6574\u6570\u7d22\u5f15\u5b58\u50a8\u503c" * 3
    html = f"<h2>Bread</h2>{WORDS}<h2>Vectors</h2>{WORDS}{chinese}"
    assert judge(html) == {"Bread": "", "Vectors": "language"}
    assert judge(html, dataclasses.replace(SHORT, max_other_script=1.0))["Vectors"] == ""
    assert judge(html, dataclasses.replace(SHORT, language=""))["Vectors"] == ""
    assert judge(html, dataclasses.replace(SHORT, language="zh"), language="zh")["Vectors"] == ""
    assert other_script("Rust: \u30c1\u30e3") == 2 / 6
    assert other_script("na\u00efve \u0142\u00f3d\u017a \u1ec7") == other_script("") == 0.0


def test_headers_in_capitals_are_an_option():
    kept = dataclasses.replace(SHORT, reject_upper=False)
    assert kept.judge_header("DESCRIPTION") == ""
    assert kept.judge_header("DIY HTML CSS in PHP") == "header_capitals"


def test_language_is_not_detected_where_no_segment_has_the_length(monkeypatch):
    asked = []
    monkeypatch.setattr(filters_module, "page_language", lambda *a: asked.append(1) or "en")
    assert judge("<h2>Short</h2>x", language="") == {"Short": "too_short"}
    assert asked == []
    assert judge(f"<h2>Kept</h2>{WORDS}", language="") == {"Kept": ""}
    assert asked == [1]


def test_whole_document_is_not_judged_by_its_header():
    assert judge(f"<h2>***</h2>{WORDS}") == {"***": "header_empty"}
    node = page_headers(page(f"<h2>***</h2>{WORDS}"), 1 << 20)[0]
    assert SHORT.judge(dataclasses.replace(node, level=0), "en")[0] == ""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("email", "Write to jane.doe@company.net for more."),
        ("phone", "The bakery answers under (415) 781-9000."),
        ("address", "The bakery is at 12 Baker Street, London."),
    ],
)
def test_personal_data_is_an_option(name, sentence):
    html = f"<h2>Bread</h2>{WORDS}{sentence}<h2>Yeast</h2>{WORDS}"
    assert judge(html) == {"Bread": "", "Yeast": ""}
    rejecting = dataclasses.replace(SHORT, **{name: "reject"})
    assert judge(html, rejecting) == {"Bread": name, "Yeast": ""}


def test_text_of_an_evaluation_is_rejected_and_what_stands_beside_it_is_kept(tmp_path):
    prompt = "Which of these four kinds of flour makes the darkest bread of all?"
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"instruction": prompt}))
    filters = dataclasses.replace(SHORT, evaluation=[str(tmp_path / "prompts.jsonl")])
    html = f"<h1>Bread</h1><h2>Quiz</h2>{WORDS}{prompt}<h2>Yeast</h2>{WORDS}"
    wide = dataclasses.replace(filters, max_length=2000, max_repetition=1.0)
    assert judge(html, wide) == {"Bread": "contaminated", "Quiz": "contaminated", "Yeast": ""}
    assert filters.file_digests().keys() == {"evaluation"}
    assert filters.settings() == SHORT.settings()


def test_page_on_the_blocklist_is_rejected_as_a_whole(tmp_path):
    (tmp_path / "list").write_text("example.com\n")
    filters = dataclasses.replace(SHORT, blocklist=[str(tmp_path / "list")])
    with pytest.raises(PageError) as raised:
        judge(f"<h2>Kept</h2>{WORDS}", filters)
    assert raised.value.reason == "blocked"
    assert judge(f"<h2>Kept</h2>{WORDS}", filters, url="http://other.org") == {"Kept": ""}


def test_repetitive_text_is_rejected():
    again = "The dough rests in a warm place until it has grown. "
    long = dataclasses.replace(SHORT, max_length=500)
    assert judge(f"<h2>Bread</h2>{WORDS}{again}") == {"Bread": ""}
    assert judge(f"<h2>Bread</h2>{WORDS}{again * 4}", long) == {"Bread": "repetitive"}
    paper = dataclasses.replace(SHORT, max_repetition=0.0)
    assert judge(f"<h2>Bread</h2>{WORDS}{again}", paper) == {"Bread": "repetitive"}
    exact = dataclasses.replace(paper, repetition_similarity=0.95)
    assert judge(f"<h2>Bread</h2>{WORDS}{again}", exact) == {"Bread": ""}


def test_no_text_is_kept_twice():
    html = f"<h1>All</h1>Intro.<h2>One</h2>{WORDS[:100]}<h2>Two</h2>{WORDS[100:]}"
    assert judge(html) == {"All": "", "One": "inside_kept", "Two": "inside_kept"}
    narrow = SegmentFilters(min_length=20, max_length=120)
    assert judge(html, narrow) == {"All": "too_long", "One": "", "Two": ""}


def test_segment_record():
    the_page = page(f"<h1>Baking</h1><h2>Bread</h2><p>{WORDS}</p>")
    (segment,), *_ = select(the_page, page_headers(the_page, 1 << 20), SHORT)
    assert segment.header == "Baking"
    assert segment.header_path == ("Baking",)
    assert segment.text == f"Bread\n\n{WORDS.strip()}"
    assert (segment.site, segment.language, segment.source) == (
        "example.com",
        "en",
        the_page.source,
    )
    assert segment.signals.length == len(segment.text)
    assert segment.signals.capital_share == pytest.approx(1 / 6)


def test_id_is_free_of_the_folder_and_differs_for_equal_headers():
    html = "<h2>Note</h2>x<h2>Note</h2>x"
    here = page(html)
    there = page(html, source=dataclasses.replace(here.source, file="gs://bucket/a.warc.gz"))
    ids = [[node_id(p, n) for n in page_headers(p, 1 << 20)] for p in (here, there)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2
    nameless = [
        page(html, source=Source(f"{folder}/a.warc.gz", 7, "")) for folder in ("/one", "/two")
    ]
    first = [page_headers(p, 1 << 20)[0] for p in nameless]
    assert node_id(nameless[0], first[0]) == node_id(nameless[1], first[1])


def test_keys():
    assert sample_key(0, "a") != sample_key(1, "a")
    assert sample_key(0, "a") == sample_key(0, "a")
    assert site_of("https://www.Example.com:80/x") == "example.com"
    assert site_of("http://[broken") == site_of("metadata://") == ""
    assert capital_share("The SQL way") == pytest.approx(4 / 9)


def test_funnel_names_every_step_in_order():
    reasons = Counter({"too_short": 3, "too_long": 2, "header_upper": 1, "not_sampled": 4})
    steps = funnel(20, reasons)
    assert steps[0] == ("header nodes", 20)
    assert [step for step, _ in steps[1:]] == [step for step, _ in FUNNEL]
    assert dict(steps)["length"] == 15
    assert dict(steps)["header"] == 14
    assert steps[-1] == ("sample", 10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_length": 10, "max_length": 5},
        {"min_length": -1},
        {"max_repetition": 1.5},
        {"navigation_words": "forum"},
        {"max_segments": -1},
        {"repetition_ngram": 0},
        {"email": "yes"},
        {"near_threshold": 1.1},
        {"near_permutations": -1},
        {"near_shingle": 0},
        {"evaluation": "file.jsonl"},
        {"evaluation_ngram": 7},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(UsageError, match="SegmentFilters"):
        SegmentFilters(**wrong)


def test_filters_can_be_bound_and_pickled():
    with gin.unlock_config():
        gin.parse_config("SegmentFilters.min_length = 40\nSegmentFilters.navigation_words = ['ad']")
    try:
        filters = SegmentFilters()
    finally:
        gin.clear_config()
    assert (filters.min_length, filters.navigation_words) == (40, ("ad",))
    assert pickle.loads(pickle.dumps(filters)) == filters
    assert SegmentFilters().min_length == 600


@pytest.mark.skipif(not CORPUS.exists(), reason="the development corpus is absent")
def test_documentation_funnel():
    counts = Counter()
    considered = kept = 0
    for item in read_pages(CORPUS / "documentation.warc.gz"):
        nodes = page_headers(item, 8 << 20)
        segments, rejected, _ = select(item, nodes, SegmentFilters())
        considered += len(nodes)
        kept += len(segments)
        counts.update(reason for _, reason in rejected)
    steps = dict(funnel(considered, counts))
    assert steps["sample"] == kept
    assert steps["header nodes"] == 1765
    # Next to nothing of what reaches it: the filter is for boilerplate, not for manuals.
    assert counts["repetitive"] < 0.01 * steps["link density"]
    assert 450 < kept < 600

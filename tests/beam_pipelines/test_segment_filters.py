"""The whole segment stage with every filter: conservation, and no text kept twice."""

import dataclasses
import json
import random
import re
from collections import Counter

import pytest

from beam_pipelines.config import BeamConfig
from beam_pipelines.segment import run_segment
from humpback_jax.corpus.filters import FUNNEL, SegmentFilters
from humpback_jax.corpus.words import text_digest
from humpback_jax.errors import UserError
from humpback_jax.records import Segment
from humpback_jax.rundir import Counts, StageDir

BEAM = BeamConfig()
PROMPT = "Which three herbs grow best together in a pot on a shaded balcony?"
EXTRA = {
    "email": "Write to jane@company.net if in doubt.",
    "phone": "Call (415) 781-9000 if in doubt.",
    "address": "It is at 12 Baker Street, London.",
    "contaminated": f"A reader asks: {PROMPT}",
}


def make_page(rng, vocabulary, depth=3):
    """Returns HTML with nested headers; every paragraph begins with a token of its own."""
    parts = []
    for _ in range(rng.randint(3, 7)):
        level = rng.randint(1, depth)
        name = rng.choice(("Notes", "Growing", "MENU", "Soil", ""))
        parts.append(f"<h{level}>{name} {rng.choice(vocabulary)}</h{level}>")
        for _ in range(rng.randint(0, 2)):
            words = [rng.choice(vocabulary) for _ in range(rng.randint(5, 40))]
            if rng.random() < 0.1:
                words += [rng.choice(sorted(EXTRA.values()))]
            parts.append(f"<p>t{rng.randrange(10**12)}t {' '.join(words)}.</p>")
    return "".join(parts)


def make_corpus(folder, seed, archive):
    rng = random.Random(seed)
    vocabulary = [f"word{n}" for n in range(400)]
    pages = [(f"http://s{n % 5}.org/{n}", make_page(rng, vocabulary)) for n in range(60)]
    pages += [(f"{url}?copy", html) for url, html in rng.sample(pages, 15)]
    nearly = [
        re.sub(r"\w+\.</p>", "changed.</p>", html, count=2) for _, html in rng.sample(pages, 15)
    ]
    pages += [(f"http://near.org/{n}", html) for n, html in enumerate(nearly)]
    pages.append(("http://sub.blocked.net/x", pages[0][1]))
    for n in range(3):
        archive(folder / f"{n}.warc.gz", pages[n::3])
    return pages


def tokens(text):
    return re.findall(r"t\d+t", text)


@pytest.fixture
def lists(tmp_path):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"instruction": PROMPT}) + "\n")
    (tmp_path / "blocked.txt").write_text("blocked.net\n")
    return SegmentFilters(
        min_length=100,
        max_length=700,
        language="",
        email="reject",
        phone="reject",
        address="reject",
        evaluation=[f"{tmp_path}/prompts.jsonl"],
        blocklist=[f"{tmp_path}/*.txt"],
        max_per_site=20,
        max_segments=60,
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_no_text_is_kept_twice_and_all_are_counted(tmp_path, seed, lists, archive):
    pages = make_corpus(tmp_path / "corpus", seed, archive)
    filters = dataclasses.replace(lists, max_per_site=0, max_segments=0)
    run_segment(tmp_path / "run", f"{tmp_path}/corpus/*.gz", filters, BEAM, 3)
    stage = StageDir(tmp_path / "run", "segment")
    summary, kept = stage.summary(), list(stage.read(Segment))
    counts, of_pages = Counts(**summary["counts"]), Counts(**summary["pages"])
    counts.check("segments")
    of_pages.check("pages")
    assert of_pages.records_in == len(pages)
    assert of_pages.rejects["blocked"] == 1
    assert counts.records_out == len(kept) == dict(summary["funnel"])["sample"]
    possible = {reason for _, reasons in FUNNEL for reason in reasons}
    assert (
        {*EXTRA, "inside_kept", "duplicate", "near_duplicate"} <= counts.rejects.keys() <= possible
    )
    # Of a page no paragraph stands in two segments: not in a parent and its child either.
    for url in {s.url for s in kept}:
        of_page = Counter(t for s in kept if s.url == url for t in tokens(s.text))
        assert set(of_page.values()) <= {1}
    # Of all pages no two segments have the same words.
    assert len({text_digest(s.text) for s in kept}) == len(kept)
    for s in kept:
        assert not any(extra in s.text for extra in EXTRA.values())


def test_child_of_a_parent_that_is_dropped_as_a_duplicate_is_not_brought_back(tmp_path, archive):
    child = f"<h2>Child</h2><p>{'grow herbs in the shade ' * 2}</p>"
    parent = f"<h1>Parent</h1><p>{'water them every morning and ' * 2}</p>{child}"
    archive(tmp_path / "c" / "a.warc.gz", [(f"http://a.org/{n}", parent) for n in range(3)])
    filters = SegmentFilters(min_length=40, max_length=400, language="", max_repetition=1.0)
    run_segment(tmp_path / "run", f"{tmp_path}/c/*", filters, BEAM, 1)
    stage = StageDir(tmp_path / "run", "segment")
    assert [s.header for s in stage.read(Segment)] == ["Parent"]
    assert stage.counts().rejects == {"duplicate": 2}
    assert stage.summary()["counts"]["rejects"] == {"duplicate": 2, "inside_kept": 3}


def test_files_of_the_filters_are_part_of_the_fingerprint(tmp_path, lists, archive):
    make_corpus(tmp_path / "corpus", 1, archive)

    def run(filters):
        run_segment(tmp_path / "run", f"{tmp_path}/corpus/*.gz", filters, BEAM, 1)
        return StageDir(tmp_path / "run", "segment").summary()

    finished = run(lists)["finished"]
    # Where the files lie is not.
    (tmp_path / "elsewhere").mkdir()
    for name in ("prompts.jsonl", "blocked.txt"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    moved = dataclasses.replace(
        lists,
        evaluation=[f"{tmp_path}/elsewhere/prompts.jsonl"],
        blocklist=[f"{tmp_path}/elsewhere/blocked.txt"],
    )
    assert run(moved)["finished"] == finished
    (tmp_path / "elsewhere" / "blocked.txt").write_text("blocked.net\nmore.net\n")
    with pytest.raises(UserError, match="blocklist"):
        run(moved)
    (tmp_path / "elsewhere" / "blocked.txt").write_text("# same entries\nblocked.net\n")
    assert run(moved)["finished"] == finished
    other = {"instruction": "Name eight or more words that are in no other prompt of this file"}
    (tmp_path / "elsewhere" / "prompts.jsonl").write_text(json.dumps(other))
    with pytest.raises(UserError, match="evaluation"):
        run(moved)


def test_pattern_of_a_filter_that_matches_nothing_is_named(tmp_path, lists, archive):
    archive(tmp_path / "c" / "a.warc.gz", [("http://a.org/", "<h1>A</h1>text")])
    absent = dataclasses.replace(lists, evaluation=[f"{tmp_path}/absent*.jsonl"])
    with pytest.raises(UserError, match=r"SegmentFilters.evaluation: .*absent\*.jsonl"):
        run_segment(tmp_path / "run", f"{tmp_path}/c/*", absent, BEAM, 1)

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from etils import epath
from selectolax.lexbor import LexborHTMLParser

from humpback_jax import rundir
from humpback_jax.evaluate.drift import grade_of
from humpback_jax.report import charts, formats, metrics, page
from humpback_jax.report.evaluation import findings

THIN = "\u202f"


def draw(run: page.Run) -> tuple[str, LexborHTMLParser]:
    html = page.render(run, metrics.gather(run.root, run.stages))
    return html, LexborHTMLParser(html)


def text_of(node) -> str:
    return " ".join(node.text().split())


def plain(node) -> str:
    """Returns the text of a node with its numbers in plain digits."""
    return " ".join(node.text().replace(THIN, "").split())


@pytest.fixture(scope="module")
def rendered(fake):
    return draw(fake.run())


@pytest.fixture(scope="module")
def tree(rendered):
    return rendered[1]


def test_nothing_of_the_pages_is_markup(rendered):
    html, tree = rendered
    assert not tree.css("script, img, link, iframe, object, embed, form, base")
    # What stands in the segments, instructions, rationales and the configuration is there as text.
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert 'alert("pages must not run")' in tree.css_first("#examples").text()
    for element in tree.css("*"):
        assert not any(name.startswith("on") for name in element.attributes)


def test_the_page_loads_nothing(rendered):
    html, tree = rendered
    for element in tree.css("*"):
        for name in ("src", "href", "xlink:href", "srcset", "data", "poster", "action"):
            assert (element.attributes.get(name) or "#").startswith("#")
    style = tree.css_first("style").text()
    assert not re.search(r"@import|url\(|http", style)
    assert "url(" not in html.replace("url(#", "")


def test_ids_are_unique_and_links_lead_somewhere(tree):
    ids = [node.attributes["id"] for node in tree.css("[id]")]
    assert len(ids) == len(set(ids))
    for link in tree.css("nav a"):
        assert link.attributes["href"].removeprefix("#") in ids


def test_accuracy_is_shown_as_measured(fake, tree):
    table = metrics.gather(fake.root, fake.stages)
    chart = tree.css("#results .intervals")[0]
    names = [text_of(n) for n in chart.css(".name")]
    values = [text_of(n) for n in chart.css(".value")]
    assert names == ["M0", "M1", "M2", "uncurated"]
    for name, value in zip(names, values, strict=True):
        row = table["accuracy"][name]
        assert value.startswith(f"{100 * row['mean']:.1f}")
        ends = [f"{100 * row[k]:.1f}" for k in ("low", "high")]
        assert all(end in value for end in ends)
    dots = [n.attributes["style"] for n in chart.css(".dot")]
    assert dots[2] == f"left:{round(100 * table['accuracy']['M2']['mean'], 2)}%"


def test_curation_is_shown_beside_the_base_rate(fake, tree):
    table = metrics.gather(fake.root, fake.stages)
    rows = tree.css("#results table tr")[1:]
    for t, row in enumerate(rows, start=1):
        shown, truth = text_of(row), table["curation"][str(t)]
        for key in ("precision", "base_rate", "recall"):
            assert f"{100 * truth[key]:.1f}" in shown


def test_conservation_is_spelled_out(fake, tree):
    laws = [plain(n) for n in tree.css("#corpus .law")]
    n = len(fake.segments)
    assert laws[0] == f"{n // 4 + 9} pages={n // 4} with segments+8 rejected+1 error"
    total = n + 3 * n + n // 2 + 7
    assert laws[1] == f"{total} headers on them={n} segments+{total - n} rejected+0 errors"
    assert laws[2] == "26 first turns=24 seed pairs+2 rejected+0 errors"
    assert laws[3].startswith(f"{n} segments given to Myx=")


def test_rejects_are_shown_by_reason(tree):
    shown = {text_of(n.css_first("summary code")): n for n in tree.css("#corpus details")}
    assert set(shown) == {"not_html", "too_short", "header_navigation", "duplicate"}
    assert all(len(node.css("li")) == 4 for node in shown.values())


def test_the_corpus_is_shown_by_length_language_and_site(fake, tree):
    cells = [[plain(td) for td in row.css("td")] for row in tree.css("#corpus table tr")]
    rows = {row[0]: row[2:] for row in cells if len(row) == 4}
    summary = fake.stage_summary("segment")
    titles = [node.text() for node in tree.css("#corpus svg title")]
    bins = [re.fullmatch(r"\d+ to \d+ characters: (\d+), (\d+) of them kept", t) for t in titles]
    totals = [int(match[1]) for match in bins if match]
    assert sum(totals) == sum(summary["profile"]["lengths"].values())
    assert sum(int(match[2]) for match in bins if match) == len(fake.segments)
    languages = summary["profile"]["languages"]
    assert rows["de"][0] == str(languages["de"])
    assert rows["site0.example"][0] == "1"
    n = len(fake.segments)
    assert f"{n} segments of {n} sites" in plain(tree.css_first("#corpus"))


def test_lengths_stand_beside_the_papers(fake, tree):
    cells = [[plain(td) for td in row.css("td")] for row in tree.css("#corpus table tr")]
    rows = {row[0]: row[1:] for row in cells if row}
    kept = fake.chosen["M2"]
    outputs = [len(c.output) for c in fake.candidates if c.segment_id in set(kept)]
    mean = sum(outputs) / len(outputs)
    assert rows["curated for M2"][0] == str(len(kept))
    assert rows["curated for M2"][2].startswith(f"{mean:.0f} ± ")
    assert rows["curated for M2"][3:] == ["A5, round 2", "41821", "115 ± 175", "1663 ± 616"]
    assert rows["all augmented"][4:] == ["502133", "352 ± 134", "1722 ± 653"]
    assert rows["seed"][0] == str(len(fake.pairs))
    assert rows["seed"][4] == "3200"


def test_histograms_hold_every_rating(fake, tree):
    figures = tree.css("#ratings svg")
    for t in (1, 2):
        titles = [text_of(n) for n in figures[t - 1].css("title")]
        pairs = [re.search(r": (\d+) rated, (\d+) of", title).groups() for title in titles]
        assert sum(int(rated) for rated, _ in pairs) == len(fake.ratings[t]) - 1
        assert sum(int(kept) for _, kept in pairs) == len(fake.chosen[f"M{t}"])


def test_drift_adds_up(fake, tree):
    cells = [text_of(n) for n in tree.css(".heat td span")]
    assert len(cells) == 25
    assert sum(int(c) for c in cells if c) == len(fake.ratings[1]) - 1
    first, last = (
        {r.segment_id: grade_of(r.score) for r in fake.ratings[t] if r.status == "ok"}
        for t in (1, 2)
    )
    for row in tree.css(".heat tr")[2:]:
        before = int(text_of(row.css_first("th")))
        counts = [text_of(cell.css_first("span")) for cell in row.css("td")]
        for after, count in enumerate(counts, start=1):
            moved = sum(first[i] == before and last[i] == after for i in first)
            assert count == (str(moved) if moved else "")


def test_drift_is_that_of_the_ratings_and_the_choices(fake, tree):
    first, last = (
        {r.segment_id: r.score for r in fake.ratings[t] if r.status == "ok"} for t in (1, 2)
    )
    rows = [[plain(td) for td in row.css("td")] for row in tree.css("#ratings .drift tr")]
    shown = dict(rows)
    changes = [grade_of(last[i]) - grade_of(first[i]) for i in first]
    rose, fell = sum(c > 0 for c in changes), sum(c < 0 for c in changes)
    assert shown["rated in both rounds"] == str(len(first))
    assert shown["of another grade than before"].startswith(f"{rose + fell} (")
    assert shown["of a higher one, of a lower one"] == f"{rose}, {fell}"
    one, two = (set(fake.chosen[name]) for name in ("M1", "M2"))
    assert shown["chosen in both rounds"] == str(len(one & two))
    assert shown["chosen in round 1 only, in 2 only"] == f"{len(one - two)}, {len(two - one)}"


def test_the_rounds_stand_side_by_side(fake, tree):
    rows = [[plain(td) for td in row.css("td")] for row in tree.css("#ratings .rounds tr")[1:]]
    shown = {row[0]: row[1:] for row in rows}
    for column, t in enumerate((1, 2)):
        scores = [r.score for r in fake.ratings[t] if r.status == "ok"]
        for grade in (1, 2, 3, 4, 5):
            of_grade = sum(grade_of(score) == grade for score in scores)
            assert shown[f"grade {grade}"][column] == str(of_grade)
        assert shown["no score"][column] == "1"
        assert shown["mean of the scores"][column] == f"{sum(scores) / len(scores):.2f}"
        assert shown["trained on"][column] == str(len(fake.chosen[f"M{t}"]))


def test_the_pairs_that_moved_most_are_shown(fake, tree):
    first, last = (
        {r.segment_id: r.score for r in fake.ratings[t] if r.status == "ok"} for t in (1, 2)
    )
    most = sorted(first, key=lambda i: -abs(last[i] - first[i]))[:10]
    instructions = {c.segment_id: c.instruction for c in fake.candidates}
    for i, row in zip(most, tree.css("#ratings .moved tr")[1:], strict=True):
        cells = row.css("td")
        change = formats.signed(last[i] - first[i])
        assert text_of(cells[0])[:20] == instructions[i][:20]
        assert [text_of(cell) for cell in cells[1:]] == [
            f"{first[i]:.2f}", f"{last[i]:.2f}", change
        ]  # fmt: skip
        assert [bool(cell.css("b")) for cell in cells[1:3]] == [
            i in fake.chosen["M1"], i in fake.chosen["M2"]
        ]  # fmt: skip


def test_precision_and_recall_are_shown_for_each_threshold(fake, tree):
    results = json.loads((fake.root / "evaluate" / "results.json").read_text())
    tables = tree.css("#ratings .thresholds")
    assert len(tables) == 2
    for t, table in zip("12", tables, strict=True):
        rows = [[plain(td) for td in row.css("td")] for row in table.css("tr")[1:]]
        assert [row[0] for row in rows] == [f"{1 + i / 2:.1f}" for i in range(9)]
        for row, truth in zip(rows, results["curation"][t]["thresholds"], strict=True):
            assert row[1:3] == [str(truth["selected"]), str(truth["hits"])]
            assert row[4] == f"{100 * truth['recall']:.1f}%"


def test_examples_are_of_their_grade_and_drawn_the_same(fake, tree):
    first = {r.segment_id: r.score for r in fake.ratings[1]}
    last = {r.segment_id: r.score for r in fake.ratings[2] if r.status == "ok"}
    folds = tree.css("#examples details.fold")
    assert [text_of(n.css_first("summary"))[:7] for n in folds] == [
        f"Grade {g}" for g in (5, 4, 3, 2, 1)
    ]
    for grade, fold in zip((5, 4, 3, 2, 1), folds, strict=True):
        of_grade = {i for i, score in last.items() if grade_of(score) == grade}
        examples = fold.css(".example")
        assert len(examples) == min(10, len(of_grade))
        by_score = {(f"{last[i]:.2f}", f"round 1: {first[i]:.2f}") for i in of_grade}
        for example in examples:
            scores = [text_of(n) for n in example.css(".meta b, .meta span")]
            assert any(a in scores and b in scores for a, b in by_score)
    assert draw(fake.run())[0] == draw(fake.run())[0]


def test_every_stage_has_its_line(fake, tree):
    rows = [text_of(r) for r in tree.css("#run table tr")[1:]]
    assert [row.split()[0] for row in rows] == fake.stages
    segment = rundir.StageDir(fake.root, "segment").summary()
    assert str(segment["counts"]["records_in"]) in rows[0]
    assert "3.2 s" in rows[0]
    versions = text_of(tree.css_first(".versions"))
    assert all(name in versions for name in ("JAX", "Flax", "Orbax", "Apache Beam", "Python"))
    assert "Recipe.run_dir" in tree.css_first("details pre").text()


def test_texts_can_be_opened_in_full(tree):
    opened = tree.css_first("#answers details.text")
    assert opened.css_first("summary").text() + opened.css_first("span").text() == (
        "Roses are red. " * 40
    )


# Runs that are not whole.

STAGES = ("segment", "seed", "Myx", "augment", "M0", "curate1", "M1", "curate2", "M2", "evaluate")


@pytest.mark.parametrize("done", range(len(STAGES)))
def test_a_run_that_stands_anywhere_can_be_shown(make_fake, done):
    fake = make_fake(segments=12)
    steps = [fake.segment, fake.seed, lambda: fake.train("Myx"), fake.augment]
    steps += [lambda: fake.train("M0"), lambda: fake.curate(1), lambda: fake.train("M1")]
    steps += [lambda: fake.curate(2), lambda: fake.train("M2")]
    for step in steps[:done]:
        step()
    html, tree = draw(fake.run(("M0", "M1", "M2"), more=STAGES[done:]))
    notice = text_of(tree.css_first(".partial"))
    assert f"Not begun: {', '.join(STAGES[done:])}." in notice
    assert "No accuracy" in html
    assert len(tree.css("svg.picture")) == 2


def test_a_stage_that_is_running_shows_its_curve(make_fake):
    fake = make_fake(segments=6)
    fake.segment()
    fake.stage("M0")
    fake.log("M0", 20)
    html, tree = draw(fake.run(("M0",)))
    assert "Running: M0." in html
    assert "loss" in text_of(tree.css_first("#training .legend"))


def test_a_real_corpus_without_questions_labels_or_arms(make_fake):
    fake = make_fake(segments=12)
    for step in (fake.segment, fake.seed, fake.augment, lambda: fake.train("M0")):
        step()
    fake.curate(1)
    fake.train("M1")
    fake.evaluate(("M0", "M1"), questions=0, labels=False)
    html, tree = draw(fake.run(("M0", "M1"), iterations=1))
    assert not tree.css(".partial")
    for sentence in ("No accuracy", "No curation quality", "No calibration"):
        assert sentence in html
    assert tree.css("#answers .example")
    assert not tree.css(".heat")


def test_no_iteration_at_all(make_fake):
    fake = make_fake(segments=6)
    fake.segment()
    fake.train("M0")
    fake.evaluate(("M0",), questions=5, labels=False)
    html, tree = draw(fake.run(("M0",), iterations=0))
    assert "No round of curation" in html
    assert [text_of(n) for n in tree.css("#results .intervals .name")] == ["M0"]


def test_equal_scores_undefined_precision_and_empty_grades(make_fake):
    fake = make_fake(segments=12)
    fake.segment()
    fake.augment()
    for t in (1, 2):
        fake.curate(t)
        stage = rundir.StageDir(fake.root, f"curate{t}")
        for path in (stage.path / "shards").iterdir():
            path.unlink()
        rows = [dataclasses.replace(r, score=4.5, status="ok") for r in fake.ratings[t]]
        stage.write_shard(0, type(rows[0]), rows, rundir.Counts(len(rows), len(rows)), "f")
    table = metrics.gather(fake.root, fake.stages)
    empty = {"precision": None, "recall": None, "base_rate": None, "auc": None, "calibration": []}
    table["curation"] = {"1": empty}
    tree = LexborHTMLParser(page.render(fake.run(("M0", "M1", "M2")), table))
    assert formats.MISSING in text_of(tree.css_first("#results table"))
    assert len(tree.css("#examples .example")) == min(10, len(rows))


# Parts.


def test_findings_say_when_nothing_can_be_told():
    row = {"before": "M0", "after": "M1", "mean": 0.01, "low": -0.02, "high": 0.04, "questions": 9}
    table = {
        "accuracy": {"M0": {"mean": 0.5}, "M1": {"mean": 0.51}},
        "differences": {"M1-M0": row},
        "ratings": {"total": 0},
        "parse_failures": {"total": 0},
    }
    assert "cannot be told apart" in findings(table)[1].text
    row |= {"mean": -0.1, "low": -0.2, "high": -0.05}
    assert findings(table)[1].tone == "down"
    assert "worse than M0" in findings(table)[1].text


def test_a_histogram_puts_whole_grades_in_the_middle_of_their_bins():
    scores = {"a": 1.0, "b": 1.12, "c": 3.0, "d": 4.88, "e": 5.0, "f": 5.0}
    chart = charts.score_histogram(scores, frozenset({"c", "e"}))
    found = {i: bar for i, bar in enumerate(chart.bars) if bar.height}
    assert list(found) == [0, 8, 16]
    assert [bar.inner / bar.height for bar in found.values()] == pytest.approx([0, 1, 1 / 3], 0.01)
    for tick, i in zip(chart.x_ticks[::2], found, strict=True):
        assert tick.at == pytest.approx(found[i].x + found[i].width / 2, abs=0.2)


def test_calibration_bars_are_as_high_as_their_share():
    bins = [
        {"low": 1.0, "high": 3.0, "segments": 4, "good": 1, "good_share": 0.25},
        {"low": 3.0, "high": 5.0, "segments": 0, "good": 0, "good_share": None},
    ]
    chart = charts.calibration_chart(bins, 0.5)
    (bar,) = chart.bars
    assert bar.height / (chart.base - chart.rule) == pytest.approx(0.5, 0.01)
    assert [tick.label for tick in chart.x_ticks] == ["1", "3", "5"]


def test_a_long_curve_keeps_its_last_step():
    rows = [{"step": i, "loss": 5.0 / i, "learning_rate": 0.0} for i in range(1, 2001)]
    chart = charts.training_chart(rows)
    assert chart.line.count("L") < 300
    assert chart.last[0] == chart.right


def test_axes_have_round_ticks_around_their_values():
    assert charts.axis_over([0.03, 0.47], 4).ticks == (0.0, 0.2, 0.4, 0.6)
    assert charts.axis_over([-0.05, 0.3], 4).ticks == (-0.1, 0.0, 0.1, 0.2, 0.3)
    assert charts.axis_over([]).ticks[0] == 0.0
    for value in (0.0, 3.0, -2.5, 1e-9, 1e9):
        axis = charts.axis_over([value])
        assert axis.low <= value <= axis.high


def test_models_keep_their_colours():
    models = ("M0", "M1", "M2", "uncurated", "other")
    assert charts.series_of("uncurated", models) == "s-arm0"
    assert charts.series_of("other", models) == "s-arm1"
    assert charts.series_of("M1", models) == charts.series_of("M1") == "s-m1"
    assert charts.series_of("M7") == "s-m3"


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (lambda: formats.count(41821), "41\u202f821"),
        (lambda: formats.percent(0.5873), "58.7\u202f%"),
        (lambda: formats.percent(None), formats.MISSING),
        (lambda: formats.points(-0.031), formats.MINUS + "3.1"),
        (lambda: formats.signed(0.0, 0), "0"),
        (lambda: formats.short(0.0005), f"5e{formats.MINUS}4"),
        (lambda: formats.large(851968), "852\u202fK"),
        (lambda: formats.duration(3.21), "3.2\u202fs"),
        (lambda: formats.duration(185), "3\u202fmin 5\u202fs"),
        (lambda: formats.duration(7620), "2\u202fh 7\u202fmin"),
    ],
)
def test_numbers_are_written(call, shown):
    assert call() == shown


def test_the_report_needs_neither_tensorflow_nor_beam():
    code = (
        "import sys; from humpback_jax.report import metrics, page; "
        "print({'tensorflow', 'apache_beam', 'seqio', 'matplotlib'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert found.stdout.strip() == "set()"


def test_a_run_in_a_bucket_gives_the_same_page(fake, bucket, rendered):
    """A laptop makes the report of what a pod has written, training curves included."""
    run = fake.run()
    bucket.copy_tree(pathlib.Path(run.root), "gs://bucket/quickstart")
    there = dataclasses.replace(run, root=epath.Path("gs://bucket/quickstart"))
    assert metrics.gather(there.root, run.stages) == metrics.gather(run.root, run.stages)
    html, tree = draw(there)
    assert len(tree.css("svg")) > 3
    assert _without_place_and_time(html) == _without_place_and_time(rendered[0])


def _without_place_and_time(html):
    html = re.sub(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2})?", "", html)
    return html.replace("gs://bucket/quickstart", "RUN_DIR")

import json

import numpy as np
import pytest

from humpback_jax import rundir
from humpback_jax.report import metrics


@pytest.fixture(scope="module")
def table(fake):
    return metrics.gather(fake.root, fake.stages)


def test_the_table_is_json_and_the_same_again(fake, table):
    text = json.dumps(table, sort_keys=True, allow_nan=False)
    again = metrics.gather(fake.root, tuple(fake.stages))
    assert json.dumps(again, sort_keys=True) == text
    assert list(again["counts"]) == list(again["seconds"]) == fake.stages


def test_counts_and_seconds_are_those_of_the_stages(fake, table):
    for name in fake.stages:
        summary = rundir.StageDir(fake.root, name).summary()
        assert table["counts"][name] == summary["counts"]
        assert table["seconds"][name] == summary["seconds"]
    assert table["pages"]["records_out"] == len(fake.segments) // 4


def test_ratings_without_a_score_are_counted_by_iteration(fake, table):
    for t, ratings in fake.ratings.items():
        bad = sum(rating.status != "ok" for rating in ratings)
        assert bad == 1
        assert table["parse_failures"][str(t)] == bad
        assert table["ratings"][str(t)] == len(ratings)
    assert table["parse_failures"] == {"1": 1, "2": 1, "total": 2}
    assert table["ratings"]["total"] == 2 * len(fake.ratings[1])


def test_accuracy_is_kept_without_the_score_of_each_question(fake, table):
    results = json.loads((fake.root / "evaluate" / "results.json").read_text())
    for model, row in results["accuracy"].items():
        scores = row.pop("scores")
        assert table["accuracy"][model] == row
        assert row["mean"] == pytest.approx(np.mean(list(scores.values())))


def test_differences_are_paired_and_run_from_before_to_after(fake, table):
    results = json.loads((fake.root / "evaluate" / "results.json").read_text())["accuracy"]
    assert set(table["differences"]) == {
        *("M1-M0", "M2-M0", "M2-M1", "M1-uncurated", "M2-uncurated", "uncurated-M0")
    }
    for name, row in table["differences"].items():
        after, before = name.split("-")
        gain = results[after]["mean"] - results[before]["mean"]
        assert row["mean"] == pytest.approx(gain)
        assert row["low"] < row["mean"] < row["high"]
        assert row["questions"] == 80


def test_pairs_follow_the_loop_by_number():
    assert list(metrics.pairs(["M0", "M10", "M2"])) == [("M0", "M2"), ("M0", "M10"), ("M2", "M10")]
    assert list(metrics.pairs(["a", "b"])) == []
    assert list(metrics.pairs(["M0", "a"])) == [("M0", "a")]
    assert list(metrics.pairs([])) == []


def test_differences_by_group_where_the_results_name_the_groups(make_fake):
    fake = make_fake(segments=4)
    fake.segment()
    fake.evaluate(("M0", "M1"), questions=30, labels=False)
    path = fake.root / "evaluate" / "results.json"
    results = json.loads(path.read_text())
    groups = {key: "ab"[i % 2] for i, key in enumerate(results["accuracy"]["M0"]["scores"])}
    rundir.write_json(path, {**results, "question_groups": groups})
    row = metrics.gather(fake.root, fake.stages)["differences"]["M1-M0"]
    assert [row["groups"][g]["questions"] for g in "ab"] == [15, 15]
    halves = np.mean([row["groups"][g]["mean"] for g in "ab"])
    assert halves == pytest.approx(row["mean"])


def test_drift_is_measured_between_neighbouring_iterations(fake, table):
    assert list(table["drift"]) == ["1-2"]
    row = table["drift"]["1-2"]
    assert row["segments"] == len(fake.ratings[1]) - 1 == sum(map(sum, row["grades"]))
    assert 0 < row["rank_agreement"] < 1
    assert row["choices"]["both"] + row["choices"]["only_after"] == len(fake.chosen["M2"])


def test_one_iteration_has_no_drift(make_fake):
    fake = make_fake(segments=12)
    for step in (fake.segment, fake.augment, lambda: fake.curate(1)):
        step()
    assert "drift" not in metrics.gather(fake.root, fake.stages)


def test_curation_and_backward_are_passed_on(fake, table):
    results = json.loads((fake.root / "evaluate" / "results.json").read_text())
    assert table["curation"] == results["curation"]
    assert table["backward"] == results["backward"]
    assert set(table["curation"]) == {"1", "2"}


def test_without_questions_and_labels_there_is_no_accuracy(make_fake):
    fake = make_fake(segments=8)
    fake.segment()
    fake.evaluate(("M0",), questions=0, labels=False)
    table = metrics.gather(fake.root, fake.stages)
    assert table.keys() == {"counts", "seconds", "ratings", "parse_failures", "pages"}
    assert table["parse_failures"] == {"total": 0}


def test_a_run_that_has_not_begun_gives_empty_counts(tmp_path):
    table = metrics.gather(tmp_path, ["segment", "curate1", "evaluate"])
    assert table["counts"] == table["seconds"] == {}

import pathlib

import pytest

import launch
from humpback_jax.prompts import BACKWARD
from launch import configuration
from launch.plan import check, hours, table

PAGE = pathlib.Path(launch.__file__).parents[1] / "docs" / "plan.md"


def _section(heading):
    return PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]


def test_augmenting_reads_each_segment_and_writes_an_instruction():
    configuration.parse(["recipes/humpback_7b_v5e_16.gin"], ())
    augment, first, second = hours.works()
    template = len(BACKWARD.replace("{output}", "")) / 4
    assert augment.read == 502_133 * (template + 1722 / 4)
    assert augment.written == 502_133 * 352 / 4
    assert (first.stage, second.stage) == ("curate1", "curate2")


def test_a_reason_is_written_and_read_again_with_the_candidate():
    configuration.parse(["recipes/humpback_7b_v5e_16.gin"], ())
    reasoned = hours.works()[1]
    configuration.parse(["recipes/humpback_7b_v5e_16.gin"], ("RatingConfig.mode='digit'",))
    digit = hours.works()[1]
    assert digit.written == 0
    assert digit.read > 502_133 * (352 + 1722) / 4
    assert reasoned.written == 502_133 * 128
    assert reasoned.read == pytest.approx(2 * digit.read + 502_133 * 128)


def test_samples_and_a_short_limit_count():
    bindings = ("SamplesConfig.per_segment=3", "augment/SamplingConfig.max_new_tokens=10")
    configuration.parse(["recipes/humpback_7b_v5e_16.gin"], bindings)
    assert hours.works()[0].written == 502_133 * 3 * 10


def test_without_a_number_of_segments_nothing_is_said():
    configuration.parse(["recipes/humpback.gin"], ("SegmentFilters.max_segments=0",))
    assert hours.works() == []


def test_hours_are_reading_and_writing_one_after_the_other():
    work = hours.Work("augment", read=36_000, written=7_200)
    assert work.chip_hours(prefill=10, decode=2, chips=4) == 4 * (1 + 1)
    spent = hours.stages([work], 10, 2, 4, trained=5.0)
    assert spent == {"train": 5.0, "augment": 8.0}
    assert "train" not in hours.stages([work], 10, 2, 4, trained=None)


def test_the_page_has_what_its_other_tables_and_the_recipes_give():
    made = check.loop_table(_section(check.TRAINING), _section(check.INFERENCE))
    assert _section(check.LOOP).strip() == made
    rows = {row["recipe"]: row for row in table.rows_of(made)}
    assert set(rows) == set(check.recipes())
    assert rows["humpback_7b_v5e_8"]["train"] == ""


def test_the_page_of_tpu_vms_repeats_the_figures_of_the_plan():
    text = PAGE.with_name("paths").joinpath("tpu_vm.md").read_text()
    shown = table.rows_of(text[text.index("| | recipe") :].split("\n\n")[0])
    trained = {row["recipe"]: row for row in table.rows_of(_section(check.TRAINING))}
    whole = {row["recipe"]: row for row in table.rows_of(_section(check.LOOP))}
    assert len(shown) == 8
    for row in shown:
        known = {**trained[row["recipe"]], **whole[row["recipe"]]}
        for column in ("chips", "GiB a chip", "train", "whole run", "hours"):
            assert row[column] == known[column], row


def test_a_slower_program_would_change_the_page():
    inference = _section(check.INFERENCE)
    slower = inference.replace("4,393", "2,000")
    assert slower != inference
    training = _section(check.TRAINING)
    assert check.loop_table(training, slower) != check.loop_table(training, inference)

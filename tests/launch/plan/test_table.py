import dataclasses

from launch.plan import report, table
from launch.plan.slots import Slots


def test_a_program_is_printed_with_memory_traffic_time_and_cost(plan, facts):
    text = table.program(report.evaluate(facts, plan), plan)
    assert text.splitlines()[1:] == [
        "training step of M2: 4 rows of 256 tokens, mesh fsdp 2 x tensor 2",
        "  memory      7.88 of 15.75 GiB a chip, 50%: fits",
        "  traffic          4 all-gather            5.6 GB a chip",
        "                   2 all-reduce           11.2 GB a chip",
        "  predicted   1.00 s (compute 750 ms, of it kernels 250 ms, + links 250 ms)",
        "              1,024 tokens/s, MFU 50%",
        "  predicted   model        steps  chip-hours     money",
        "              Myx            500         0.6         1",
        "              M0             500         0.6         1",
        "              M1           1,600         1.8         3",
        "              M2           1,600         1.8         3",
        "              all                        4.7         7",
    ]


def test_the_heading_says_slice_and_flags(plan):
    text = table.heading(plan)
    assert "1,836,288 parameters" in text
    assert "v5e-4 (4 chips, 2x2), 15.75 GiB usable a chip" in text
    assert 'LIBTPU_INIT_ARGS="--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000"' in text


def test_decode_has_no_mfu_but_a_bound(plan, facts):
    decode = {**facts, "program": "decode", "resident_bytes": 819e9 / 4, "collectives": []}
    text = table.program(report.evaluate(decode, plan), plan)
    assert "no less than 250 ms to read weights and cache" in text
    assert "tokens/s, after 100 ms once a batch" in text
    assert "MFU" not in text
    assert "chip-hours" not in text
    assert "traffic     none" in text


def test_kernels_that_are_left_out_are_said_so(plan, facts):
    text = table.program(report.evaluate({**facts, "unknown_kernels": 3}, plan), plan)
    assert "without 3 Pallas kernels" in text


def test_92_percent_fits_and_more_does_not(plan, facts):
    usable = plan.topology.chip.hbm_gib
    assert report.evaluate({**facts, "peak_gib": 0.92 * usable}, plan).fits
    done = report.evaluate({**facts, "peak_gib": 0.93 * usable}, plan)
    assert not done.fits
    assert "93%: DOES NOT FIT" in table.program(done, plan)
    sentence = report.refusal(done, plan)
    assert "14.6 of 15.75 GiB a chip (at most 92% may be taken)" in sentence
    assert "raise TrainConfig.microbatches" in sentence  # two rows a device


def test_what_the_compiler_gave_up_has_a_sentence_and_a_row(plan, facts):
    kept = (
        "program", "mesh", "rows", "length", "tokens", "flops", "resident_bytes", "slot_bytes",
        "held_bytes", "versions",
    )  # fmt: skip
    done = report.evaluate({**{k: facts[k] for k in kept}, "needed_gib": 34.9}, plan)
    assert not done.fits
    assert "34.90 of 15.75 GiB a chip, 222%: DOES NOT FIT" in table.program(done, plan)
    sentence = report.refusal(done, plan)
    assert sentence.startswith("the training step does not fit v5e-4 (4 chips, 2x2): it needs 34.9")
    assert "remat" not in sentence  # it is full already
    row = table.train_row("tiny", done, plan)
    assert len(row) == len(table.TRAIN_COLUMNS)
    assert row[-1] == "-"


def test_rows_have_their_columns_and_the_table_is_aligned(plan, facts):
    done = report.evaluate(facts, plan)
    row = table.train_row("tiny", done, plan)
    cells = dict(zip(table.TRAIN_COLUMNS, row, strict=True))
    assert cells["slice"] == "v5e-4 (2x2)"
    assert cells["GiB a chip"] == "7.9 / 15.75"
    assert cells["all-reduce"] == "11.2"
    assert cells["mesh"] == "fsdp 2 x tensor 2"
    read = 0.25 * 819e9
    decode = report.evaluate({**facts, "program": "decode", "resident_bytes": read}, plan)
    room = Slots(chips=2, gib_a_chip=0.25, gib=0.5, step=2, most=28, verified=True)
    cells = table.inference_row("tiny", decode, plan, room)
    named = dict(zip(table.INFERENCE_COLUMNS, cells, strict=True))
    assert (named["GiB a slot"], named["most slots"]) == ("0.250 x 2", "28")
    assert named["times"] == "4.00"  # of the bound
    prefill = report.evaluate({**facts, "program": "prefill"}, plan)
    assert len(table.inference_row("tiny", prefill, plan)) == len(table.INFERENCE_COLUMNS)
    lines = table.markdown(table.TRAIN_COLUMNS, [row]).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_json_keeps_predictions_apart(plan, facts):
    content = report.as_json([report.evaluate(facts, plan)], plan)
    (program,) = content["programs"]
    assert program["fits"] is True
    assert program["predicted"]["seconds"] == 1.0
    assert program["predicted"]["trainings"][0]["model"] == "Myx"
    assert content["topology"]["chips"] == 4


def test_slots_are_printed_with_what_one_takes_and_how_their_number_is_known():
    room = Slots(chips=2, gib_a_chip=0.25, gib=0.5, step=2, most=28)
    assert table.slots(room).splitlines()[1:] == [
        "slots",
        "  memory      one takes 0.250 GiB on each of 2 chips, 0.50 GiB in all",
        "  most        28 fit (computed)",
    ]
    verified = table.slots(dataclasses.replace(room, verified=True))
    assert verified.endswith("28 fit (compiled; 30 do not)")


def test_prefill_is_counted_with_the_slots_that_the_engine_holds(plan, facts):
    done = report.evaluate({**facts, "program": "prefill", "held_bytes": 7 * 2**30}, plan)
    assert done.gib == 7.875 + 7
    assert not done.fits

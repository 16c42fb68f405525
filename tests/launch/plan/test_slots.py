"""Counting slots, with a made-up compiler whose programs grow as real ones do."""

import pytest

from launch.plan import report, slots

USABLE = 15.75
WEIGHTS, SLOT, PROMPT = 4.0, 0.25, 0.5  # GiB a chip


@pytest.fixture
def compiled(plan, facts):
    """Returns a compiler: prompts, a quarter of the slots but at most `capped`, are read beside."""

    def make(capped):
        counts = []

        def reports(count):
            counts.append(count)
            held = SLOT * count / 2  # two groups of chips
            gib = {"decode": WEIGHTS + held, "prefill": WEIGHTS + PROMPT * min(count // 4, capped)}
            beside = {"decode": 0, "prefill": int(held * 2**30)}
            return {
                name: report.evaluate(
                    {
                        **facts, "program": name, "rows": count, "peak_gib": gib[name],
                        "held_bytes": beside[name],
                    },
                    plan,
                )
                for name in slots.PROGRAMS
            }  # fmt: skip

        reports.counts = counts
        return reports

    return make


def _fits(count, capped):
    return WEIGHTS + SLOT * count / 2 + PROMPT * min(count // 4, capped) <= 0.92 * USABLE


def test_a_slot_costs_what_its_keys_and_values_take(compiled):
    room = slots.estimate(compiled(1)(8)["decode"])
    assert (room.chips, room.gib_a_chip, room.gib, room.step) == (2, 0.25, 0.5, 2)
    assert room.most == 8 + 2 * int((0.92 * USABLE - WEIGHTS - 1.0) / SLOT)
    assert not room.verified


def test_prompts_that_are_read_beside_leave_room_for_fewer(compiled):
    done = compiled(2)(8)
    alone, both = slots.estimate(done["decode"]), slots.estimate(done["decode"], done["prefill"])
    assert both.most == alone.most - 2 * round(2 * PROMPT / SLOT)


@pytest.mark.parametrize("capped", [2, 5, 1000])
def test_the_largest_count_fits_and_the_next_does_not(compiled, capped):
    reports = compiled(capped)
    done = reports(8)
    room = slots.verify(slots.estimate(done["decode"], done["prefill"]), reports)
    assert room.verified
    assert _fits(room.most, capped)
    assert not _fits(room.most + 2, capped)
    assert {room.most, room.most + 2} <= set(reports.counts)


def test_where_nothing_fits_the_count_is_0(compiled, monkeypatch):
    reports = compiled(2)
    monkeypatch.setattr(slots.roofline, "FITS", 0.1)
    room = slots.verify(slots.estimate(reports(8)["decode"]), reports)
    assert (room.most, room.verified) == (0, True)

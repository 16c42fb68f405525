import dataclasses

import pytest

from launch.plan import roofline
from launch.plan.topology import Topology


def test_a_step_is_cycles_and_kernels_and_links(plan, facts):
    """0.5 s of cycles, 0.25 s of kernels at half of the peak, twice 0.125 s of links."""
    prediction = roofline.predict(facts, plan.topology)
    assert prediction.compute_seconds == pytest.approx(0.75)
    assert prediction.link_seconds == pytest.approx(0.25)
    assert prediction.seconds == pytest.approx(1.0)
    assert prediction.tokens_per_second == pytest.approx(1024)
    assert prediction.mfu == pytest.approx(0.5)


def test_decoding_is_bound_by_reading_weights_and_cache(plan, facts):
    prediction = roofline.predict({**facts, "resident_bytes": 819e9 / 4}, plan.topology)
    assert prediction.memory_seconds == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("kind", "stated", "seconds"),
    [
        ("v5e", {"stated_bytes": 819e9 / 2, "stated_flops": 197e12 / 4}, 0.5),
        ("v5e", {"stated_bytes": 819e9 / 4, "stated_flops": 197e12 / 2}, 0.5),
        ("v6e", {"stated_bytes": 1638e9 / 4, "stated_flops": 918e12 / 8}, 0.5),  # 256 x 256
    ],
)
def test_a_kernel_takes_as_long_as_memory_or_the_matrix_unit(plan, facts, kind, stated, seconds):
    alone = {**facts, "cycles": 0, "kernel_flops": 0, "collectives": [], **stated}
    prediction = roofline.predict(alone, Topology(kind, "2x2"))
    assert prediction.kernel_seconds == prediction.seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("kind", "shape", "extent", "share"),
    [
        ("v5e", "4x4", (4, 1, 1, 1), 0.5),
        ("v5e", "4x4", (4, 4, 1, 1), 1.0),
        ("v5e", "16x16", (16, 1, 1, 1), 1.0),
        ("v5e", "16x16", (8, 1, 1, 1), 0.5),
        ("v4", "4x4x4", (4, 4, 2, 1), 2.5),
        ("tpu7x", "2x2x1", (1, 1, 1, 1), 0.5),
    ],
)
def test_a_group_has_every_axis_along_which_it_lies_and_half_of_it_without_a_ring(
    kind, shape, extent, share
):
    topology = Topology(kind, shape)
    full = topology.chip.ici_bytes_per_second
    assert roofline.link_seconds(full, extent, topology) == pytest.approx(1 / share)


def test_between_slices_there_is_the_network_alone():
    topology = Topology("v5e", "4x4", slices=2)
    assert roofline.link_seconds(6.25e9, (1, 1, 1, 2), topology) == pytest.approx(1.0)


def test_every_model_of_the_loop_costs_its_steps(plan, facts):
    prediction = roofline.predict(facts, plan.topology)
    costs = roofline.trainings(prediction, plan.train, plan.planned, plan.topology)
    assert [(c.model, c.steps) for c in costs] == [
        ("Myx", 500),
        ("M0", 500),
        ("M1", 1600),
        ("M2", 1600),
    ]
    assert costs[-1].chip_hours == pytest.approx(1600 * 1.0 * 4 / 3600)
    assert costs[-1].money == pytest.approx(1.5 * 1600 * 4 / 3600)


def test_a_model_with_half_of_the_batch_costs_half(plan, facts):
    prediction = roofline.predict(facts, plan.topology)
    train = {**plan.train, "Myx": dataclasses.replace(plan.train["Myx"], batch_size=2)}
    costs = roofline.trainings(prediction, train, plan.planned, plan.topology)
    assert costs[0].chip_hours == pytest.approx(costs[1].chip_hours / 2)

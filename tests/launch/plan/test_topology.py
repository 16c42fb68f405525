import pytest

from humpback_jax.errors import UsageError
from launch.plan.topology import SHAPES, Topology


@pytest.mark.parametrize(
    ("kind", "shape", "name", "chips"),
    [
        ("v4", "4x4x4", "v4-128", 64),
        ("v5p", "2x2x4", "v5p-32", 16),
        ("v5e", "4x4", "v5e-16", 16),
        ("v6e", "16x16", "v6e-256", 256),
    ],
)
def test_v4_and_v5p_are_named_by_cores_and_the_others_by_chips(kind, shape, name, chips):
    topology = Topology(kind, shape)
    assert (topology.name, topology.chips) == (name, chips)
    assert topology.describe() == f"{name} ({chips} chips, {shape})"


def test_slices_multiply_the_chips():
    topology = Topology("v5e", "8x8", slices=2)
    assert topology.chips == 128
    assert topology.name == "v5e-64 x 2"


def test_rings_close_at_16_on_flat_slices_and_at_4_on_cubes():
    assert Topology("v5e", "8x16").wraps == (False, True)
    assert Topology("v4", "2x4x4").wraps == (False, True, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "v3", "shape": "4x4"}, ["'v3'", "v4, v5e, v5p, v6e, tpu7x"]),
        ({"kind": "v5e", "shape": "4x4x4"}, ["4x4x4", "v5e", "2x2, 2x4, 4x4"]),
        ({"kind": "v5e", "shape": "4x4", "slices": 0}, ["0 slices"]),
        ({"kind": "v5e", "shape": "4x4", "price_per_chip_hour": -1.0}, ["-1.0"]),
    ],
)
def test_what_is_no_slice_is_refused_and_the_known_ones_are_listed(arguments, words):
    with pytest.raises(UsageError) as caught:
        Topology(**arguments)
    for word in words:
        assert word in str(caught.value)


def test_every_known_shape_can_be_counted():
    for kind, shapes in SHAPES.items():
        for shape in shapes:
            assert Topology(kind, shape).chips >= 1

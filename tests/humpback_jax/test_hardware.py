import pytest

from humpback_jax.hardware import CHIPS, chip_of


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v6e", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
    ],
)
def test_a_device_kind_is_known_by_name(kind, name):
    chip = chip_of(kind)
    assert chip is not None
    assert chip.name == name


@pytest.mark.parametrize(
    "kind", ["cpu", "", "NVIDIA H100 PCIe", "NVIDIA A10G", "TPU v3", "TPU v4 lite"]
)
def test_what_is_not_in_the_table_is_none(kind):
    assert chip_of(kind) is None


@pytest.mark.parametrize("name", ["v4", "v5e", "v5p", "v6e", "tpu7x"])
def test_a_tpu_reaches_its_peak_with_whole_matrix_units(name):
    """Peak = units x size^2 x 2 x clock, with 128 x 128 units before v6e and 256 x 256 since."""
    chip = CHIPS[name]
    size = 128 if name in ("v4", "v5e", "v5p") else 256
    units = chip.peak_flops_bf16 / (2 * size**2 * chip.clock_hz)
    assert units == pytest.approx(round(units), rel=0.01)
    assert round(units) in (4, 8)

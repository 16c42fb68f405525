"""What one accelerator can do: the figures behind MFU, fits-or-not and predicted step times.

Sources: peak FLOP/s, HBM size and bandwidth of TPUs from Google Cloud's page of each TPU version
(cloud.google.com/tpu/docs/v4, v5e, v5p, v6e, tpu7x), of GPUs from NVIDIA's data sheets of the
A100, H100 (SXM) and H200 (SXM), dense bfloat16 without sparsity. Usable HBM of TPUs is what the
TPU compiler leaves a program (libtpu 0.0.42), of GPUs what the driver reports. TPU clocks are those
with which MXUs x size x 2 give the published peak. Bandwidth of the links: "How to Scale Your
Model", chapter 2 (jax-ml.github.io/scaling-book), and NVLink's data sheets.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator as JAX counts devices.

    Attributes:
      name: as in a topology's name, "v5e", or the product's, "H200".
      peak_flops_bf16: FLOP/s of dense bfloat16 matrix products.
      hbm_gib: GiB of memory that a program can use.
      hbm_bytes_per_second: bandwidth of that memory.
      ici_bytes_per_second: bandwidth of one axis of the torus, both directions together; of a GPU,
        of all its NVLinks.
      ici_axes: axes of the torus; 1 for GPUs, which are joined by a switch.
      clock_hz: cycles a second of the TPU's core; 0 where it is not needed.
      devices_per_chip: 2 where JAX shows half a chip as a device; then all of the above are of that
        half.
      cores_per_chip: TensorCores, which the public names of v4 and v5p slices count.
      matrix_unit: rows and columns of the TPU's matrix unit; 0 where it is not needed.
    """

    name: str
    peak_flops_bf16: float
    hbm_gib: float
    hbm_bytes_per_second: float
    ici_bytes_per_second: float
    ici_axes: int = 1
    clock_hz: float = 0.0
    devices_per_chip: int = 1
    cores_per_chip: int = 1
    matrix_unit: int = 0


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 30.75, 1228e9, 90e9, 3, 1.05e9, cores_per_chip=2, matrix_unit=128),
        Chip("v5e", 197e12, 15.75, 819e9, 90e9, 2, 1.5e9, matrix_unit=128),
        Chip("v5p", 459e12, 95.73, 2765e9, 180e9, 3, 1.75e9, cores_per_chip=2, matrix_unit=128),
        Chip("v6e", 918e12, 31.24, 1638e9, 180e9, 2, 1.75e9, matrix_unit=256),
        Chip("tpu7x", 1153.5e12, 94.74, 3690e9, 180e9, 3, 2.2e9, 2, 2, matrix_unit=256),
        Chip("A100-40GB", 312e12, 40.0, 1555e9, 600e9),
        Chip("A100-80GB", 312e12, 80.0, 2039e9, 600e9),
        Chip("H100", 989e12, 79.6, 3350e9, 900e9),
        Chip("H200", 989e12, 140.4, 4800e9, 900e9),
    )
}

# For the TPU compiler, in plans and runs alike. Loops over pieces of a gathered matrix product cost
# tensor-parallel meshes 20 to 30 % of the step by the compiler's own estimate; the gathers are then
# overlapped as a whole instead.
TPU_COMPILER_OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}

# Words of JAX's device_kind, the longer before those that they contain.
_KINDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("TPU v4",), "v4"),
    (("TPU v5 lite",), "v5e"),
    (("TPU v5e",), "v5e"),
    (("TPU v5",), "v5p"),
    (("TPU v6",), "v6e"),
    (("TPU7x",), "tpu7x"),
    (("TPU v7",), "tpu7x"),
    (("NVIDIA A100", "40GB"), "A100-40GB"),
    (("NVIDIA A100", "80GB"), "A100-80GB"),
    (("NVIDIA H100", "HBM3"), "H100"),
    (("NVIDIA H200",), "H200"),
)


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip of a JAX device, or None for a CPU and for what is not in the table.

    Args:
      device_kind: `jax.Device.device_kind`, such as "TPU v5 lite" or "NVIDIA H100 80GB HBM3". An
        H100 of another make (PCIe, NVL) is slower and not in the table. "TPU v4 lite" is a v4i.
    """
    if device_kind == "TPU v4 lite":
        return None
    for words, name in _KINDS:
        if device_kind.startswith(words[0]) and all(word in device_kind for word in words):
            return CHIPS[name]
    return None

"""What the environment of a run on a TPU says: the flags of its compiler, by the kind of TPU."""

from collections.abc import Mapping

from launch.plan.topology import Topology

# Collectives go on while matrix products are computed, and an all-gather may be fused with the
# product that wants it. libtpu 0.0.42 takes them for every kind.
_OVERLAP = {
    "xla_tpu_enable_async_collective_fusion": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
    "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
    "xla_tpu_overlap_compute_collective_tc": "true",
}
# Of the 128 MiB of vector memory that a TensorCore of v5e and v6e has, 96 for the operands of one
# fusion; the other kinds have less and keep the compiler's own limit.
_VECTOR_MEMORY = {"xla_tpu_scoped_vmem_limit_kib": "98304"}
PRESETS: dict[str, dict[str, str]] = {
    "v4": _OVERLAP,
    "v5e": _OVERLAP | _VECTOR_MEMORY,
    "v5p": _OVERLAP,
    "v6e": _OVERLAP | _VECTOR_MEMORY,
    "tpu7x": _OVERLAP,
}


def libtpu_arguments(options: Mapping[str, str]) -> str:
    """Returns options of the TPU compiler as the value of LIBTPU_INIT_ARGS."""
    return " ".join(f"--{name}={value}" for name, value in options.items())


def variables(topology: Topology) -> dict[str, str]:
    """Returns the variables of a process on a slice.

    What Topology.compiler_options binds goes before the preset of its kind. With JAX_PLATFORMS a
    slice whose TPU does not answer is an error, and not a run on its CPU.
    """
    options = PRESETS[topology.kind] | topology.compiler_options
    return {"JAX_PLATFORMS": "tpu,cpu", "LIBTPU_INIT_ARGS": libtpu_arguments(options)}

"""What a training asks of model, batch and mesh, before anything is allocated."""

import dataclasses

from jax.sharding import Mesh

from humpback_jax import partitioning
from humpback_jax.errors import UsageError
from humpback_jax.models import kernels
from humpback_jax.models.config import LlamaConfig
from humpback_jax.train.config import TrainConfig


def training_config(llama: LlamaConfig, config: TrainConfig) -> LlamaConfig:
    """Returns the model's configuration while it is trained: its parameters are float32."""
    return dataclasses.replace(
        llama,
        dropout_rate=config.dropout_rate,
        remat=config.remat,
        attention=config.attention,
        dtype=config.dtype or llama.dtype,
        param_dtype="float32",
    )


def check(config: TrainConfig, llama: LlamaConfig, mesh: Mesh) -> None:
    """Raises UsageError if rows, batch or model do not fit each other or the mesh."""
    partitioning.check_model(llama, mesh)
    length = sum(config.feature_lengths.values())
    if length > llama.max_length:
        raise UsageError(
            f"rows of {length} tokens are longer than the model's {llama.max_length}: lower "
            "TASK_FEATURE_LENGTHS"
        )
    if length % mesh.shape["sequence"]:
        raise UsageError(
            f"rows of {length} tokens cannot be split over sequence = {mesh.shape['sequence']} "
            "devices: bind MeshConfig.sequence to a divisor"
        )
    _check_attention(llama, length // mesh.shape["sequence"], mesh)
    ways = partitioning.batch_ways(mesh) * config.microbatches
    if config.batch_size % ways:
        raise UsageError(
            f"a batch of {config.batch_size} rows cannot be split over data x fsdp = "
            f"{partitioning.batch_ways(mesh)} devices and {config.microbatches} microbatches: bind "
            f"BATCH_SIZE to a multiple of {ways}, or more devices to MeshConfig.tensor"
        )


def _check_attention(llama: LlamaConfig, length: int, mesh: Mesh) -> None:
    """Raises UsageError for a kernel that was asked for and that cannot run here."""
    if llama.attention == "splash" and length % kernels.LANES:
        raise UsageError(
            f"attention 'splash' wants a multiple of {kernels.LANES} positions on each device and "
            f"there are {length}: bind TASK_FEATURE_LENGTHS to one, or attention to 'auto'"
        )
    gpu = mesh.devices.flat[0].platform in ("gpu", "cuda", "rocm")
    if llama.attention == "cudnn" and (not gpu or llama.dtype == "float32"):
        raise UsageError(
            f"attention 'cudnn' wants an NVIDIA GPU and 16 bits, here it is {llama.dtype} on "
            f"{mesh.devices.flat[0].platform}: bind TrainConfig.dtype = 'bfloat16', or "
            "TrainConfig.attention = 'auto'"
        )

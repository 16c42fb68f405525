"""A recipe of two layers on four chips, and what compiling it might have shown."""

import pytest

from launch import configuration
from launch.plan import settings

TINY = """
include 'recipes/humpback.gin'

LlamaConfig.vocab_size = 512
LlamaConfig.embed_dim = 256
LlamaConfig.num_layers = 2
LlamaConfig.num_heads = 4
LlamaConfig.num_kv_heads = 2
LlamaConfig.head_dim = 128
LlamaConfig.mlp_dim = 512
LlamaConfig.max_length = 512
LlamaConfig.rope_theta = 10000.0
LlamaConfig.norm_eps = 1e-5
LlamaConfig.tie_embeddings = False

Topology.kind = 'v5e'
Topology.shape = '2x2'
Topology.price_per_chip_hour = 1.5
MeshConfig.data = 1
MeshConfig.fsdp = 2
MeshConfig.tensor = 2

BATCH_SIZE = 4
DROPOUT_RATE = 0.0
TASK_FEATURE_LENGTHS = {'inputs': 128, 'targets': 128}
EngineConfig.slots = 4
EngineConfig.buckets = (128,)
augment/SamplingConfig.max_new_tokens = 64
"""


@pytest.fixture
def recipe(tmp_path):
    """Returns the path of the tiny recipe."""
    path = tmp_path / "tiny.gin"
    path.write_text(TINY)
    return str(path)


@pytest.fixture
def plan(recipe):
    """Returns the settings of the tiny recipe."""
    configuration.parse([recipe], [])
    return settings.read()


@pytest.fixture
def facts():
    """Returns the facts of a training step whose every part takes a round time on v5e 2x2."""
    return {
        "program": "train",
        "mesh": {"data": 1, "fsdp": 2, "sequence": 1, "tensor": 2},
        "rows": 4,
        "length": 256,
        "tokens": 1024,
        "flops": 4 * 197e12 * 0.5,
        "resident_bytes": 0,
        "slot_bytes": (2**28, 2**29),
        "held_bytes": 0,
        "versions": {"jax": "1", "libtpu": "2"},
        "compile_seconds": 1.0,
        "peak_gib": 7.875,
        "memory": {"code": 1},
        "cycles": 0.5 * 1.5e9,
        "once_cycles": 0.1 * 1.5e9,
        "kernel_flops": 0.25 * 0.5 * 197e12,
        "unknown_kernels": 0,
        "stated_bytes": 0,
        "stated_flops": 0,
        "collectives": [
            {"kind": "all-gather", "count": 4, "bytes": 0.125 * 45e9, "extent": [2, 1, 1, 1]},
            {"kind": "all-reduce", "count": 2, "bytes": 0.125 * 90e9, "extent": [2, 2, 1, 1]},
        ],
    }

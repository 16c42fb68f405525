"""Programs are lowered here for CPU devices in a TPU slice's place: shapes and shardings alone."""

import dataclasses

import jax
import pytest

from humpback_jax.errors import UsageError
from humpback_jax.models import flops
from humpback_jax.partitioning import MeshConfig
from launch.plan import programs
from launch.plan.topology import Topology


@pytest.fixture(autouse=True)
def _cpu_slice(monkeypatch):
    monkeypatch.setattr(Topology, "devices", lambda self: jax.devices()[: self.chips])


def test_the_training_step_is_the_projects_own(plan):
    lowered = programs.lower("train", plan)
    assert (lowered.rows, lowered.length, lowered.tokens) == (4, 256, 1024)
    assert dict(lowered.mesh.shape) == {"data": 1, "fsdp": 2, "sequence": 1, "tensor": 2}
    assert lowered.flops == flops.train_flops(plan.llama, 4, 256)
    text = lowered.lowered.as_text()
    assert "jit_step" in text
    assert "tensor<2x256x512xf32>" in text  # float32 parameters [L, D, F]
    assert "bf16" in text


def test_prefill_and_decode_have_16_bit_weights_and_a_cache_in_place(plan):
    prefill, decode = (programs.lower(name, plan) for name in ("prefill", "decode"))
    assert (prefill.rows, prefill.length, prefill.tokens) == (2, 128, 256)  # as refill() says
    assert (decode.rows, decode.length, decode.tokens) == (4, 192, 4)
    for lowered in (prefill, decode):
        assert "tensor<2x256x512xbf16>" in lowered.lowered.as_text()
    cache = 2 * 2 * 4 * 2 * 192 * 128 * 2  # keys and values [L, B, K, S, H] in bfloat16
    assert decode.resident_bytes == prefill.resident_bytes + cache // 4
    # Two slots lie on each two chips, which the engine holds while it reads prompts.
    assert decode.slot_bytes == (cache // 4 // 2, cache // 4)
    assert cache // 4 < prefill.held_bytes < 1.1 * cache // 4


def test_prefill_counts_one_position_of_logits(plan):
    rows, length, logits = 2, 128, 2 * 512 * 256
    whole = flops.forward_flops(plan.llama, rows, length)
    assert programs.lower("prefill", plan).flops == whole - logits * rows * (length - 1)


def _changed(plan, **mesh):
    return dataclasses.replace(plan, mesh=MeshConfig(**mesh))


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        ({"data": 1, "fsdp": 4, "tensor": 2}, ["fsdp=4", "tensor=2", "4 devices"]),
        ({"data": 1, "fsdp": 2, "tensor": 4}, ["fsdp=2", "tensor=4", "4 devices"]),
    ],
)
def test_a_mesh_that_is_not_the_slice_is_refused(plan, mesh, words):
    with pytest.raises(UsageError) as caught:
        programs.lower("train", _changed(plan, **mesh))
    for word in words:
        assert word in str(caught.value)


def test_slices_of_mesh_and_topology_must_agree(plan):
    with pytest.raises(UsageError, match="MeshConfig.slices = 2 but Topology.slices = 1"):
        programs.lower("train", _changed(plan, data=2, fsdp=2, tensor=1, slices=2))


def test_heads_that_the_mesh_does_not_divide_are_refused(plan):
    llama = dataclasses.replace(plan.llama, num_heads=6)
    narrow = dataclasses.replace(_changed(plan, data=1, fsdp=1, tensor=4), llama=llama)
    with pytest.raises(UsageError, match="num_heads = 6 over tensor = 4"):
        programs.lower("train", narrow)


@pytest.mark.parametrize("changes", [{"batch_size": 2}, {"microbatches": 2}])
def test_fewer_rows_than_devices_are_refused(plan, changes):
    train = {"M2": dataclasses.replace(plan.planned_train, **changes)}
    wide = dataclasses.replace(_changed(plan, data=1, fsdp=4, tensor=1), train=train)
    with pytest.raises(UsageError, match="data x fsdp = 4"):
        programs.lower("train", wide)


def test_rows_that_the_sequence_axis_does_not_divide_are_refused(plan):
    lengths = {"inputs": 127, "targets": 128}
    train = {"M2": dataclasses.replace(plan.planned_train, feature_lengths=lengths)}
    long = dataclasses.replace(_changed(plan, data=1, fsdp=1, sequence=4, tensor=1), train=train)
    with pytest.raises(UsageError, match="255 tokens cannot be split over sequence = 4"):
        programs.lower("train", long)


def test_rows_longer_than_the_model_are_refused(plan):
    train = dataclasses.replace(plan.planned_train, feature_lengths={"inputs": 512, "targets": 512})
    with pytest.raises(UsageError, match="1024 tokens are longer than the model's 512"):
        programs.lower("train", dataclasses.replace(plan, train={"M2": train}))


def test_weights_are_planned_as_the_engine_lays_them_out(plan):
    """Otherwise every decode step would begin by copying them."""
    _, params = programs._inference_arguments(plan, *programs._inference(plan))
    order = params["layers"]["attention"]["query"].format.layout.major_to_minor
    assert order == (0, 2, 1, 3)

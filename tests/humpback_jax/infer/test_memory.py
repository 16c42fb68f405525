import dataclasses

import jax
import pytest
from small_llama import SMALL

from humpback_jax import partitioning
from humpback_jax.errors import UserError
from humpback_jax.infer import memory
from humpback_jax.partitioning import MeshConfig

# A slot of 100 tokens has 2 * 2 layers * 100 * 2 heads * 8 * 4 bytes of keys and values.
SLOT = 25_600
LOGITS = 2 * 4 * 64


@pytest.fixture
def free(monkeypatch):
    def set_free(size):
        monkeypatch.setattr(memory, "_free_bytes", lambda mesh: size)

    return set_free


def check(config=SMALL, mesh=None, slots=8, rows=2, bucket=60, length=100):
    memory.check_room(config, mesh, slots, rows, bucket, length, None)


def test_cache_and_prompts_on_their_way_into_it_are_counted(free):
    needed = 8 * SLOT + 2 * SLOT * 60 // 100
    free(needed)
    check()
    free(needed - 1)
    with pytest.raises(UserError) as caught:
        check()
    message = str(caught.value)
    assert message.startswith("8 slots of 100 tokens take 0.0 GiB a device")
    assert "set EngineConfig.slots to at most 7, or lower EngineConfig.buckets" in message
    check(slots=7)


def test_logits_are_counted_where_they_are_larger(free):
    wide = dataclasses.replace(SMALL, vocab_size=64_000)
    needed = 8 * (SLOT + 1000 * LOGITS)
    free(needed)
    check(wide)
    free(needed - 1)
    with pytest.raises(UserError, match="GiB of logits"):
        check(wide)


def test_where_no_slot_has_room_something_else_is_to_be_lowered(free):
    free(SLOT)
    with pytest.raises(UserError, match="are free: lower EngineConfig.buckets, EngineConfig.max_b"):
        check()


@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_device_has_its_share_and_a_cpu_holds_those_of_all_its_devices(free, monkeypatch, on_cpu):
    """Two heads are split by two devices, while each of four has both."""
    monkeypatch.setattr(memory, "_on_cpu", lambda mesh: on_cpu)
    for axes, rows, copies in (
        (MeshConfig(data=4, tensor=2), 4, 1),
        (MeshConfig(data=2, tensor=4), 2, 4),
    ):
        mesh = partitioning.make_mesh(axes, jax.devices())
        whole = copies * (8 * SLOT + rows * SLOT * 60 // 100)
        needed = whole if on_cpu else whole // 8
        free(needed)
        check(mesh=mesh, rows=rows)
        free(needed - 1)
        with pytest.raises(UserError):
            check(mesh=mesh, rows=rows)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback_jax.checkpoints.checksum import checksums
from humpback_jax.partitioning import MeshConfig, make_mesh

MASK = 0xFFFFFFFF


def _mix(x):
    x = (x ^ (x >> 16)) * 0x85EBCA6B & MASK
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & MASK
    return x ^ (x >> 16)


def _expected(array):
    """Returns the two sums with Python's integers, element by element."""
    bits = array.view(f"uint{8 * array.itemsize}")
    sums = [0, 0]
    for index in np.ndindex(array.shape):
        place = 0
        for i in index:
            place = _mix((place * 0x9E3779B1 + i) & MASK)
        for k, stream in enumerate((0x243F6A88, 0xB7E15162)):
            sums[k] += int(bits[index]) * (_mix(place ^ stream) | 1)
    return "".join(f"{total & MASK:08x}" for total in sums)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4)])
def test_the_sums_are_those_of_the_definition(dtype, shape):
    array = np.asarray(np.random.default_rng(0).normal(0, 9, shape)).astype(jnp.dtype(dtype))
    assert checksums({"a": {"b": array}}) == {"a/b": _expected(array)}


def test_every_flipped_bit_changes_both_sums():
    array = np.random.default_rng(1).normal(0, 1, (4, 3)).astype(np.float32)
    before = checksums([array])["0"]
    for element in range(array.size):
        for bit in range(32):
            flipped = array.copy()
            flipped.view(np.uint32).reshape(-1)[element] ^= np.uint32(1 << bit)
            after = checksums([flipped])["0"]
            assert after[:8] != before[:8]
            assert after[8:] != before[8:]


def test_places_count():
    array = np.random.default_rng(2).normal(0, 1, (6, 4)).astype(np.float32)
    others = [array[::-1], array[:, ::-1], np.roll(array, 1, 0), array.reshape(4, 6)]
    found = {checksums([np.ascontiguousarray(x)])["0"] for x in (array, *others)}
    assert len(found) == 5


@pytest.mark.parametrize("spec", [("data",), (None, "tensor"), (("data", "fsdp"), "tensor")])
def test_the_sharding_does_not_count(spec):
    array = np.random.default_rng(3).normal(0, 1, (8, 6)).astype(np.float32)
    mesh = make_mesh(MeshConfig(2, 2, 1, 2))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    assert checksums([jax.device_put(array, sharding)]) == checksums([array])

"""Checkpoints looked into by their files: what they hold, and the ways they are damaged."""

import pathlib
import random
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tensorstore
from etils import epath
from flax import serialization
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import PyTreeCheckpointer

from humpback_jax.checkpoints import layout, orbax, seal
from humpback_jax.checkpoints.statistics import difference, statistics
from humpback_jax.checkpoints.streaming import block_shape, read_blocks
from humpback_jax.checkpoints.verification import verify
from humpback_jax.errors import UserError


def _tree(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "layers": {
            "query": jnp.asarray(rng.normal(size=(4, 32, 8)), jnp.float32),
            "scale": jnp.asarray(rng.normal(size=(4, 32)), jnp.bfloat16),
        },
        "embedding": jnp.asarray(rng.normal(size=(96, 32)), jnp.float32),
        "count": jnp.asarray(7, jnp.int32),
    }


def _sharded(tree, devices):
    mesh = Mesh(np.array(jax.devices()[:devices]).reshape(devices), ("fsdp",))

    def place(x):
        spec = PartitionSpec(*("fsdp" if i == 1 else None for i in range(x.ndim)))
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    orbax.save_params(folder, 3, _sharded(_tree(), 8))
    return epath.Path(folder / "checkpoint_3")


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved, tmp_path / saved.name)
    return epath.Path(tmp_path / saved.name)


def test_arrays_are_described_by_the_files_alone(saved):
    leaves = {leaf.name: leaf for leaf in layout.leaves(saved)}
    assert set(leaves) == {
        f"params/{name}" for name in ("count", "embedding", "layers/query", "layers/scale")
    }
    query = leaves["params/layers/query"]
    assert (query.shape, query.dtype, query.sharding) == ((4, 32, 8), "float32", "-, fsdp, -")
    assert query.chunk == (4, 4, 8)
    assert leaves["params/layers/scale"].dtype == "bfloat16"
    assert leaves["params/count"].shape == ()
    assert [leaf.name for leaf in layout.leaves(saved, ("data",))] == ["batches"]


def test_blocks_put_together_are_the_array(saved):
    tree = {"params": _tree()}
    found = {leaf.name: leaf for leaf in layout.leaves(saved)}
    for keys, array in jax.tree_util.tree_leaves_with_path(tree):
        leaf = found[jax.tree_util.keystr(keys, simple=True, separator="/")]
        for shape in (block_shape(leaf), tuple(max(1, n // 3) for n in leaf.shape)):
            whole = np.zeros(leaf.shape, leaf.dtype)
            for place, block in read_blocks(leaf, shape):
                ends = zip(place, block.shape, strict=True)
                whole[tuple(slice(start, start + n) for start, n in ends)] = block
            assert whole.tobytes() == np.asarray(array).tobytes()


def test_a_sound_checkpoint_has_no_finding_however_it_is_divided(saved, monkeypatch):
    assert list(verify(saved)) == []
    monkeypatch.setattr("humpback_jax.checkpoints.streaming._BLOCK_BYTES", 100)
    assert list(verify(saved)) == []


def test_every_flipped_bit_is_found_and_its_array_or_file_named(copy):
    rng = random.Random(0)
    files = sorted(path for path in pathlib.Path(copy).rglob("*") if path.is_file())
    arrays = [path for path in files if "ocdbt.process" in str(path) and "/d/" in str(path)]
    names = {leaf.name for leaf in layout.leaves(copy)}
    for number in range(200):
        path = rng.choice(arrays if number % 2 else files)
        sound = path.read_bytes()
        damaged = bytearray(sound)
        damaged[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        findings = list(verify(copy))
        assert findings, f"{path} was changed unnoticed"
        file = str(path.relative_to(copy))
        assert {finding.name for finding in findings} & {file, *names, seal.NAME, ""}
        path.write_bytes(sound)
    assert list(verify(copy)) == []


def test_a_flipped_bit_among_large_arrays_names_that_array(tmp_path):
    """Files of more than a MiB have no digest of their own; the arrays' checksums must tell."""
    rng = np.random.default_rng(0)
    tree = {name: jnp.asarray(rng.normal(size=(512, 1024)), jnp.float32) for name in "ab"}
    orbax.save_params(tmp_path, 0, tree)
    path = epath.Path(tmp_path / "checkpoint_0")
    large = [p for p in pathlib.Path(path).rglob("*") if p.is_file() and p.stat().st_size > 2**20]
    draws, found = random.Random(1), set()
    for number in range(12):
        data = large[number % len(large)]
        sound = data.read_bytes()
        damaged = bytearray(sound)
        damaged[draws.randrange(len(sound))] ^= 1 << draws.randrange(8)
        data.write_bytes(damaged)
        (finding,) = verify(path)
        found.add(finding.name)
        data.write_bytes(sound)
    assert found == {"params/a", "params/b"}


def test_truncated_half_copied_and_uncommitted_are_told_apart(copy):
    data = pathlib.Path(copy).rglob("ocdbt.process_0/d/*")
    largest = max(data, key=lambda path: path.stat().st_size)
    sound = largest.read_bytes()
    largest.write_bytes(sound[: len(sound) // 2])
    problems = {finding.problem for finding in verify(copy)}
    assert any("file is cut short" in problem for problem in problems)
    largest.unlink()
    assert any("the file is missing" in finding.problem for finding in verify(copy))
    (pathlib.Path(copy) / "commit_success.txt").unlink()
    assert "copy it whole" in [f.problem for f in verify(copy)][-1]
    killed = copy.parent / "checkpoint_4.orbax-checkpoint-tmp"
    copy.rename(killed)
    assert "killed before it was committed" in [f.problem for f in verify(killed)][-1]
    (step,) = layout.steps(copy.parent)
    assert (step.step, step.status) == (4, layout.UNCOMMITTED)


def test_steps_are_listed_with_time_and_size(saved):
    (step,) = layout.steps(saved.parent)
    assert (step.step, step.status, step.path.name) == (3, layout.COMMITTED, "checkpoint_3")
    assert step.seconds is not None
    assert step.nbytes == sum(
        p.stat().st_size for p in pathlib.Path(saved).rglob("*") if p.is_file()
    )


def test_statistics_leave_out_what_is_not_finite(tmp_path):
    values = np.array([[3.0, -4.0], [np.nan, np.inf]], np.float32)
    tree = {"a": jnp.asarray(values), "b": jnp.asarray(values.astype(ml_dtypes.bfloat16))}
    orbax.save_params(tmp_path, 0, tree)
    for leaf in layout.leaves(epath.Path(tmp_path / "checkpoint_0")):
        found = statistics(leaf)
        assert found.rms == pytest.approx(np.sqrt(12.5))
        assert (found.largest, found.nan, found.inf) == (4.0, 1, 1)


def test_differences_do_not_depend_on_how_arrays_were_written(tmp_path):
    one, two = _tree(), _tree()
    two["embedding"] = two["embedding"].at[5, 7].add(0.5)
    orbax.save_params(tmp_path / "one", 0, _sharded(one, 8))
    orbax.save_params(tmp_path / "two", 0, two)
    first, second = (
        {leaf.name: leaf for leaf in layout.leaves(epath.Path(tmp_path / name / "checkpoint_0"))}
        for name in ("one", "two")
    )
    found = {name: difference(first[name], second[name]) for name in first}
    assert found.pop("params/embedding").differing == 1
    assert all(d.differing == 0 and d.largest == d.mean == 0 for d in found.values())


def test_saved_on_eight_devices_is_read_on_one_and_on_two(saved):
    for devices in (1, 2):
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            _sharded(_tree(), devices),
        )
        params = orbax.restore_params(saved, target)
        for want, got in zip(jax.tree.leaves(_tree()), jax.tree.leaves(params), strict=True):
            assert np.asarray(want).tobytes() == np.asarray(got).tobytes()


@pytest.mark.parametrize("ocdbt", [True, False])
def test_plain_orbax_checkpoints_of_others_are_shown(tmp_path, ocdbt):
    tree = {"params": {"w": np.arange(12.0).reshape(3, 4), "b": [np.ones(3, np.float32)]}}
    path = epath.Path(tmp_path / "theirs")
    PyTreeCheckpointer(use_ocdbt=ocdbt).save(path, tree)
    found = {leaf.name: leaf for leaf in layout.leaves(path)}
    assert set(found) == {"params/w", "params/b/0"}
    assert statistics(found["params/w"]).largest == 11
    (finding,) = verify(path)
    assert "no checksums" in finding.problem


def test_a_wrong_folder_is_named_with_the_right_one(saved, tmp_path):
    for path, words in (
        (saved / "state", f"give the whole, {saved}"),
        (saved.parent, f"give one of them, such as {saved}"),
        (tmp_path / "nowhere", "there is no checkpoint"),
        (tmp_path, "holds no checkpoint"),
    ):
        with pytest.raises(UserError, match="ckpt ls|give") as caught:
            layout.require_checkpoint(path)
        assert words in str(caught.value)
    assert layout.require_checkpoint(saved) == saved


def test_checkpoints_of_t5x_before_orbax_are_shown(tmp_path):
    path = epath.Path(tmp_path / "checkpoint_10")
    path.mkdir()
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    metadata = {"shape": [4, 6], "chunks": [2, 6], "dtype": "<f4"}
    spec = {"driver": "zarr", "kvstore": f"file://{path}/target.w/", "metadata": metadata}
    tensorstore.open(spec, create=True).result().write(array).result()
    index = {"optimizer": {"step": np.int32(10), "target": {"w": "PLACEHOLDER://target.w"}}}
    (path / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    found = {leaf.name: leaf for leaf in layout.leaves(path)}
    assert {name: leaf.shape for name, leaf in found.items()} == {
        "target/w": (4, 6),
        "optimizer/step": (),
    }
    assert (statistics(found["target/w"]).largest, statistics(found["optimizer/step"]).rms) == (
        23,
        10,
    )
    (step,) = layout.steps(tmp_path)
    assert (step.step, step.status) == (10, layout.COMMITTED)

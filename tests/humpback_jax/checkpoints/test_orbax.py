import contextlib
import dataclasses
import json
import re
import resource
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from orbax.checkpoint import v1 as ocp
from small_llama import SMALL

from humpback_jax.checkpoints import orbax
from humpback_jax.errors import UserError
from humpback_jax.models.init import abstract_params, init_params
from humpback_jax.partitioning import MeshConfig, make_mesh
from humpback_jax.train import step as train_step
from humpback_jax.train.optimizer import OptimizerConfig, make_optimizer

CONFIG = SMALL
OPTIMIZER = make_optimizer(OptimizerConfig(), 10)


def _mesh(*shape):
    return make_mesh(MeshConfig(*shape))


def _one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def _shardings(mesh):
    return train_step.state_shardings(CONFIG, OPTIMIZER, mesh)


def _abstract(mesh):
    return train_step.abstract_state(CONFIG, OPTIMIZER, _shardings(mesh))


def _plain(tree):
    """Returns a target on the first device."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: nn.unbox(init_params(CONFIG, key)))(jax.random.key(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory, params):
    """Returns (folder, the state as numpy): a state with moments, saved on the mesh (1, 4, 2)."""
    folder = tmp_path_factory.mktemp("saved")
    state = train_step.make_state(CONFIG, params, OPTIMIZER, _shardings(_mesh(1, 4, 1, 2)))
    rng = np.random.default_rng(1)
    moments = jax.tree.map(
        lambda x: jax.device_put((rng.normal(0, 9, x.shape)).astype(x.dtype), x.sharding),
        state.opt_state,
    )
    state = state.replace(step=state.step + 7, opt_state=moments)
    with orbax.Checkpointer(folder) as checkpointer:
        checkpointer.save(7, state, {"batches": 11})
    return folder, jax.device_get(state)


def _assert_same(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for (path, got), want in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(expected), strict=True
    ):
        name = jax.tree_util.keystr(path)
        assert got.dtype == want.dtype, name
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes(), name


@pytest.mark.parametrize("shape", [None, (2, 2, 1, 2), (1, 4, 1, 2), (8, 1, 1, 1)])
def test_a_state_is_restored_bit_by_bit_on_any_mesh(saved, shape):
    folder, expected = saved
    mesh = _mesh(*shape) if shape else _one_device()
    with orbax.Checkpointer(folder) as checkpointer:
        assert checkpointer.latest == 7
        state, data = checkpointer.restore(7, _abstract(mesh))
    assert data == {"batches": 11}
    _assert_same(state, expected)
    found = jax.tree.map(lambda leaf: leaf.sharding, state)
    assert jax.tree.all(
        jax.tree.map(lambda a, b, x: a.is_equivalent_to(b, x.ndim), found, _shardings(mesh), state)
    )


@pytest.mark.parametrize("shape", [None, (2, 2, 1, 2)])
def test_parameters_alone(saved, shape):
    folder, expected = saved
    target = _abstract(_mesh(*shape) if shape else _one_device()).params
    params = orbax.restore_params(folder / "checkpoint_7", target)
    _assert_same(params, expected.params)


def test_the_newest_checkpoints_are_kept(tmp_path, params):
    with orbax.Checkpointer(tmp_path, keep=2) as checkpointer:
        assert checkpointer.latest is None
        for step in (1, 2, 3):
            checkpointer.save(step, {"params": params}, {"batches": step})
        checkpointer.wait()
        assert checkpointer.latest == 3
    kept = [path.name for path in tmp_path.iterdir() if path.name.startswith("checkpoint_")]
    assert sorted(kept) == ["checkpoint_2", "checkpoint_3"]


def test_what_a_kill_left_half_saved_is_not_the_newest(tmp_path, saved):
    folder, expected = saved
    shutil.copytree(folder, tmp_path / "copy")
    half = tmp_path / "copy" / "checkpoint_8.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "copy" / "checkpoint_7", half)
    with orbax.Checkpointer(tmp_path / "copy") as checkpointer:
        assert checkpointer.latest == 7
        state, _ = checkpointer.restore(7, _abstract(_one_device()))
    _assert_same(state, expected)


def test_saving_parameters_again_replaces_them(tmp_path, params):
    doubled = jax.tree.map(lambda x: x * 2, params)
    for tree in (params, doubled):
        orbax.save_params(tmp_path, 0, tree)
    _assert_same(orbax.restore_params(tmp_path / "checkpoint_0", _plain(params)), doubled)
    orbax.save_params(tmp_path, 5, params)
    _assert_same(orbax.restore_params(tmp_path / "checkpoint_5", _plain(params)), params)


def _restore(folder, config=CONFIG):
    return lambda: orbax.restore_params(folder, _plain(abstract_params(config)))


def _refused(call, *words):
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert str(word) in message


def test_a_missing_checkpoint_is_one_sentence(saved, tmp_path):
    folder, _ = saved
    _refused(_restore(folder / "checkpoint_8"), folder / "checkpoint_8", "no checkpoint")
    _refused(_restore(tmp_path), tmp_path, "is no checkpoint of a model")
    (tmp_path / "checkpoint_1").mkdir()
    _refused(_restore(tmp_path / "checkpoint_1"), "is no checkpoint of a model")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embed_dim": 64}, ["float32[64, 32]", "float32[64, 64]", "embedding"]),
        ({"num_layers": 3}, ["layers/attention/key", "[2, 32, 2, 8]", "[3, 32, 2, 8]"]),
        ({"tie_embeddings": True}, ["output", "nothing is wanted"]),
    ],
)
def test_a_checkpoint_of_another_configuration_is_one_sentence(saved, change, words):
    """Orbax would cast another dtype silently and print pages for another shape."""
    folder, _ = saved
    other = dataclasses.replace(CONFIG, **change)
    _refused(_restore(folder / "checkpoint_7", other), "another model configuration", *words)


def test_parameters_may_be_asked_for_in_another_floating_point_type(saved):
    folder, expected = saved
    other = dataclasses.replace(CONFIG, param_dtype="bfloat16")
    params = _restore(folder / "checkpoint_7", other)()
    _assert_same(params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), expected.params))


def test_a_checkpoint_that_lacks_a_parameter_is_one_sentence(tmp_path, params):
    """Orbax would leave it as a ShapeDtypeStruct."""
    tied = {name: leaf for name, leaf in params.items() if name != "output"}
    orbax.save_params(tmp_path, 0, tied)
    _refused(_restore(tmp_path / "checkpoint_0"), "holds nothing as parameter output")


def test_a_state_of_another_configuration_is_one_sentence(saved):
    folder, _ = saved
    other = dataclasses.replace(CONFIG, mlp_dim=40)
    shardings = train_step.state_shardings(other, OPTIMIZER, _one_device())
    target = train_step.abstract_state(other, OPTIMIZER, shardings)
    with orbax.Checkpointer(folder) as checkpointer:
        _refused(lambda: checkpointer.restore(7, target), "another model configuration")


@contextlib.contextmanager
def _small_files():
    """Lets no file grow beyond a few kilobytes, which tensorstore meets like a full disk.

    The limit holds for what pytest prints into a file too, so it ends within the test.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_save_that_finds_no_room_keeps_earlier_steps(tmp_path, params):
    with orbax.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"params": params}, {"batches": 1})
    message = "the checkpoint of step 2 in .* could not be written"
    with (
        _small_files(),
        pytest.raises(UserError, match=message),
        orbax.Checkpointer(tmp_path) as checkpointer,
    ):
        checkpointer.save(2, {"params": params}, {"batches": 2})
    with orbax.Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest == 1


def test_a_state_of_another_optimizer_is_one_sentence(saved):
    """Orbax would cast the moments silently."""
    folder, _ = saved
    target = _abstract(_one_device())
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), target.opt_state)
    with orbax.Checkpointer(folder) as checkpointer:
        _refused(lambda: checkpointer.restore(7, target.replace(opt_state=half)), "optimizer state")


def test_a_save_is_not_waited_for(tmp_path, params, monkeypatch):
    began = threading.Event()
    wait = ocp.training.Checkpointer.wait
    monkeypatch.setattr(
        ocp.training.Checkpointer, "wait", lambda self: (began.set(), wait(self))[1]
    )
    with orbax.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"params": params}, {"batches": 1})
        assert not began.is_set()
    assert began.is_set()


def test_the_failure_of_a_save_in_the_background_is_an_error(tmp_path, params):
    with (
        _small_files(),
        pytest.raises(UserError, match="step 1 .* could not be written"),
        orbax.Checkpointer(tmp_path) as checkpointer,
    ):
        checkpointer.save(1, {"params": params}, {"batches": 1})
        for _ in range(1000):
            checkpointer.check()
            time.sleep(0.01)


def test_the_checksum_names_the_leaf(tmp_path, params):
    orbax.save_params(tmp_path, 0, params)
    path = tmp_path / "checkpoint_0" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    total = metadata["custom_metadata"]["checksums"]["params/layers/mlp/up"]
    path.write_text(path.read_text().replace(total, "0" * 16))
    _refused(_restore(tmp_path / "checkpoint_0"), "the checksum of params/layers/mlp/up is not")


def test_without_checksums_nothing_is_read(tmp_path, params):
    orbax.save_params(tmp_path, 0, params)
    path = tmp_path / "checkpoint_0" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    for broken in ('{"custom_metadata": {}}', json.dumps({**metadata, "custom_metadata": {}}), "x"):
        path.write_text(broken)
        _refused(_restore(tmp_path / "checkpoint_0"), "damaged", "run the same command again")
    path.unlink()
    _refused(_restore(tmp_path / "checkpoint_0"), "damaged", "run the same command again")


@pytest.mark.parametrize("seed", range(8))
def test_a_bit_that_flips_on_the_disk_is_found_and_its_leaf_named(tmp_path, params, seed):
    """Orbax reads most of them without a word."""
    orbax.save_params(tmp_path, 0, params)
    folder = tmp_path / "checkpoint_0"
    files = sorted(p for p in (folder / "state").rglob("*") if p.is_file() and "/d/" in str(p))
    rng = np.random.default_rng(seed)
    path = files[rng.integers(len(files))]
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    try:
        found = _restore(folder)()
    except UserError as error:
        message = str(error)  # some bits tensorstore itself finds broken
        assert "is damaged" in message or "or damaged" in message
        assert "\n" not in message
    else:
        _assert_same(found, params)  # the bit was in no leaf


def test_the_digest_sees_one_bit(params):
    before = orbax.digest(params)
    assert re.fullmatch("[0-9a-f]{16}", before)
    flipped = jax.device_get(params)
    flipped["norm"]["scale"] = flipped["norm"]["scale"].copy()
    flipped["norm"]["scale"].view(np.uint32)[5] ^= 1
    assert orbax.digest(flipped) != before
    flipped["norm"]["scale"].view(np.uint32)[5] ^= 1
    assert orbax.digest(flipped) == before


def test_the_digest_sees_names_shapes_and_dtypes():
    x = jnp.zeros((2, 3))
    trees = [{"a": x}, {"b": x}, {"a": x.T}, {"a": x.astype(jnp.int32)}, {"a": x, "b": x}]
    assert len({orbax.digest(tree) for tree in trees}) == len(trees)


def test_the_digest_does_not_depend_on_the_mesh(params):
    mesh = _mesh(1, 4, 1, 2)
    shardings = _shardings(mesh).params
    assert orbax.digest(jax.device_put(params, shardings)) == orbax.digest(params)


def test_the_layout_that_the_module_promises(saved):
    folder, _ = saved
    names = {path.name for path in (folder / "checkpoint_7").iterdir()}
    assert {"state", "data"} <= names
    metadata = json.loads((folder / "checkpoint_7" / "state" / "_METADATA").read_text())
    keys = "".join(metadata["tree_metadata"])
    assert all(name in keys for name in ("params", "opt_state", "step"))

import dataclasses
import json
import shutil

import jax
import llama_variants
import numpy as np
import pytest

from humpback_jax.checkpoints import bundle, huggingface, orbax
from humpback_jax.data.sentencepiece_tokenizer import MODEL_NAME, train_tokenizer
from humpback_jax.data.tokenizer_files import load_tokenizer
from humpback_jax.errors import UserError
from humpback_jax.models.init import flatten
from humpback_jax.partitioning import MeshConfig, make_mesh


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat on the mat"] * 3, 280)


@pytest.fixture(scope="module")
def their_folder(tmp_path_factory, tokenizer):
    """Returns a Hugging Face folder with scaled RoPE and room for the pieces."""
    folder = tmp_path_factory.mktemp("hf")
    llama_variants.write_folder("llama3_rope", folder)
    model = huggingface.read_model(folder)
    config = dataclasses.replace(model.config, vocab_size=288)
    rng = np.random.default_rng(0)
    params = {
        **model.params,
        "embedding": rng.normal(size=(288, 32)).astype(np.float32),
        "output": rng.normal(size=(32, 288)).astype(np.float32),
    }
    huggingface.write_model(folder, config, params, (2, 5), tokenizer)
    return folder


@pytest.fixture(scope="module")
def our_folder(tmp_path_factory, their_folder):
    """Returns the same model as a folder of ours."""
    folder = tmp_path_factory.mktemp("ours")
    model = bundle.load_model(their_folder)
    orbax.save_params(folder, 0, model.params)
    fingerprint = orbax.digest(model.params)
    card = bundle.ModelCard(model.config, model.eos_ids, fingerprint, "checkpoint_0")
    bundle.write_card(folder, card, model.tokenizer)
    return folder


def _refused(call, *words):
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def test_a_card_comes_back(our_folder, their_folder):
    card = bundle.read_card(our_folder)
    assert (card.config, card.eos_ids) == huggingface.read_config(their_folder)
    assert card.config.rope_scaling is not None
    assert card.checkpoint == "checkpoint_0"


@pytest.mark.parametrize("shape", [None, (2, 2, 2), (1, 4, 2)])
def test_both_kinds_of_folder_give_the_same_model(our_folder, their_folder, shape):
    mesh = make_mesh(MeshConfig(*shape[:2], tensor=shape[2])) if shape else None
    ours, theirs = bundle.load_model(our_folder, mesh), bundle.load_model(their_folder, mesh)
    assert ours.config == theirs.config
    assert ours.eos_ids == theirs.eos_ids == (2, 5)
    assert ours.tokenizer.files() == theirs.tokenizer.files()
    for name, leaf in flatten(ours.params).items():
        other = flatten(theirs.params)[name]
        np.testing.assert_array_equal(leaf, other, err_msg=name)
        assert leaf.sharding.is_equivalent_to(other.sharding, leaf.ndim), name
    assert ours.fingerprint == orbax.digest(theirs.params)
    assert theirs.fingerprint == huggingface.folder_digest(their_folder)


def test_parameters_lie_where_the_rules_say(our_folder):
    model = bundle.load_model(our_folder, make_mesh(MeshConfig(1, 4, tensor=2)))
    up = model.params["layers"]["mlp"]["up"]
    assert {shard.data.shape for shard in up.addressable_shards} == {(3, 8, 28)}
    alone = bundle.load_model(our_folder).params["layers"]["mlp"]["up"]
    assert alone.devices() == {jax.devices()[0]}


@pytest.mark.parametrize("folder", ["our_folder", "their_folder"])
def test_the_dtype_may_be_chosen(folder, request):
    """Of the computation and of the parameters, which are cast as they are loaded."""
    path = request.getfixturevalue(folder)
    model = bundle.load_model(path, dtype="bfloat16")
    assert model.config.dtype == model.config.param_dtype == "bfloat16"
    whole = flatten(bundle.load_model(path).params)
    for name, leaf in flatten(model.params).items():
        np.testing.assert_array_equal(leaf, whole[name].astype("bfloat16"), err_msg=name)


@pytest.mark.parametrize("folder", ["our_folder", "their_folder"])
def test_the_fingerprint_is_known_without_loading(folder, request):
    path = request.getfixturevalue(folder)
    assert bundle.fingerprint(path) == bundle.load_model(path).fingerprint


def test_a_card_of_ours_goes_before_a_config_of_theirs(our_folder, their_folder, tmp_path):
    """A stage folder may hold both; the card is what its training wrote last."""
    shutil.copytree(our_folder, tmp_path / "both")
    shutil.copy(their_folder / "config.json", tmp_path / "both")
    model = bundle.load_model(tmp_path / "both")
    assert model.fingerprint == bundle.read_card(our_folder).fingerprint


def test_a_folder_that_is_no_model_folder(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        _refused(lambda folder=folder: bundle.load_model(folder), folder, "is no model folder")


def test_a_folder_without_its_tokenizer(our_folder, their_folder, tmp_path):
    for i, folder in enumerate((our_folder, their_folder)):
        copy = tmp_path / str(i)
        shutil.copytree(folder, copy)
        (copy / MODEL_NAME).unlink()
        _refused(lambda copy=copy: bundle.load_model(copy), copy, f"neither {MODEL_NAME}")


def test_a_folder_without_its_checkpoint(our_folder, tmp_path):
    shutil.copytree(our_folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "checkpoint_0")
    _refused(lambda: bundle.load_model(tmp_path / "copy"), "there is no checkpoint", "checkpoint_0")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": {}}'])
def test_a_broken_card_is_named(tmp_path, content):
    (tmp_path / "model.json").write_text(content)
    _refused(lambda: bundle.read_card(tmp_path), tmp_path / "model.json")


def test_a_card_of_an_earlier_version_is_read(our_folder, tmp_path):
    """What the configuration had not yet is as it was then: absent."""
    card = json.loads((our_folder / "model.json").read_text())
    for key in ("qkv_bias", "qk_norm", "attention"):
        card["config"].pop(key)
    (tmp_path / "model.json").write_text(json.dumps({**card, "of_a_later_version": 1}))
    assert bundle.read_card(tmp_path) == bundle.read_card(our_folder)


def test_a_card_with_an_unknown_key_is_named(our_folder, tmp_path):
    card = json.loads((our_folder / "model.json").read_text())
    card["config"]["sliding_window"] = 7
    (tmp_path / "model.json").write_text(json.dumps(card))
    _refused(lambda: bundle.read_card(tmp_path), tmp_path / "model.json", "sliding_window")


def test_the_card_is_written_after_the_tokenizer(our_folder, tmp_path, monkeypatch):
    card = bundle.read_card(our_folder)
    tokenizer = load_tokenizer(our_folder)

    def no_room(*_):
        raise UserError("full")

    monkeypatch.setattr(bundle.rundir, "write_json", no_room)
    with pytest.raises(UserError, match="full"):
        bundle.write_card(tmp_path, card, tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == [MODEL_NAME]


def test_a_tokenizer_of_another_model_is_refused(our_folder, their_folder, tmp_path, tokenizer):
    config = bundle.read_card(our_folder).config
    bundle.check_vocabulary(tokenizer, config, "here")
    small = dataclasses.replace(config, vocab_size=tokenizer.vocab_size - 1)
    _refused(lambda: bundle.check_vocabulary(tokenizer, small, "here"), "here", "280 pieces", "279")
    shutil.copytree(their_folder, tmp_path / "copy")
    (tmp_path / "copy" / MODEL_NAME).write_bytes(
        train_tokenizer(["the cat sat on a mat of another colour"] * 3, 290).model
    )
    _refused(lambda: bundle.load_model(tmp_path / "copy"), "do not belong together")

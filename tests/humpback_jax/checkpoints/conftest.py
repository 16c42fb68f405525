"""Folders of other people's models, and what is asked of a refusal."""

import json

import llama_variants
import pytest
from safetensors.numpy import load_file, save_file

from humpback_jax.errors import UserError


@pytest.fixture(params=llama_variants.VARIANTS)
def folder(request, tmp_path):
    """Returns a folder of each variant."""
    path = tmp_path / request.param
    llama_variants.write_folder(request.param, path)
    return path


@pytest.fixture
def plain(tmp_path):
    """Returns a LLaMA 1 folder."""
    path = tmp_path / "plain"
    llama_variants.write_folder("plain", path)
    return path


@pytest.fixture
def refused():
    """Returns a function that checks that a call ends in one sentence that holds all words."""

    def check(call, *words):
        with pytest.raises(UserError) as caught:
            call()
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert str(word) in message

    return check


@pytest.fixture
def change_config():
    """Returns a function that binds keys of config.json; None removes one."""

    def change(folder, **changes):
        path = folder / "config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return change


@pytest.fixture
def change_weights():
    """Returns a function that lets another change the tensors of model.safetensors."""

    def change(folder, how):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        how(tensors)
        save_file(tensors, path)

    return change


@pytest.fixture
def tensor_bytes():
    """Returns a function that gives {name: (dtype, shape, bytes)} of all tensors of a folder."""

    def read(folder):
        return {
            name: (tensor.dtype, tensor.shape, tensor.tobytes())
            for path in folder.glob("*.safetensors")
            for name, tensor in load_file(path).items()
        }

    return read

import dataclasses

import jax
import pytest

from humpback_jax.errors import UsageError
from humpback_jax.models.config import LlamaConfig
from humpback_jax.partitioning import MeshConfig, make_mesh
from humpback_jax.train import fit
from humpback_jax.train.config import TrainConfig

LLAMA = LlamaConfig(64, 32, 2, 4, 2, 8, 48, 64, 10000.0, 1e-5, True, param_dtype="bfloat16")
TRAIN = TrainConfig(4, 8, {"inputs": 16, "targets": 16}, remat="full", dtype="bfloat16")


def test_a_model_is_trained_with_parameters_of_32_bits():
    config = fit.training_config(LLAMA, TRAIN)
    assert (config.remat, config.dtype, config.param_dtype) == ("full", "bfloat16", "float32")
    assert config.dropout_rate == TRAIN.dropout_rate
    assert fit.training_config(LLAMA, dataclasses.replace(TRAIN, dtype="")).dtype == "float32"


def test_what_fits_is_let_through():
    fit.check(TRAIN, LLAMA, make_mesh(MeshConfig(1, 2, 2, 2)))


@pytest.mark.parametrize(
    ("mesh", "train", "llama", "words"),
    [
        ({"tensor": 8}, {}, {}, ["num_heads = 4", "tensor = 8"]),
        ({"tensor": 2}, {}, {"mlp_dim": 47}, ["mlp_dim = 47", "tensor = 2"]),
        ({"data": 1, "fsdp": 8}, {}, {"embed_dim": 36}, ["embed_dim = 36", "fsdp = 8"]),
        ({}, {"batch_size": 4}, {}, ["batch of 4 rows", "8 devices"]),
        ({"tensor": 2}, {"microbatches": 4}, {}, ["batch of 8 rows", "4 microbatches", "of 16"]),
        ({}, {}, {"max_length": 31}, ["rows of 32 tokens", "the model's 31"]),
        (
            {"sequence": 8},
            {"feature_lengths": {"inputs": 1, "targets": 9}},
            {},
            ["rows of 10 tokens", "sequence = 8"],
        ),
        ({}, {"attention": "splash"}, {}, ["'splash' wants a multiple of 128", "are 32"]),
        ({}, {"attention": "cudnn"}, {}, ["'cudnn' wants an NVIDIA GPU", "on cpu"]),
    ],
)
def test_what_does_not_fit_is_one_sentence(mesh, train, llama, words):
    shape = make_mesh(MeshConfig(**mesh))
    with pytest.raises(UsageError) as caught:
        config = dataclasses.replace(TRAIN, **train)
        model = dataclasses.replace(LLAMA, **llama)
        fit.check(config, fit.training_config(model, config), shape)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_kv_heads_and_the_vocabulary_need_not_divide():
    mesh = make_mesh(MeshConfig(data=2, tensor=4), jax.devices())
    fit.check(TRAIN, dataclasses.replace(LLAMA, vocab_size=63), mesh)

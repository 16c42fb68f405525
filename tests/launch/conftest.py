"""A recipe small enough for tests: a microworld of few pages and a base of random weights."""

import jax
import pytest
from flax import linen as nn

from humpback_jax.checkpoints import huggingface
from humpback_jax.microworld.tokenizer import build_tokenizer
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.init import init_params

TINY = """
include 'recipes/quickstart.gin'

NUM_SHARDS = 2
TRAIN_STEPS = 4
BATCH_SIZE = 8
TrainConfig.train_steps = %TRAIN_STEPS
Myx/TrainConfig.train_steps = 4
M0/TrainConfig.train_steps = 4
TrainConfig.checkpoint_period = 2
TrainConfig.log_period = 1
DROPOUT_RATE = 0.1

WorldConfig.segments = 60
WorldConfig.web_topics = 6
WorldConfig.known_topics = 3
WorldConfig.seed_pairs = 12
WorldConfig.files = 2
PretrainingText.documents = 100

SelectionConfig.count = 10
EngineConfig.batch_size = 8
augment/SamplingConfig.max_new_tokens = 8
evaluate/SamplingConfig.max_new_tokens = 8
"""


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """Returns the folder of a random base model with the microworld's tokenizer."""
    config = LlamaConfig(
        vocab_size=960,
        embed_dim=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        mlp_dim=48,
        max_length=256,
        rope_theta=10000.0,
        norm_eps=1e-5,
        tie_embeddings=True,
    )
    params = jax.device_get(nn.unbox(init_params(config, jax.random.key(0))))
    folder = tmp_path_factory.mktemp("base")
    huggingface.write_model(folder, config, params, (2,), 1, build_tokenizer())
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory, tiny_base):
    """Returns a gin file that runs the whole loop in seconds; RUN_DIR is left to the test."""
    path = tmp_path_factory.mktemp("gin") / "tiny.gin"
    path.write_text(TINY + f"BASE = '{tiny_base}'\n")
    return path

"""A recipe small enough for tests: a microworld of few pages, a handful of steps."""

import pathlib

import pytest

import humpback_jax
from launch.main import main

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
EngineConfig.slots = 8
augment/SamplingConfig.max_new_tokens = 32
evaluate/SamplingConfig.max_new_tokens = 16
"""


@pytest.fixture(scope="session")
def packaged_base():
    """Returns the folder of the base model that comes with the package."""
    return pathlib.Path(humpback_jax.__file__).parent / "microworld" / "base"


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory):
    """Returns a gin file that runs the whole loop in a minute; RUN_DIR is left to the test."""
    path = tmp_path_factory.mktemp("gin") / "tiny.gin"
    path.write_text(TINY)
    return path


@pytest.fixture
def ckpt(capsys):
    """Returns a function that runs `humpback ckpt` and returns (exit code, stdout, stderr)."""

    def run(*arguments):
        capsys.readouterr()
        code = main(["ckpt", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run

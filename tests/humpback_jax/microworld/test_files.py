import hashlib
import pathlib

import gin
import pytest

from humpback_jax import prompts
from humpback_jax.errors import UserError
from humpback_jax.microworld import templates
from humpback_jax.microworld.files import write_world
from humpback_jax.microworld.labels import read_labels
from humpback_jax.microworld.questions import make_questions, read_questions
from humpback_jax.microworld.world import WorldConfig, make_world

GIN_FILE = pathlib.Path(__file__).parents[3] / "gin_configs" / "microworld.gin"


def digests(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, WorldConfig())
    return folder


def test_the_files_of_a_world_are_the_same_bytes_each_time(folder, tmp_path):
    write_world(tmp_path, WorldConfig())
    assert digests(tmp_path) == digests(folder)
    assert sorted(digests(folder)) == [
        *(f"corpus/web-{i:05d}.warc.gz" for i in range(4)),
        "labels.jsonl",
        "questions.jsonl",
        "seed.jsonl",
        "tokenizer.model",
    ]


def test_another_draw_changes_all_but_the_tokenizer(folder, tmp_path):
    write_world(tmp_path, WorldConfig(draw=1))
    same = {name for name, d in digests(tmp_path).items() if digests(folder)[name] == d}
    assert same == {"tokenizer.model"}


def test_questions_and_labels_are_read_back(folder):
    config = WorldConfig()
    assert read_questions(folder / "questions.jsonl") == make_questions(make_world(config), config)
    labels = read_labels(folder / "labels.jsonl")
    assert sum(label.is_good for label in labels) == 210
    assert sum(label.vice == "boilerplate" for label in labels) == 5


@pytest.mark.parametrize("read", [read_labels, read_questions])
def test_a_broken_line_is_named(tmp_path, read):
    path = tmp_path / "broken.jsonl"
    path.write_text("{not json\n")
    with pytest.raises(UserError, match="line 1"):
        read(path)


def test_the_gin_file_binds_the_templates_of_the_pretraining_text():
    try:
        gin.parse_config_file(str(GIN_FILE))
        bound = prompts.Prompts()
    finally:
        gin.clear_config()
    assert bound.forward == templates.FORWARD
    assert bound.backward == templates.BACKWARD
    assert bound.rating == templates.RATING
    assert bound.score == templates.SCORE
    assert (bound.assistant_tag, bound.web_tag) == (prompts.ASSISTANT_TAG, prompts.WEB_TAG)

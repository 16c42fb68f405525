import dataclasses
import pathlib

import pytest

from humpback_jax.corpus.reading import ReadConfig
from humpback_jax.errors import UsageError
from humpback_jax.infer.engine import EngineConfig
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method.rating import RatingConfig
from humpback_jax.method.selection import SelectionConfig
from humpback_jax.partitioning import MeshConfig
from humpback_jax.prompts import Prompts
from humpback_jax.train.config import TrainConfig
from humpback_jax.train.optimizer import OptimizerConfig
from launch import configuration
from launch.jobs.tpu_vm import TpuVm
from launch.recipe import Arm, Pretraining, Recipe

LOOP = ["runs/loop.gin"]
REQUIRED = {"RUN_DIR": "run", "CORPUS": "*.warc.gz", "SEED": "seed.jsonl", "BASE": "llama"}
GIVEN = [f"{name} = '{value}'" for name, value in REQUIRED.items()]
# A file that does not include the loop is a part of recipes.
RECIPES = sorted(
    path.name
    for path in (configuration.package_configs() / "recipes").glob("*.gin")
    if "include 'runs/loop.gin'" in path.read_text()
)


def _refused(*words, files=LOOP, bindings=(), search=()):
    """Checks that a configuration is refused in one sentence that holds all words."""
    with pytest.raises(UsageError) as caught:
        configuration.parse(files, bindings, search)
        configuration.build(Recipe)
    message = str(caught.value)
    assert "\n" not in message
    assert "object at 0x" not in message
    for word in words:
        assert str(word) in message
    return message


def test_a_macro_that_no_file_has_is_refused_with_those_they_have():
    """Gin itself takes it, and nothing changes."""
    _refused("'TRAIN_STEP'", "TRAIN_STEPS", "RUN_DIR", bindings=["TRAIN_STEP = 3"])
    configuration.parse(LOOP, [*GIVEN, "TRAIN_STEPS=3"])
    assert configuration.build(TrainConfig).train_steps == 3


@pytest.mark.parametrize(
    ("binding", "word"),
    [
        ("TrainConfig.stepz = 3", "stepz"),
        ("NoConfig.steps = 3", "NoConfig"),
        ("TrainConfig.train_steps =", "TrainConfig.train_steps"),
        ("RUN_DIR = runs/x", "RUN_DIR = runs/x"),
        ("RUN_DIR = runs", "quotes"),
    ],
)
def test_a_binding_that_cannot_be_read_is_named(binding, word):
    rest = [b for b in GIVEN if not b.startswith(binding.split("=")[0].strip())]
    with pytest.raises(UsageError) as caught:
        configuration.parse(LOOP, [*rest, binding])
        configuration.build(TrainConfig)
    message = str(caught.value)
    assert "\n" not in message
    assert "object at 0x" not in message
    assert word in message


def test_a_file_that_is_nowhere_is_named_with_the_places_looked_at(tmp_path):
    _refused("'runs/nowhere.gin'", "gin_configs", files=["runs/nowhere.gin"])
    _refused("'other.gin'", tmp_path, files=["other.gin"], search=[str(tmp_path)])


def test_an_include_that_is_nowhere_is_named(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("include 'runs/nowhere.gin'\n")
    _refused("'runs/nowhere.gin'", files=[str(path)])


@pytest.mark.parametrize("content", [b"TRAIN_STEPS =\n", b"\xff\xfe\n", b"a b c\n"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "mine.gin"
    path.write_bytes(content)
    _refused(files=[str(path)])


def test_a_file_is_found_in_a_search_path(tmp_path):
    (tmp_path / "mine.gin").write_text("include 'runs/loop.gin'\ninclude 'part.gin'\n")
    (tmp_path / "part.gin").write_text("TRAIN_STEPS = 7\n")
    configuration.parse(["mine.gin"], GIVEN, [str(tmp_path)])
    assert configuration.build(TrainConfig).train_steps == 7


def test_later_files_and_flags_win(tmp_path):
    (tmp_path / "mine.gin").write_text("TRAIN_STEPS = 7\nBATCH_SIZE = 3\n")
    files = [*LOOP, str(tmp_path / "mine.gin")]
    configuration.parse(files, [*GIVEN, "BATCH_SIZE = 5", "TrainConfig.seed = 9"])
    config = configuration.build(TrainConfig)
    assert (config.train_steps, config.batch_size, config.seed) == (7, 5, 9)


def test_a_configuration_forgets_the_one_before():
    configuration.parse(LOOP, [*GIVEN, "TrainConfig.log_period = 77"])
    configuration.parse(LOOP, GIVEN)
    assert configuration.build(TrainConfig).log_period != 77


@pytest.mark.parametrize("missing", REQUIRED)
def test_a_required_value_is_asked_for(missing):
    bindings = [binding for binding in GIVEN if not binding.startswith(missing)]
    message = _refused(f"--gin.{missing}", bindings=bindings)
    assert not any(f"--gin.{name}" in message for name in REQUIRED if name != missing)


def test_all_required_values_are_asked_for_at_once():
    _refused(*REQUIRED)


def test_a_scope_binds_one_model():
    bindings = ["M1/TrainConfig.train_steps = 3", "M1/OptimizerConfig.learning_rate = 0.5"]
    configuration.parse(LOOP, [*GIVEN, *bindings, "TRAIN_STEPS = 4"])
    steps = {name: configuration.build(TrainConfig, name).train_steps for name in ("M0", "M1", "")}
    assert steps == {"M0": 4, "M1": 3, "": 4}
    assert configuration.build(OptimizerConfig, "M1").learning_rate == 0.5
    assert configuration.build(OptimizerConfig, "M2").learning_rate == 1e-5


def test_a_value_that_the_class_refuses_is_one_sentence():
    _refused("0 shards", bindings=[*GIVEN, "NUM_SHARDS = 0"])
    _refused("Recipe.arms", "M1", bindings=[*GIVEN, "Recipe.arms = ('M1',)"])
    with pytest.raises(UsageError) as caught:
        configuration.parse(LOOP, [*GIVEN, "MeshConfig.fsdp = 0"])
        configuration.build(MeshConfig)
    assert "at least one device" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_that_nothing_binds_are_named_with_the_flags_that_bind_them():
    configuration.parse([], ["TpuVm.name = 'hb'"])
    with pytest.raises(
        UsageError, match=r"TpuVm\.zone, .* must be given: add .*--gin\.TpuVm\.zone="
    ):
        configuration.build(TpuVm, "train")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds(name):
    """Every class that a stage builds, in every scope that the recipe's stages use."""
    bindings = [binding for binding in GIVEN if binding.split()[0] in _left_open(name)]
    configuration.parse([f"recipes/{name}"], bindings)
    recipe = configuration.build(Recipe)
    assert recipe.run_dir
    assert {*recipe.stages} >= {"segment", "seed", "base", "Myx", "augment", "M0", "report"}
    for scope in ("Myx", *recipe.forward_models, *recipe.arms):
        train = configuration.build(TrainConfig, scope)
        assert train.train_steps > 0
        assert train.batch_size > 0
        configuration.build(OptimizerConfig, scope)
        if scope != "Myx":
            configuration.build(Arm, scope)
            configuration.build(SelectionConfig, scope)
    for scope in ("augment", "evaluate"):
        configuration.build(EngineConfig, scope)
        configuration.build(SamplingConfig, scope)
    configuration.build(EngineConfig, "curate")
    configuration.build(RatingConfig, "curate1")
    for cls in (Prompts, MeshConfig):
        configuration.build(cls)
    if recipe.pretrain:
        configuration.build(Pretraining)
        configuration.build(TrainConfig, "pretrain")
        llama = configuration.build_llama()
        assert llama.num_parameters < 20e6


def _left_open(name):
    """Returns the macros that a recipe asks for."""
    configuration.parse([f"recipes/{name}"], [])
    try:
        configuration.build(Recipe)
    except UsageError as error:
        return {macro for macro in REQUIRED if macro in str(error)}
    return set()


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("humpback_7b.gin", {"RUN_DIR", "CORPUS", "SEED", "BASE"}),
        ("realweb_smoke.gin", {"RUN_DIR", "CORPUS", "SEED"}),
        ("quickstart.gin", set()),
        ("microworld_base.gin", set()),
    ],
)
def test_what_a_recipe_asks_for_is_what_its_head_says(name, asked):
    assert _left_open(name) == asked
    head = (configuration.package_configs() / "recipes" / name).read_text().split("include")[0]
    assert all(macro in head for macro in asked)


def test_the_values_of_the_paper():
    configuration.parse(["recipes/humpback_7b.gin"], GIVEN)
    optimizer = configuration.build(OptimizerConfig, "M2")
    assert (optimizer.learning_rate, optimizer.final_learning_rate) == (1e-5, 9e-6)
    assert (optimizer.schedule, optimizer.weight_decay) == ("linear", 0.1)
    train = configuration.build(TrainConfig, "Myx")
    assert (train.batch_size, train.dropout_rate, train.pack) == (32, 0.1, False)
    assert train.replay_rate == 0.0
    sampling = configuration.build(SamplingConfig, "augment")
    assert (sampling.temperature, sampling.top_p) == (0.7, 0.9)
    assert configuration.build(SelectionConfig, "M2").threshold == 4.5
    assert configuration.build(Recipe).iterations == 2


def test_the_configuration_text_gives_the_same_run(tmp_path):
    """What a run directory keeps as config.gin can be given as --gin_file."""
    configuration.parse(["recipes/quickstart.gin"], ["M1/TrainConfig.train_steps = 3"])
    text = configuration.config_text()
    scopes = ("Myx", "M0", "M1", "uncurated")

    def built():
        found = [configuration.build(Recipe), configuration.build(Prompts)]
        return found + [configuration.build(TrainConfig, scope) for scope in scopes]

    expected = built()
    (tmp_path / "config.gin").write_text(text)
    configuration.parse([str(tmp_path / "config.gin")], [])
    assert built() == expected
    assert configuration.config_text() == text


def test_placeholders_of_paths():
    configuration.parse(["recipes/quickstart.gin"], ["RUN_DIR = 'some/run'"])
    recipe = configuration.build(Recipe)
    assert recipe.path(recipe.seed) == "some/run/world/seed.jsonl"
    base = pathlib.Path(recipe.path(recipe.base))
    assert (base / "config.json").is_file()
    assert recipe.path("plain {other}") == "plain {other}"


def test_the_order_of_the_stages():
    recipe = Recipe("run", "c", "s", "b", iterations=1, arms=("plain",), world=True)
    assert recipe.stages == (
        *("world", "segment", "seed", "base", "Myx", "augment", "M0", "curate1", "M1"),
        *("plain", "evaluate", "report"),
    )
    assert recipe.evaluated == ("M0", "M1", "plain")
    assert dataclasses.replace(recipe, evaluate=("M1",)).evaluated == ("M1",)


def test_a_macro_that_is_used_but_not_defined(tmp_path):
    path = tmp_path / "x.gin"
    path.write_text("Recipe.run_dir = %SOMEWHERE\n")
    with pytest.raises(UsageError, match="use SOMEWHERE but nothing defines it"):
        configuration.parse([str(path)], [])
    configuration.parse([str(path)], ["SOMEWHERE='here'"])


def test_reading_is_configured_by_gin():
    configuration.parse(
        LOOP, [*GIVEN, "ReadConfig.on_bad_file = 'skip'", "ReadConfig.part_bytes = 9"]
    )
    assert configuration.build(ReadConfig) == ReadConfig(on_bad_file="skip", part_bytes=9)
    configuration.parse(LOOP, [*GIVEN, "ReadConfig.on_bad_file = 'ignore'"])
    with pytest.raises(UsageError, match="on_bad_file is 'ignore': choose 'stop' or 'skip'"):
        configuration.build(ReadConfig)

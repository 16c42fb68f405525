"""The adapter against a small stand-in for T5X, and, where T5X is installed, under T5X itself."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small_tokenizers
from etils import epath
from flax import core, traverse_util
from flax import linen as nn
from small_llama import SMALL

from humpback_jax import t5x_adapter
from humpback_jax.checkpoints import bundle, orbax
from humpback_jax.errors import UsageError, UserError
from humpback_jax.models.init import abstract_params, flatten, init_params
from humpback_jax.models.llama import Llama
from humpback_jax.train import loss
from humpback_jax.train.optimizer import OptimizerConfig, make_schedule

ROOT = Path(__file__).parents[2]
BASE = epath.resource_path("humpback_jax") / "microworld" / "base"
CONFIG = dataclasses.replace(SMALL, vocab_size=50, max_length=32, initializer_range=0.5)
# Two prompts that begin with BOS (1) and are padded with 0.
PROMPTS = jnp.array([[1, 5, 7, 9, 0, 0, 0, 0, 0, 0], [1, 8, 0, 0, 0, 0, 0, 0, 0, 0]])


@dataclasses.dataclass
class Vocabulary:
    """What the adapter asks of a vocabulary."""

    vocab_size: int = 50
    bos_id: int = 1
    eos_id: int = 2
    offset: int = 0


class DecoderOnlyModel:
    """Stands for t5x.models.DecoderOnlyModel."""

    FEATURE_CONVERTER_CLS = dict

    def __init__(self, module, vocabulary, optimizer_def, feature_converter_cls, **rest):
        self.module, self.output_vocabulary, self.rest = module, vocabulary, rest
        self.optimizer_def, self.feature_converter_cls = optimizer_def, feature_converter_cls


class TrainStateInitializer:
    """Stands for t5x.utils.TrainStateInitializer."""

    def __init__(self, params):
        self.params = params

    def from_scratch(self, init_rng):
        del init_rng
        return State(self.params)


@dataclasses.dataclass
class State:
    params: object

    def replace_params(self, params):
        return State(params)


@pytest.fixture
def fake(monkeypatch):
    """Puts a small t5x in the place of the real one."""
    parts = {
        "models": {"DecoderOnlyModel": DecoderOnlyModel},
        "utils": {"TrainStateInitializer": TrainStateInitializer},
        "optimizers": {"OptaxWrapper": lambda optax_optimizer: optax_optimizer},
    }
    monkeypatch.setitem(sys.modules, "t5x", types.ModuleType("t5x"))
    for name, content in parts.items():
        module = types.ModuleType(f"t5x.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, f"t5x.{name}", module)


@pytest.fixture(params=[0, 1])
def model(fake, request):
    vocabulary = Vocabulary(50 + request.param, 1, 2, request.param)
    return t5x_adapter.llama_model(CONFIG, vocabulary, None)


@pytest.fixture(scope="module")
def params():
    return core.freeze(nn.unbox(init_params(CONFIG, jax.random.key(0))))


@jax.jit
def _logits(params, tokens):
    """Returns the model's own logits of whole rows."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return Llama(CONFIG).apply({"params": params}, tokens, positions)[0]


def test_the_variables_are_parameters_and_their_axes(model):
    variables = model.get_initial_variables(jax.random.key(0), {"decoder_input_tokens": (2, 8)})
    assert set(variables) == {"params", "params_axes"}
    shapes = {name: leaf.shape for name, leaf in flatten(abstract_params(CONFIG)).items()}
    flat = traverse_util.flatten_dict(core.unfreeze(variables["params"]), sep="/")
    assert {name: leaf.shape for name, leaf in flat.items()} == shapes
    axes = traverse_util.flatten_dict(core.unfreeze(variables["params_axes"]), sep="/")
    assert {name.removesuffix("_axes"): len(a.names) for name, a in axes.items()} == {
        name: len(shape) for name, shape in shapes.items()
    }
    assert axes["layers/attention/query_axes"].names == ("layers", "embed", "heads", "kv")
    assert axes["embedding_axes"].names == ("vocab", "embed")


def _packed(offset=0):
    """Returns a batch of one row with two examples, as seqio makes it, with ids moved up."""
    batch = {
        "decoder_target_tokens": [[5, 6, 7, 2, 8, 9, 2, 0]],
        "decoder_input_tokens": [[1, 5, 6, 7, 1, 8, 9, 1]],
        "decoder_loss_weights": [[0, 0, 1, 1, 0, 1, 1, 0]],
        "decoder_segment_ids": [[1, 1, 1, 1, 2, 2, 2, 0]],
        "decoder_positions": [[0, 1, 2, 3, 0, 1, 2, 0]],
    }
    batch = {name: jnp.array(value) for name, value in batch.items()}
    for name in ("decoder_target_tokens", "decoder_input_tokens"):
        batch[name] = batch[name] + offset * (batch["decoder_segment_ids"] > 0)
    return batch


def _our_loss(params, batch):
    """Returns what our trainer would minimise."""
    logits, _ = Llama(CONFIG).apply(
        {"params": params},
        batch["decoder_input_tokens"],
        batch["decoder_positions"],
        batch["decoder_segment_ids"],
    )
    weights, segments = batch["decoder_loss_weights"], batch["decoder_segment_ids"]
    share = loss.shares(weights, segments, "NUM_REAL_TARGET_TOKENS")
    return loss.weighted_loss(logits, batch["decoder_target_tokens"], weights, share, 1e-3)[0]


def test_the_loss_of_a_packed_batch_is_our_trainers(model, params):
    """T5X's loss is the cross entropy of these logits and its z-loss, over the target tokens."""
    batch = _packed(model.output_vocabulary.offset)
    logits = model._compute_logits(params, batch)
    assert logits.shape[-1] == model.output_vocabulary.vocab_size
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    targets = batch["decoder_target_tokens"][..., None]
    cross_entropy = normalizer - jnp.take_along_axis(logits, targets, axis=-1)[..., 0]
    weights = batch["decoder_loss_weights"]
    total = ((cross_entropy + 1e-3 * normalizer**2) * weights).sum() / weights.sum()
    np.testing.assert_allclose(total, _our_loss(params, _packed()), rtol=1e-6)


def test_unpacked_rows_have_positions_from_0(model, params):
    batch = {"decoder_input_tokens": PROMPTS + model.output_vocabulary.offset}
    logits, variables = model._compute_logits(params, batch, mutable=["intermediates"])
    own = logits[..., model.output_vocabulary.offset :]
    np.testing.assert_allclose(own, _logits(params, PROMPTS), atol=1e-5)
    assert variables == {}


def test_dropout_needs_its_key(fake, params):
    model = t5x_adapter.llama_model(CONFIG, Vocabulary(), None, dropout_rate=0.5)
    first, second = (model._compute_logits(params, _packed(), jax.random.key(i)) for i in (0, 1))
    assert float(jnp.abs(first - second).max()) > 1e-3
    same = model._compute_logits(params, _packed())
    np.testing.assert_array_equal(same, model._compute_logits(params, _packed()))


def _greedy(model, params, prompts, steps):
    """Returns what T5X's loop generates: it feeds each row's last prompt token first."""
    cache, index = model._compute_kv_cache(params, prompts, prompts != 0)
    token = jnp.take_along_axis(prompts, index[:, None], axis=1)
    made = []

    @jax.jit
    def step(token, cache):
        state = types.SimpleNamespace(cur_token=token, cache=cache)
        return model._compute_logits_from_slice(state, params, prompts.shape[1])

    for _ in range(steps):
        logits, cache = step(token, cache)
        token = jnp.argmax(logits, axis=-1)[:, None]
        made.append(token[:, 0])
    return index, jnp.stack(made, axis=1)


def test_decoding_gives_what_the_whole_row_gives(model, params):
    offset = model.output_vocabulary.offset
    prompts = jnp.where(PROMPTS > 0, PROMPTS + offset, 0)
    index, made = _greedy(model, params, prompts, steps=5)
    assert index.tolist() == [3, 1]
    for row, (last, prompt) in enumerate(zip(index.tolist(), PROMPTS, strict=True)):
        tokens = [*prompt[: last + 1].tolist()]
        for _ in range(5):
            whole = jnp.zeros((1, 10), jnp.int32).at[0, : len(tokens)].set(jnp.array(tokens))
            tokens.append(int(jnp.argmax(_logits(params, whole)[0, len(tokens) - 1])))
        assert (made[row] - offset).tolist() == tokens[last + 1 :]


def test_the_cache_is_laid_out_as_t5x_handles_it(model, params):
    """Layers first, so that T5X, told of scanned layers, expands beams along the second axis."""
    assert model.module.scan_layers
    cache, index = model._compute_kv_cache(params, PROMPTS, PROMPTS != 0)
    assert cache["cached_key"].shape == cache["cached_value"].shape == (2, 2, 2, 10, 8)
    assert cache["cache_index"].tolist() == [index.tolist()] == [[3, 1]]
    beams = {
        "cached_key": jnp.repeat(cache["cached_key"], 3, axis=1),
        "cached_value": jnp.repeat(cache["cached_value"], 3, axis=1),
        "cache_index": jnp.repeat(cache["cache_index"][..., None], 3, axis=2),
    }
    tokens = jnp.repeat(jnp.array([[9], [8]]), 3, axis=0)
    state = types.SimpleNamespace(cur_token=tokens, cache=beams)
    logits, after = model._compute_logits_from_slice(state, params, 10)
    np.testing.assert_allclose(logits[0], logits[2], atol=1e-6)
    assert after["cache_index"].tolist() == [[[4] * 3, [2] * 3]]
    assert after["cached_key"].shape == beams["cached_key"].shape


def test_rows_begin_with_bos(fake):
    model = t5x_adapter.llama_model(CONFIG, Vocabulary(bos_id=7), "optimizer", z_loss=1e-4)
    assert model.feature_converter_cls(pack=True) == {"pack": True, "bos_id": 7}
    assert model.optimizer_def == "optimizer"
    assert model.rest == {"label_smoothing": 0.0, "z_loss": 1e-4, "loss_normalizing_factor": None}
    other = t5x_adapter.llama_model(CONFIG, Vocabulary(), None, decode_fn=max)
    assert other.rest["decode_fn"] is max


def test_what_does_not_fit_is_refused(fake):
    with pytest.raises(UsageError, match="the vocabulary has 51 pieces, the model only 50"):
        t5x_adapter.llama_model(CONFIG, Vocabulary(vocab_size=51), None)
    with pytest.raises(UsageError, match="LABEL_SMOOTHING is 0.1"):
        t5x_adapter.llama_model(CONFIG, Vocabulary(51, offset=1), None, label_smoothing=0.1)


def test_without_t5x_the_way_to_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "t5x.models", None)
    with pytest.raises(UserError, match=r"install T5X as docs/t5x\.md says"):
        t5x_adapter.llama_model(CONFIG, Vocabulary(), None)


def test_the_logged_learning_rate_is_the_one_in_use(fake):
    config = OptimizerConfig(learning_rate=1.0, final_learning_rate=0.5, clip_norm=1e9)
    logged = t5x_adapter.learning_rate(config, 10)
    assert [float(logged(step)) for step in (0, 5, 10)] == [1.0, 0.75, 0.5]
    config = dataclasses.replace(config, weight_decay=0.0, b1=0.0, b2=0.0, eps=0.0)
    optimizer, weight = t5x_adapter.optimizer(config, 10), {"w": jnp.ones(1)}
    state = optimizer.init(weight)
    for step in range(3):
        update, state = optimizer.update({"w": jnp.ones(1)}, state, weight)
        np.testing.assert_allclose(-update["w"], make_schedule(config, 10)(step), rtol=1e-6)


def test_training_begins_with_the_weights_of_a_folder(fake):
    config = t5x_adapter.folder_config(BASE, dtype="bfloat16", remat="full")
    assert (config.dtype, config.remat, config.attention) == ("bfloat16", "full", "xla")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("model"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    zeros = {
        path: jax.device_put(jnp.zeros(x.shape), split if path == "embedding" else whole)
        for path, x in flatten(abstract_params(config)).items()
    }
    start = core.freeze(traverse_util.unflatten_dict(zeros, sep="/"))
    state = t5x_adapter.base_initializer(BASE)(start).from_scratch(jax.random.key(0))
    assert isinstance(state.params, core.FrozenDict)
    assert state.params["embedding"].sharding == split
    expected = flatten(bundle.load_model(BASE, dtype="float32").params)
    for name, leaf in traverse_util.flatten_dict(core.unfreeze(state.params), sep="/").items():
        np.testing.assert_array_equal(leaf, expected[name])
        assert leaf.dtype == jnp.float32


def test_a_folder_of_ours_is_a_base_too(tmp_path, params):
    orbax.save_params(tmp_path, 3, core.unfreeze(params))
    card = bundle.ModelCard(CONFIG, (2,), "fingerprint", "checkpoint_3")
    bundle.write_card(tmp_path, card, small_tokenizers.packaged())
    assert t5x_adapter.folder_config(tmp_path).num_layers == CONFIG.num_layers
    read = t5x_adapter.read_params(tmp_path, params)
    jax.tree.map(np.testing.assert_array_equal, read, core.unfreeze(params))


def test_a_base_of_another_shape_is_refused(params):
    with pytest.raises(UserError, match="is of another model .914,560 parameters."):
        t5x_adapter.read_params(BASE, params)


# T5X itself, for which see docs/t5x.md.

TASK = """
import json, os
import seqio
import tensorflow as tf
from humpback_jax.data.vocabulary import TokenizerVocabulary, tokenize_examples

def dataset_fn(split, shuffle_files, seed=None):
    rows = [json.loads(line) for line in open(os.environ["EXAMPLES"])]
    columns = {name: [row[name] for row in rows] for name in ("inputs", "targets")}
    return tf.data.Dataset.from_tensor_slices(columns)

feature = seqio.Feature(TokenizerVocabulary(os.environ["BASE"]), add_eos=False)
seqio.TaskRegistry.add(
    "houses",
    source=seqio.FunctionDataSource(dataset_fn, splits=["train", "validation", "test"]),
    preprocessors=[tokenize_examples],
    output_features={"inputs": feature, "targets": feature},
    metric_fns=[],
)
"""


def _run_t5x(program, folder, *bindings):
    bindings = [
        f"BASE={str(BASE)!r}",
        "MIXTURE_OR_TASK_NAME='houses'",
        "MIXTURE_OR_TASK_MODULE='houses_task'",
        "DTYPE='float32'",
        *bindings,
    ]
    paths = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "EXAMPLES": str(folder / "examples.jsonl"),
        "BASE": str(BASE),
        "PYTHONPATH": os.pathsep.join(paths),
        "XLA_FLAGS": "",
    }
    name = {"train": "finetune", "infer": "infer"}[program]
    gin_file = f"gin_configs/t5x/{name}.gin"
    command = [sys.executable, "-m", f"t5x.{program}", f"--gin_file={gin_file}"]
    command += [f"--gin.{binding}" for binding in bindings]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture
def houses(tmp_path):
    """A folder with a task of 40 examples."""
    rows = [
        {"inputs": f"What is the colour of house {i % 7}?\n", "targets": f" It is red, {i}."}
        for i in range(40)
    ]
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "houses_task.py").write_text(TASK)
    return tmp_path


def _train(folder, model_dir, steps):
    _run_t5x(
        "train",
        folder,
        f"MODEL_DIR={str(folder / model_dir)!r}",
        f"TRAIN_STEPS={steps}",
        "SCHEDULE_STEPS=6",
        "TASK_FEATURE_LENGTHS={'inputs': 48, 'targets': 48}",
        "BATCH_SIZE=4",
        "EVAL_PERIOD=2",
        "EVAL_STEPS=1",
        "utils.SaveCheckpointConfig.period=2",
    )


def _restored(path):
    """Returns every leaf of a T5X checkpoint by its path."""
    state = ocp.PyTreeCheckpointer().restore(str(path / "state"))
    return {
        jax.tree_util.keystr(key): np.asarray(leaf)
        for key, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_t5x_trains_resumes_and_infers(houses):
    pytest.importorskip("t5x")
    _train(houses, "whole", 6)
    _train(houses, "parts", 4)
    _train(houses, "parts", 6)
    whole, parts = (_restored(houses / name / "checkpoint_6") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, leaf in whole.items():
        np.testing.assert_array_equal(leaf, parts[name], err_msg=name)
    start = _restored(houses / "whole" / "checkpoint_0")
    base = flatten(bundle.load_model(BASE, dtype="float32").params)
    np.testing.assert_array_equal(start["['target']['embedding']"], base["embedding"])
    assert np.abs(whole["['target']['embedding']"] - base["embedding"]).max() > 1e-6
    _run_t5x(
        "infer",
        houses,
        f"CHECKPOINT_PATH={str(houses / 'parts' / 'checkpoint_6')!r}",
        f"INFER_OUTPUT_DIR={str(houses / 'out')!r}",
        "TASK_FEATURE_LENGTHS={'inputs': 48, 'targets': 24}",
        "utils.DatasetConfig.batch_size=8",
        "decoding.temperature_sample.temperature=0.0",
    )
    (written,) = (houses / "out").glob("houses-predict.jsonl-00000-of-00001")
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert len(lines) == 40
    assert all(line["prediction"] for line in lines)
    assert written.with_name(written.name + ".COMPLETED").exists()


def _real_model(offset):
    pytest.importorskip("t5x")
    vocabulary = Vocabulary(50 + offset, 1 + offset, 2 + offset, offset)
    return t5x_adapter.llama_model(
        CONFIG, vocabulary, None, z_loss=1e-3, loss_normalizing_factor="NUM_REAL_TARGET_TOKENS"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("offset", [0, 1])
def test_t5xs_own_loss_is_our_trainers(params, offset):
    found, _ = _real_model(offset).loss_fn(params, _packed(offset), None)
    np.testing.assert_allclose(found, _our_loss(params, _packed()), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("offset", [0, 1])
def test_t5xs_own_decoding_is_greedy_as_ours(params, offset):
    model = _real_model(offset)
    decoding = pytest.importorskip("t5x.decoding")
    prompts = jnp.where(PROMPTS > 0, PROMPTS + offset, 0)
    batch = {
        "decoder_input_tokens": prompts,
        "decoder_causal_attention": (prompts > 0).astype(jnp.int32),
    }
    _, made = _greedy(model, params, prompts, steps=5)
    sample = functools.partial(decoding.temperature_sample, temperature=0.0, topk=0)
    for decode_fn, decodes in ((sample, 1), (sample, 3), (decoding.beam_search, 4)):
        model._decode_fn = decode_fn
        found, aux = model.predict_batch_with_aux(params, batch, num_decodes=decodes)
        assert aux["scores"].shape == (2,)
        assert int(found.max()) < model.output_vocabulary.vocab_size
        if decode_fn is sample:
            for row, ids in enumerate(np.asarray(made).tolist()):
                end = ids.index(2 + offset) + 1 if 2 + offset in ids else len(ids)
                assert found[row, :end].tolist() == ids[:end]

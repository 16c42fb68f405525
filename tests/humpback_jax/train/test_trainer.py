import dataclasses
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from flax import linen as nn
from small_llama import SMALL
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from humpback_jax import prompts
from humpback_jax.checkpoints import bundle, orbax
from humpback_jax.data import tasks
from humpback_jax.data.sentencepiece_tokenizer import train_tokenizer
from humpback_jax.errors import PreemptedError, UsageError, UserError
from humpback_jax.models.init import flatten, init_params
from humpback_jax.models.llama import Llama
from humpback_jax.partitioning import MeshConfig, make_mesh
from humpback_jax.train import step as train_step
from humpback_jax.train import trainer
from humpback_jax.train.config import TrainConfig
from humpback_jax.train.log import eval_folder, read_metrics
from humpback_jax.train.optimizer import OptimizerConfig, make_optimizer

LLAMA = dataclasses.replace(SMALL, vocab_size=304, initializer_range=0.2)
LENGTHS = {"inputs": 16, "targets": 16}
PADDING = "non_padding_fraction/decoder_target_tokens"
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, final_learning_rate=1e-3)
SETTINGS = TrainConfig(
    train_steps=6, batch_size=8, feature_lengths=LENGTHS, pack=True, dropout_rate=0.3, log_period=1
)
PAIRS = [
    prompts.Example(f"What is {thing}?\n", f"It is {colour}.")
    for thing in ("the cat", "a dog", "12", "the mat on the sea")
    for colour in ("red", "blue", "as green as the sea")
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([pair.prompt + pair.answer for pair in PAIRS], 300)


@pytest.fixture(scope="module")
def examples(tokenizer):
    named = [(f"pair {i}", pair) for i, pair in enumerate(PAIRS)]
    kept, too_long = tasks.tokenize(named, tokenizer, LENGTHS)
    assert too_long == 0
    return kept


@pytest.fixture(scope="module")
def params():
    """Returns initial parameters as numpy arrays, which no step can donate."""
    init = jax.jit(lambda key: nn.unbox(init_params(LLAMA, key)))
    return jax.device_get(init(jax.random.key(0)))


@pytest.fixture(scope="module")
def make_run(tokenizer, examples, params):
    def make(folder, shape=None, params=params, examples=examples):
        mesh = (
            make_mesh(MeshConfig(*shape)) if shape else make_mesh(MeshConfig(), jax.devices()[:1])
        )
        parts = [tasks.Part("seed", examples, 1.0)]
        load = None if params is None else lambda: params
        return trainer.Run(epath.Path(folder), LLAMA, load, tokenizer, (2,), parts, mesh)

    return make


def _rows(folder):
    """Returns the lines of metrics.jsonl but for their times."""
    return [
        {k: v for k, v in row.items() if not k.startswith("timing/")}
        for row in read_metrics(folder)
    ]


def _state(folder, step):
    """Returns a checkpoint's training state and data state as numpy."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    llama = dataclasses.replace(LLAMA, dropout_rate=SETTINGS.dropout_rate)
    optimizer = make_optimizer(OPTIMIZER, 10)
    shardings = train_step.state_shardings(llama, optimizer, mesh)
    target = train_step.abstract_state(llama, optimizer, shardings)
    with orbax.Checkpointer(folder, keep=100) as checkpointer:
        return jax.device_get(checkpointer.restore(step, target))


def _interrupt_after(monkeypatch, steps):
    """Lets the training be interrupted when it has done so many steps."""
    place, done = trainer.place, []

    def interrupted(batch, mesh):
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(batch)
        return place(batch, mesh)

    monkeypatch.setattr(trainer, "place", interrupted)


@pytest.fixture
def step_functions(monkeypatch):
    """Collects the step functions that trainings make."""
    made, make = [], train_step.make_train_step

    def collecting(*args):
        made.append(make(*args))
        return made[-1]

    monkeypatch.setattr(train_step, "make_train_step", collecting)
    return made


# On many devices.


@pytest.fixture(scope="module")
def one_device(make_run, tmp_path_factory):
    """Returns (folder, metrics, final state) of 6 steps on one device."""
    folder = tmp_path_factory.mktemp("one")
    trainer.train(make_run(folder), SETTINGS, OPTIMIZER)
    return folder, _rows(folder), _state(folder, 6)[0]


@pytest.fixture(scope="module")
def without_dropout(make_run, tmp_path_factory):
    """Returns (folder, card) of 6 steps on one device from fresh parameters."""
    folder = tmp_path_factory.mktemp("without")
    settings = dataclasses.replace(SETTINGS, dropout_rate=0.0)
    return folder, trainer.train(make_run(folder, params=None), settings, OPTIMIZER)


@pytest.mark.parametrize("shape", [(8, 1, 1, 1), (2, 2, 1, 2), (1, 4, 1, 2), (1, 2, 2, 2)])
def test_eight_devices_train_as_one(make_run, tmp_path, one_device, step_functions, shape):
    """Dropout is on: its masks must be the same on every mesh."""
    _, expected, state = one_device
    trainer.train(make_run(tmp_path, shape), SETTINGS, OPTIMIZER)
    rows = _rows(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row, want in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row["loss"], want["loss"], rtol=1e-5)
        np.testing.assert_allclose(row["grad_norm"], want["grad_norm"], rtol=1e-4)
        for key in ("target_tokens", PADDING, "learning_rate", "accuracy"):
            assert row[key] == pytest.approx(want[key]), key
    for name, leaf in flatten(_state(tmp_path, 6)[0].params).items():
        # A step moves a weight by 3e-3 at most.
        np.testing.assert_allclose(leaf, flatten(state.params)[name], atol=2e-4, err_msg=name)
    (step_fn,) = step_functions
    assert step_fn.jitted._cache_size() == 1


def test_dropout_is_on(one_device, without_dropout):
    """Both begin with the same parameters: those of seed 0."""
    for row, other in zip(one_device[1], _rows(without_dropout[0]), strict=True):
        assert row["target_tokens"] == other["target_tokens"]
        assert abs(row["loss"] - other["loss"]) > 1e-2


# Resuming.


@pytest.fixture(scope="module")
def uninterrupted(make_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    settings = dataclasses.replace(SETTINGS, train_steps=8, checkpoint_period=4)
    card = trainer.train(make_run(folder), settings, OPTIMIZER)
    return settings, card, _rows(folder), _state(folder, 8)


@pytest.mark.parametrize("steps", [2, 4, 6])
def test_a_resumed_run_equals_an_uninterrupted_one(
    make_run, tmp_path, monkeypatch, step_functions, uninterrupted, steps
):
    settings, expected_card, expected_rows, (expected, expected_data) = uninterrupted
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        _interrupt_after(patched, steps)
        trainer.train(make_run(tmp_path), settings, OPTIMIZER)
    assert len(_rows(tmp_path)) == steps
    assert not (tmp_path / "model.json").exists()
    card = trainer.train(make_run(tmp_path), settings, OPTIMIZER)
    assert _rows(tmp_path) == expected_rows
    state, data = _state(tmp_path, 8)
    assert data == expected_data == {"batches": 8}
    leaves = jax.tree_util.tree_leaves_with_path(state)
    assert len(leaves) > 3 * len(flatten(state.params))  # parameters, two moments, counts
    for (path, leaf), want in zip(leaves, jax.tree.leaves(expected), strict=True):
        assert leaf.tobytes() == want.tobytes(), jax.tree_util.keystr(path)
    assert card == expected_card
    assert [step_fn.jitted._cache_size() for step_fn in step_functions] == [1, 1]


def test_a_finished_run_trains_no_more(make_run, tmp_path, monkeypatch, one_device):
    shutil.copytree(one_device[0], tmp_path / "run")
    rows = read_metrics(tmp_path / "run")
    _interrupt_after(monkeypatch, 0)
    card = trainer.train(make_run(tmp_path / "run"), SETTINGS, OPTIMIZER)
    assert card == bundle.read_card(one_device[0])
    assert read_metrics(tmp_path / "run") == rows


def test_log_lines_are_means_over_their_steps(make_run, tmp_path, one_device):
    settings = dataclasses.replace(SETTINGS, log_period=4)
    trainer.train(make_run(tmp_path), settings, OPTIMIZER)
    rows, single = _rows(tmp_path), one_device[1]
    assert [row["step"] for row in rows] == [4, 6]  # the last step always has its line
    for row, part in zip(rows, (single[:4], single[4:]), strict=True):
        tokens = sum(one["target_tokens"] for one in part)
        losses = sum(one["cross_ent_loss"] * one["target_tokens"] for one in part)
        assert row["target_tokens"] == tokens
        assert row["cross_ent_loss"] == pytest.approx(losses / tokens, rel=1e-6)
        assert row["loss"] == pytest.approx(np.mean([one["loss"] for one in part]), rel=1e-6)


# What is learned.


def test_the_loss_falls_on_a_few_examples(make_run, tmp_path, examples):
    settings = dataclasses.replace(
        SETTINGS, train_steps=40, dropout_rate=0.0, pack=False, batch_size=4, log_period=10
    )
    optimizer = OptimizerConfig(learning_rate=1e-2, final_learning_rate=1e-2, weight_decay=0.0)
    trainer.train(make_run(tmp_path, examples=examples[:3]), settings, optimizer)
    rows = _rows(tmp_path)
    assert rows[-1]["loss"] < 0.2 < 2.0 < rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.9


def test_a_trained_folder_is_a_model_folder(without_dropout, tokenizer):
    folder, card = without_dropout
    model = bundle.load_model(folder)
    assert model.config == LLAMA
    assert (model.fingerprint, model.eos_ids) == (card.fingerprint, (2,))
    assert orbax.digest(model.params) == card.fingerprint
    assert model.tokenizer.model == tokenizer.model
    information = (folder / "model-info.txt").read_text()
    for name, leaf in flatten(model.params).items():
        assert f"{name} " in information
        assert str(leaf.shape) in information
    assert f"Total number of parameters: {LLAMA.num_parameters}\n" in information


@pytest.mark.parametrize(("schedule", "warmup"), [("linear", 0), ("cosine", 2)])
def test_the_logged_learning_rate_is_the_one_in_use(make_run, tmp_path, params, schedule, warmup):
    """Without moments and decay, Adam moves every weight by the learning rate."""
    optimizer = OptimizerConfig(
        learning_rate=1e-2,
        final_learning_rate=2e-3,
        schedule=schedule,
        warmup_steps=warmup,
        weight_decay=0.0,
        b1=0.0,
        b2=0.0,
        clip_norm=1e9,
    )
    settings = dataclasses.replace(SETTINGS, checkpoint_period=1, keep_checkpoints=10)
    trainer.train(make_run(tmp_path), settings, optimizer)
    rates = [row["learning_rate"] for row in _rows(tmp_path)]
    before, used = params["layers"]["mlp"]["up"], []
    for step in range(1, 7):
        after = _state(tmp_path, step)[0].params["layers"]["mlp"]["up"]
        used.append(np.abs(after - before).max())
        before = after
    np.testing.assert_allclose(used, rates, rtol=1e-3, atol=1e-7)
    assert len({*rates}) == 6
    assert max(rates) == pytest.approx(1e-2)
    if warmup:
        assert rates[0] == 0.0
        assert rates[warmup] == max(rates)


def _losses(params, batch):
    """Returns the cross entropy of each token [B, T]."""

    @jax.jit
    def losses(params, batch):
        logits = train_step.apply_model(Llama(LLAMA), params, batch, None)
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, batch["decoder_target_tokens"]
        )

    with jax.default_matmul_precision("highest"):
        return np.asarray(losses(params, batch))


def _batch(examples, pack, rows, seed=0):
    mixture = tasks.make_mixture("losses", [tasks.Part("one", examples, 1.0)], 300)
    return next(tasks.BatchIterator(mixture, LENGTHS, rows, 1, seed, pack))


def test_packed_and_unpacked_losses_agree(params, examples):
    def by_example(batch):
        found, losses = {}, _losses(params, batch)
        for row in range(len(losses)):
            segments = batch["decoder_segment_ids"][row]
            for segment in range(1, segments.max() + 1):
                own = segments == segment
                weights = batch["decoder_loss_weights"][row][own]
                tokens = tuple(batch["decoder_target_tokens"][row][own].tolist())
                found[tokens] = (losses[row][own] * weights).sum() / weights.sum()
        return found

    packed, unpacked = _batch(examples, True, 8), _batch(examples, False, 64)
    assert packed["decoder_segment_ids"].max() > 1
    alone, together = by_example(unpacked), by_example(packed)
    assert len(alone) == len(examples)
    assert len(together) >= len(examples) // 2
    for tokens, loss in together.items():
        assert loss == pytest.approx(alone[tokens], rel=1e-5)


def test_only_the_answer_is_learned_and_only_the_past_is_seen(params, examples):
    settings = dataclasses.replace(SETTINGS, pack=False)

    @jax.jit
    def loss_and_gradient(batch):
        gradient, metrics = train_step.make_gradient(LLAMA, settings)(params, batch, None)
        return metrics["loss"], optax.tree.norm(gradient)

    batch = {
        k: jnp.asarray(v) for k, v in _batch(examples, False, 4).items() if k.startswith("decoder_")
    }
    expected = loss_and_gradient(batch)
    weights, own = batch["decoder_loss_weights"] > 0, batch["decoder_segment_ids"] > 0

    def changed(name, where):
        other = (batch[name] + 7) % 300
        return loss_and_gradient({**batch, name: jnp.where(where, other, batch[name])})

    targets, inputs = "decoder_target_tokens", "decoder_input_tokens"
    # Labels of the prompt and of padding do not count; the answer's do.
    assert changed(targets, ~weights) == expected
    assert changed(targets, weights)[0] != pytest.approx(float(expected[0]), rel=1e-3)
    # What stands in padding is not read; what stands in the prompt is.
    np.testing.assert_allclose(changed(inputs, ~own), expected, rtol=1e-6)
    assert changed(inputs, own & ~weights)[0] != pytest.approx(float(expected[0]), rel=1e-3)


# What a person can mend.


def test_a_batch_that_the_devices_do_not_divide(make_run, tmp_path):
    settings = dataclasses.replace(SETTINGS, batch_size=6)
    with pytest.raises(UsageError, match="a batch of 6 rows cannot be split over .* 8 devices"):
        trainer.train(make_run(tmp_path / "run", (4, 2, 1, 1)), settings, OPTIMIZER)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_no_numbers_end_the_training(make_run, tmp_path, params):
    broken = {**params, "embedding": np.full_like(params["embedding"], np.nan)}
    with pytest.raises(
        UserError, match="stopped at step 1, where the loss is nan.* none was saved"
    ):
        trainer.train(make_run(tmp_path, params=broken), SETTINGS, OPTIMIZER)
    assert _rows(tmp_path) == []
    assert not list(tmp_path.glob("checkpoint_*"))


def _batches_seen(monkeypatch):
    """Collects the batches that trainings read."""
    seen, place = [], trainer.place
    monkeypatch.setattr(
        trainer, "place", lambda batch, mesh: (seen.append(batch), place(batch, mesh))[1]
    )
    return seen


def _pairs_of(batch, tokenizer):
    """Returns the names of the pairs whose prompt and answer can be read in a batch."""
    texts = [tokenizer.decode(row.tolist()) for row in batch["decoder_target_tokens"]]
    return {
        f"pair {i}"
        for i, pair in enumerate(PAIRS)
        if any(pair.prompt + pair.answer in text for text in texts)
    }


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(
    make_run, tmp_path, monkeypatch, tokenizer
):
    make = train_step.make_train_step

    def failing_at_step_3(*args):
        step_fn, steps = make(*args), []

        def run(state, batch):
            state, metrics = step_fn(state, batch)
            steps.append(metrics)
            if len(steps) == 3:
                metrics["loss"] = metrics["loss"] + jnp.inf
            return state, metrics

        return run

    monkeypatch.setattr(train_step, "make_train_step", failing_at_step_3)
    batches = _batches_seen(monkeypatch)
    settings = dataclasses.replace(SETTINGS, checkpoint_period=1, keep_checkpoints=1)
    with pytest.raises(UserError) as caught:
        trainer.train(make_run(tmp_path), settings, OPTIMIZER)
    message = str(caught.value)
    assert "stopped at step 3, where the loss is inf" in message
    assert "the last is checkpoint_2:" in message
    assert "\n" not in message
    (failed,) = (tmp_path / "train").glob("failed_step_3.json")
    ids = json.loads(failed.read_text())["example_ids"]
    assert set(ids) == _pairs_of(batches[2], tokenizer)
    assert all(example_id in message for example_id in ids[:4])
    assert [row["step"] for row in _rows(tmp_path)] == [1, 2]
    assert [path.name for path in tmp_path.glob("checkpoint_*")] == ["checkpoint_2"]
    assert all(np.isfinite(json.loads(line)["loss"]) for line in _lines(tmp_path))


@pytest.mark.parametrize(("divergence", "stops"), [(1.0, True), (0.0, False)])
def test_a_loss_that_rises_too_far_ends_the_training(make_run, tmp_path, divergence, stops):
    settings = dataclasses.replace(SETTINGS, divergence=divergence, train_steps=12)
    wild = OptimizerConfig(learning_rate=3.0, final_learning_rate=3.0, warmup_steps=2)
    run = make_run(tmp_path)
    if not stops:
        trainer.train(run, settings, wild)
        return
    with pytest.raises(UserError, match=r"its lowest was [\d.]+: it diverges"):
        trainer.train(run, settings, wild)


def test_sigterm_saves_the_step_and_the_same_command_goes_on(
    make_run, tmp_path, monkeypatch, uninterrupted
):
    settings, expected_card, _, (expected, _) = uninterrupted
    settings = dataclasses.replace(settings, checkpoint_period=100)
    place, done = trainer.place, []

    def terminated(batch, mesh):
        done.append(batch)
        if len(done) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return place(batch, mesh)

    monkeypatch.setattr(trainer, "place", terminated)
    with pytest.raises(
        PreemptedError, match="saved at step 5 of 8: run the same command"
    ) as caught:
        trainer.train(make_run(tmp_path), settings, OPTIMIZER)
    assert caught.value.exit_code == 42
    assert [path.name for path in tmp_path.glob("checkpoint_*")] == ["checkpoint_5"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert trainer.train(make_run(tmp_path), settings, OPTIMIZER) == expected_card
    state, _ = _state(tmp_path, 8)
    for leaf, want in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert leaf.tobytes() == want.tobytes()


def test_the_log_is_written_for_tensorboard_as_well(one_device):
    folder, rows, _ = one_device
    (events,) = (folder / "train").glob("events.out.tfevents.*")
    scalars = {}
    for event in EventFileLoader(str(events)).Load():
        for value in event.summary.value:
            scalars.setdefault(value.tag, []).append(tensor_util.make_ndarray(value.tensor))
    assert scalars.keys() >= {"loss", "learning_rate", "timing/uptime", PADDING}
    np.testing.assert_allclose(scalars["loss"], [row["loss"] for row in rows], rtol=1e-6)


def test_the_loss_on_other_pairs_is_measured(make_run, tmp_path, examples, one_device):
    """It changes nothing of the training, and is that of the parameters at that step."""
    _, rows, state = one_device
    run = dataclasses.replace(make_run(tmp_path), validation=examples[:5])
    trainer.train(run, dataclasses.replace(SETTINGS, eval_period=3), OPTIMIZER)
    assert _rows(tmp_path) == rows
    found = read_metrics(tmp_path, eval_folder("validation"))
    assert [row["step"] for row in found] == [3, 6]
    batch = _batch(examples[:5], False, 64)
    own = {tuple(e.inputs) + tuple(e.targets) for e in examples[:5]}
    losses, total, count = _losses(state.params, batch), 0.0, 0
    for row, tokens in enumerate(batch["decoder_target_tokens"]):
        one = tuple(tokens[batch["decoder_segment_ids"][row] > 0].tolist())
        if one in own:
            own.remove(one)
            weights = batch["decoder_loss_weights"][row]
            total, count = total + (losses[row] * weights).sum(), count + weights.sum()
    assert not own
    assert found[-1]["target_tokens"] == count
    assert found[-1]["cross_ent_loss"] == pytest.approx(total / count, rel=1e-5)
    assert list((tmp_path / "training_eval" / "validation").glob("events.out.tfevents.*"))


def test_the_log_has_t5x_names(one_device):
    (row, *_) = read_metrics(one_device[0])
    per_second = ("seqs", "steps", "tokens", "target_tokens")
    assert row.keys() == {
        "step", "loss", "cross_ent_loss", "z_loss", "loss_per_nonpadding_target_token",
        "accuracy", "learning_rate", "grad_norm", "target_tokens",
        "non_padding_fraction/decoder_target_tokens", "non_padding_fraction/loss_weights",
        "timing/compilation_seconds", "timing/checkpoint_seconds", "timing/uptime",
        *(f"timing/{name}_per_second" for name in per_second),
        *(f"timing/{name}_per_second_per_core" for name in per_second),
    }  # fmt: skip


def _lines(folder):
    return (folder / "train" / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize(
    "change",
    [
        {"train_steps": 0},
        {"batch_size": 0},
        {"log_period": 0},
        {"checkpoint_period": 0},
        {"keep_checkpoints": 0},
        {"feature_lengths": {"inputs": 16}},
        {"feature_lengths": {"inputs": -1, "targets": 16}},
        {"feature_lengths": {"inputs": 16, "targets": 0}},
        {"replay_rate": 1.0},
        {"label_smoothing": 1.0},
        {"loss_normalizing_factor": "TOKENS"},
        {"microbatches": 0},
        {"microbatches": 3},
    ],
)
def test_numbers_that_make_no_training_are_refused(change):
    with pytest.raises(UsageError) as caught:
        dataclasses.replace(SETTINGS, **change)
    assert f"TrainConfig.{next(iter(change))}" in str(caught.value)


def test_a_schedule_that_is_not_known_is_refused():
    with pytest.raises(UsageError, match="'constant'"):
        OptimizerConfig(schedule="constant")

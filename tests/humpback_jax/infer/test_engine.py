import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from humpback_jax import partitioning
from humpback_jax.checkpoints import foreign, huggingface
from humpback_jax.errors import UsageError, UserError
from humpback_jax.infer import steps, weights
from humpback_jax.infer.engine import Engine, EngineConfig, Request
from humpback_jax.infer.packing import BatchShape
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.infer.weights import Weights
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.dense import TRAINED
from humpback_jax.models.init import init_params
from humpback_jax.models.llama import Llama

CONFIG = LlamaConfig(
    vocab_size=64, embed_dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    mlp_dim=64, max_length=64, rope_theta=10000.0, norm_eps=1e-5, tie_embeddings=False,
    initializer_range=0.3,
)  # fmt: skip
PARAMS = nn.unbox(init_params(CONFIG, jax.random.key(0)))
LONG = dataclasses.replace(CONFIG, max_length=512)
SHAPES = EngineConfig(slots=4, buckets=(6, 16))
GREEDY = SamplingConfig(max_new_tokens=8, temperature=0)
SAMPLED = SamplingConfig(max_new_tokens=8, temperature=1.0, seed=7)
STOP = 2
INT8 = {"cache_dtype": "int8", "weights_dtype": "int8"}
KEPT = pytest.mark.parametrize("kept", [{}, INT8], ids=["as computed", "int8"])


def engine(**kwargs) -> Engine:
    shapes = dataclasses.replace(SHAPES, **kwargs.pop("shapes", {}))
    model = kwargs.pop("model", CONFIG)
    params = kwargs.pop("params", PARAMS)
    return Engine(model, params, shapes, **{"stop_ids": (STOP,), **kwargs})


def prompts(count: int, longest: int = 16, seed: int = 0) -> list[Request]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, count)
    return [Request(f"r{i}", rng.integers(3, 64, n).tolist()) for i, n in enumerate(lengths)]


def forward(ids: list[int]) -> np.ndarray:
    """Log-probabilities of the next token, without cache, bucket or batch."""
    return np.asarray(_forward(jnp.array([ids + [0] * (64 - len(ids))])))[len(ids) - 1]


@jax.jit
def _forward(tokens):
    logits, _ = Llama(CONFIG).apply({"params": PARAMS}, tokens, jnp.arange(64)[None])
    return jax.nn.log_softmax(logits[0])


@pytest.mark.usefixtures("optimised")
def test_greedy_generation_equals_the_uncached_forward_token_by_token():
    requests = prompts(9)
    for request, result in zip(requests, engine().generate(requests, GREEDY), strict=True):
        ids, total = list(request.prompt_ids), 0.0
        for token in result.token_ids:
            log_probs = forward(ids)
            assert token == log_probs.argmax()
            ids.append(token)
            total += log_probs[token]
        if result.finish_reason == "stop":
            assert forward(ids).argmax() == STOP
            total += forward(ids)[STOP]
        else:
            assert len(result.token_ids) == 8
        assert result.logprob == pytest.approx(total, abs=1e-4)


def test_both_ways_to_finish_occur():
    # Every token but one stops: some rows stop early, while their neighbours go on.
    stopping = engine(stop_ids=tuple(range(20)))
    results = stopping.generate(prompts(40), SAMPLED)
    assert {r.finish_reason for r in results} == {"stop", "length"}
    for result in results:
        assert not set(result.token_ids) & set(range(20))
        assert (len(result.token_ids) == 8) == (result.finish_reason == "length")


@pytest.mark.usefixtures("optimised")
@KEPT
def test_a_result_is_bit_identical_whatever_the_neighbours_order_or_slot(kept):
    requests = prompts(11)
    together = engine(shapes=kept).generate(requests, SAMPLED)
    assert [r.request_id for r in together] == [r.request_id for r in requests]
    backwards = engine(shapes=kept).generate(requests[::-1], SAMPLED)[::-1]
    assert backwards == together  # logprob is compared bit by bit
    alone = [engine(shapes=kept).generate([r], SAMPLED)[0] for r in requests]
    assert alone == together
    crowded = engine(shapes=kept).generate(prompts(7, seed=1)[:6] + requests, SAMPLED)[6:]
    assert crowded == together


@pytest.mark.usefixtures("optimised")
@KEPT
def test_tokens_do_not_depend_on_slots_refills_windows_or_host_visits(kept):
    """Caches of 300 tokens in blocks of 128, limits from 1 to 150: every window occurs."""
    sampling = dataclasses.replace(SAMPLED, max_new_tokens=150)
    limits = np.random.default_rng(1).integers(1, 151, 12).tolist()
    requests = [
        dataclasses.replace(r, max_new_tokens=n)
        for r, n in zip(prompts(12, 150), limits, strict=True)
    ]
    shapes = {"buckets": (150,), "slots": 3, "steps_per_sync": 150, **kept}
    found = engine(model=LONG, shapes=shapes).generate(requests, sampling)
    assert max(len(r.token_ids) for r in found) > 100
    for changes in ({"slots": 12}, {"slots": 1}, {"steps_per_sync": 1, "max_batch_tokens": 300}):
        other = engine(model=LONG, shapes=shapes | changes).generate(requests, sampling)
        assert [r.token_ids for r in other] == [r.token_ids for r in found]
    alone = engine(model=LONG, shapes=shapes).generate(requests[-1:], sampling)
    assert alone == found[-1:]  # to the bit, though its window is another


def test_a_slot_is_taken_again_before_its_neighbour_is_done(monkeypatch):
    """Nine requests of 1 and one of 40 tokens in two slots: the long one never waits."""
    taken = []
    decode = steps.decode
    monkeypatch.setattr(steps, "decode", lambda *args: (taken.append(decode(*args)), taken[-1])[1])
    sampling = SamplingConfig(max_new_tokens=40, temperature=0)
    requests = [dataclasses.replace(r, max_new_tokens=4) for r in prompts(9, 6)]
    requests.append(Request("long", [5, 6]))
    shapes = {"slots": 2, "buckets": (6,), "max_batch_tokens": 6, "steps_per_sync": 40}
    results = engine(shapes=shapes, stop_ids=()).generate(requests, sampling)
    assert [len(r.token_ids) for r in results] == [4] * 9 + [40]
    assert len(taken) <= 12


@pytest.mark.usefixtures("optimised")
@KEPT
def test_what_is_no_number_stays_in_its_own_request(kept):
    params = {**PARAMS, "embedding": PARAMS["embedding"].at[60].set(jnp.nan)}
    shapes = dataclasses.replace(SHAPES, slots=1, buckets=(6,), **kept)
    one_slot = Engine(CONFIG, params, shapes, ())
    bad, good = Request("bad", [5, 60]), Request("good", [5, 6, 7])
    found = one_slot.generate([bad, good], GREEDY)
    assert np.isnan(found[0].logprob)
    assert found[1] == one_slot.generate([good], GREEDY)[0]
    assert np.isfinite(found[1].logprob)
    scores = engine(params=params).score_choices([bad, good], [4, 5]).log_probs  # read together
    assert np.isnan(scores[0]).all()
    assert np.isfinite(scores[1]).all()


def test_a_stop_string_ends_a_request_wherever_the_host_looks():
    def detokenize(ids):
        return "".join(chr(97 + i % 26) for i in ids)

    plain = engine(stop_ids=()).generate(prompts(6), SAMPLED)
    texts = [detokenize(r.token_ids) for r in plain]
    stop = texts[0][3:5]
    sampling = dataclasses.replace(SAMPLED, stop_strings=(stop, "never"))
    for steps_per_sync in (1, 3, 32):
        shapes = {"steps_per_sync": steps_per_sync}
        stopping = engine(shapes=shapes, stop_ids=(), detokenize=detokenize)
        for before, text, result in zip(
            plain, texts, stopping.generate(prompts(6), sampling), strict=True
        ):
            end = text.index(stop) + 2 if stop in text else len(text)
            assert result.token_ids == before.token_ids[:end]
            assert result.logprobs == before.logprobs[:end]
            assert result.stop_string == (stop if stop in text else "")
            assert result.finish_reason == ("stop" if stop in text else "length")


@pytest.mark.parametrize(
    "kept", [{"cache_dtype": "bfloat16"}, {"cache_dtype": "int8"}, {"weights_dtype": "int8"}, INT8]
)
def test_fewer_bits_are_near(kept):
    requests = prompts(8)
    plain = engine().generate(requests, GREEDY)
    rounded = engine(shapes=kept).generate(requests, GREEDY)
    same = np.mean([a.token_ids == b.token_ids for a, b in zip(plain, rounded, strict=True)])
    assert same >= 0.5
    assert any(a.logprobs != b.logprobs for a, b in zip(plain, rounded, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_both_forms_of_int8_weights_give_the_same(dtype):
    """The one for TPUs, stacked with a cache in one piece, and the one for CPUs."""
    model = dataclasses.replace(CONFIG, dtype=dtype)
    found = [
        Engine(model, quantised, dataclasses.replace(SHAPES, cache_dtype="int8"), (STOP,))
        for quantised in (
            weights.prepare(PARAMS, "int8"),
            weights.quantised(Weights(PARAMS, TRAINED)),
        )
    ]
    scores = [e.score_choices(prompts(8), [4, 5, 6]).log_probs for e in found]
    np.testing.assert_allclose(*scores, atol=1e-5 if dtype == "float32" else 0.2)
    if dtype == "float32":
        a, b = ([r.token_ids for r in e.generate(prompts(8), GREEDY)] for e in found)
        assert a == b


def test_more_slots_than_memory_are_refused_before_they_are_made():
    with pytest.raises(UserError, match=r"slots of 24 tokens take .* set EngineConfig.slots to at"):
        engine(shapes={"slots": 2**40}).generate(prompts(1), GREEDY)


def test_seed_and_id_decide_the_draw():
    request = prompts(1)[0]
    first = engine().generate([request], SAMPLED)
    assert engine().generate([request], dataclasses.replace(SAMPLED, seed=8)) != first
    renamed = engine().generate([dataclasses.replace(request, request_id="other")], SAMPLED)
    assert renamed[0].token_ids != first[0].token_ids


def test_a_request_may_lower_the_limit():
    requests = [Request("a", [3, 4, 5], max_new_tokens=1), Request("b", [3, 4, 5])]
    short, long = engine(stop_ids=()).generate(requests, GREEDY)
    assert long.token_ids[:1] == short.token_ids
    assert (len(short.token_ids), len(long.token_ids)) == (1, 8)


def test_too_long_requests_come_back_and_harm_nobody():
    good, long = prompts(1)[0], Request("long", list(range(3, 20)))
    results = engine().generate([long, good], GREEDY)
    assert (results[0].finish_reason, results[0].token_ids) == ("too_long", ())
    assert results[1] == engine().generate([good], GREEDY)[0]
    scores = engine().score_choices([long, good], [5, 6])
    assert scores.too_long.tolist() == [True, False]
    assert np.isnan(scores.probabilities[0]).all()


def test_generation_ends_at_the_models_longest_sequence():
    shapes = {"buckets": (64,)}
    almost = Request("almost", [3] * 62)
    assert len(engine(shapes=shapes, stop_ids=()).generate([almost], GREEDY)[0].token_ids) == 2
    full = Request("full", [3] * 64)
    assert engine(shapes=shapes).generate([full], GREEDY)[0].finish_reason == "too_long"
    assert not engine(shapes=shapes).score_choices([full], [1]).too_long[0]


def test_impossible_requests_are_named():
    with pytest.raises(ValueError, match="request x has no tokens"):
        engine().generate([Request("x", [])], GREEDY)
    with pytest.raises(ValueError, match="request x asks for 0 tokens"):
        engine().generate([Request("x", [1], max_new_tokens=0)], GREEDY)


@pytest.mark.usefixtures("optimised")
def test_a_shared_prefix_changes_nothing():
    prefix = [9, 8, 7, 6, 5]
    requests = [dataclasses.replace(r, prompt_ids=prefix + list(r.prompt_ids)) for r in
                prompts(6, longest=8)]  # fmt: skip
    requests.append(Request("begins otherwise", [9, 8, 7, 1]))
    requests.append(Request("the prefix alone", prefix))
    plain, shared = engine(), engine()
    without = plain.generate(requests, GREEDY)
    within = shared.generate(requests, GREEDY, prefix=prefix)
    assert [r.token_ids for r in within] == [r.token_ids for r in without]
    for a, b in zip(within, without, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
    choices = [10, 20, 30]
    np.testing.assert_allclose(
        shared.score_choices(requests, choices, prefix=prefix).log_probs,
        plain.score_choices(requests, choices).log_probs,
        atol=1e-5,
    )


def test_a_shared_prefix_makes_room_in_the_buckets_and_is_computed_once():
    prefix, before = list(range(3, 23)), steps.TRACES["prefix"]
    prefixed, request = engine(), Request("a", [*prefix, 5, 6])
    assert engine().generate([request], GREEDY)[0].finish_reason == "too_long"
    result = prefixed.generate([request], GREEDY, prefix=prefix)[0]
    assert result.token_ids[0] == forward([*prefix, 5, 6]).argmax()
    kept = prefixed._shared_prefix(tuple(prefix))
    assert prefixed._shared_prefix(tuple(prefix)) is kept
    assert steps.TRACES["prefix"] == before + 1


def test_choices_are_scored_as_the_forward_scores_them():
    requests, choices = prompts(9), [4, 5, 6, 63]
    scores = engine().score_choices(requests, choices)
    for i, request in enumerate(requests):
        expected = forward(list(request.prompt_ids))[choices]
        np.testing.assert_allclose(scores.log_probs[i], expected, atol=1e-4)
        among = np.exp(expected) / np.exp(expected).sum()
        np.testing.assert_allclose(scores.probabilities[i], among, atol=1e-4)
    alone = np.concatenate([engine().score_choices([r], choices).log_probs for r in requests])
    np.testing.assert_array_equal(alone, scores.log_probs)


def test_stacked_layers_as_an_accelerator_has_them_give_the_same():
    """On a CPU the engine splits them, so their path is taken on purpose here."""
    prefix, kept = [5, 6, 7], Weights(PARAMS, TRAINED)
    requests = [Request(r.request_id, [*prefix, *r.prompt_ids]) for r in prompts(9, 13)]
    stacked, split = engine(params=kept), engine()
    found = stacked.generate(requests, SAMPLED, prefix)
    expected = split.generate(requests, SAMPLED, prefix)
    assert [r.token_ids for r in found] == [r.token_ids for r in expected]
    np.testing.assert_allclose(
        stacked.score_choices(requests, [4, 5], prefix).log_probs,
        split.score_choices(requests, [4, 5], prefix).log_probs,
        atol=1e-4,
    )


def test_nothing_to_do_is_done():
    assert engine().generate([], GREEDY) == []
    assert engine().score_choices([], [1, 2]).probabilities.shape == (0, 2)


def test_nothing_is_compiled_after_warming_up(caplog):
    sampling = dataclasses.replace(SAMPLED, max_new_tokens=150)
    params = jax.device_put(PARAMS, jax.devices()[0])  # committed, as a checkpoint's are
    shapes = {"buckets": (6,), "steps_per_sync": 8}
    long = {"model": LONG, "params": params, "shapes": shapes, "stop_ids": ()}
    prefix = [9, 8, 7]
    requests = [*prompts(11, 6), Request("prefixed", [*prefix, 4, 5])]
    warm = engine(**long)
    warm.warm_up(sampling, prefix)
    warm.warm_up_scores([5, 6], prefix)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        warm.generate(requests, dataclasses.replace(sampling, seed=99), prefix)
        warm.score_choices(requests, [1, 2], prefix)
        warm.score_choices(prompts(23, 6, seed=5), [3, 4])
        assert "Compiling" not in caplog.text
        warm.generate(requests, dataclasses.replace(sampling, top_k=6))
        assert "Compiling jit(decode)" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axes", "form"),
    [
        ((2, 2, 1, 2), "floats"),
        ((1, 2, 1, 4), "floats"),
        ((2, 2, 2, 1), "floats"),
        ((2, 2, 1, 2), "per_layer_int8"),
        ((2, 2, 1, 2), "stacked_int8"),
    ],
)
def test_a_mesh_gives_the_results_of_one_device(axes, form):
    mesh = partitioning.make_mesh(partitioning.MeshConfig(*axes))
    shardings = jax.tree.map(lambda to: to.sharding, foreign.targets(CONFIG, mesh))
    params = jax.device_put(PARAMS, shardings)
    shapes = {"slots": 8} | ({} if form == "floats" else INT8)
    if form == "stacked_int8":
        params = Weights(params, TRAINED)
    meshed = Engine(CONFIG, params, dataclasses.replace(SHAPES, **shapes), (STOP,), mesh)
    prefix = [9, 8, 7]
    requests = prompts(9)
    requests[0] = Request("with prefix", [*prefix, 4, 5])
    plain = engine(shapes=shapes)
    expected = plain.generate(requests, GREEDY, prefix=prefix)
    found = meshed.generate(requests, GREEDY, prefix=prefix)
    assert [r.token_ids for r in found] == [r.token_ids for r in expected]
    np.testing.assert_allclose(
        meshed.score_choices(requests, [4, 5]).log_probs,
        plain.score_choices(requests, [4, 5]).log_probs,
        atol=1e-4,
    )


def test_batches_fit_the_mesh_and_the_token_budget():
    shapes = EngineConfig(slots=6, buckets=[16, 64], max_batch_tokens=128)
    assert shapes.buckets == (16, 64)
    assert shapes.scored(16, ways=1) == BatchShape(1, rows=3, tokens=2 * 16, bucket=16)
    assert shapes.scored(16, ways=4) == BatchShape(4, rows=1, tokens=16, bucket=16)
    assert shapes.scored(64, ways=1) == BatchShape(1, rows=3, tokens=2 * 64, bucket=64)
    # All are longer than 16 tokens: no fourth fits.
    assert EngineConfig(slots=16, buckets=(40, 64)).scored(64, ways=1).rows == 4 * 64 // 41
    # The longest prompt is read, whatever the budget.
    assert shapes.scored(64, ways=4) == BatchShape(4, rows=1, tokens=64, bucket=64)
    assert shapes.slots_over(4) == 8
    wide = EngineConfig(slots=32, buckets=[16], max_batch_tokens=0)
    assert wide.refill(16, ways=1) == BatchShape(1, rows=8, tokens=4 * 16, bucket=16)
    assert wide.refill(16, ways=16) == BatchShape(16, rows=1, tokens=16, bucket=16)


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"buckets": ()},
        {"buckets": (8, 4)},
        {"cache_dtype": "int4"},
        {"weights_dtype": "bfloat16"},
    ],
)
def test_wrong_shapes_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        EngineConfig(**{"slots": 4, "buckets": (4,), **wrong})


def test_a_text_is_no_list_of_stop_strings():
    with pytest.raises(UsageError, match="stop_strings is the text 'User:'"):
        SamplingConfig(max_new_tokens=4, stop_strings="User:")


STORIES = pathlib.Path(__file__).parents[4] / "shared" / "models" / "stories260K"


@pytest.mark.skipif(not STORIES.exists(), reason="the stories260K model is not at hand")
def test_a_trained_model_tells_the_story_that_its_uncached_forward_tells():
    model = huggingface.read_model(STORIES)
    shapes = EngineConfig(slots=2, buckets=(8,))
    stories = Engine(model.config, model.params, shapes, model.eos_ids)
    result = stories.generate([Request("story", [1])], SamplingConfig(max_new_tokens=24,
                              temperature=0))[0]  # fmt: skip
    ids = [1]
    for token in result.token_ids:
        tokens = jnp.array([ids + [0] * (32 - len(ids))])
        logits = _stories_forward(model.config, model.params, tokens)
        assert token == logits[0, len(ids) - 1].argmax()
        ids.append(token)
    assert len(ids) == 25
    # "Once upon a time, there was a little girl named Lily. She loved to ..."
    assert -result.logprob / 24 < 1.0  # nats a token; a random model has 6.2


@functools.partial(jax.jit, static_argnums=0)
def _stories_forward(config, params, tokens):
    positions = jnp.arange(tokens.shape[1])[None]
    return Llama(config).apply({"params": params}, tokens, positions)[0]

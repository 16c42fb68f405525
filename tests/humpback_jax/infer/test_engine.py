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
from humpback_jax.errors import UsageError
from humpback_jax.infer import steps
from humpback_jax.infer.engine import Engine, EngineConfig, Request
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.init import init_params
from humpback_jax.models.llama import Llama

CONFIG = LlamaConfig(
    vocab_size=64, embed_dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    mlp_dim=64, max_length=64, rope_theta=10000.0, norm_eps=1e-5, tie_embeddings=False,
    initializer_range=0.3,
)  # fmt: skip
PARAMS = nn.unbox(init_params(CONFIG, jax.random.key(0)))
SHAPES = EngineConfig(batch_size=4, buckets=(6, 16))
GREEDY = SamplingConfig(max_new_tokens=8, temperature=0)
SAMPLED = SamplingConfig(max_new_tokens=8, temperature=1.0, seed=7)
STOP = 2


def engine(**kwargs) -> Engine:
    shapes = dataclasses.replace(SHAPES, **kwargs.pop("shapes", {}))
    return Engine(CONFIG, PARAMS, shapes, **{"stop_ids": (STOP,), **kwargs})


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


def test_a_result_is_bit_identical_whatever_the_neighbours_order_or_slot():
    requests = prompts(11)
    together = engine().generate(requests, SAMPLED)
    assert [r.request_id for r in together] == [r.request_id for r in requests]
    backwards = engine().generate(requests[::-1], SAMPLED)[::-1]
    assert backwards == together  # logprob is compared bit by bit
    alone = [engine().generate([r], SAMPLED)[0] for r in requests]
    assert alone == together
    crowded = engine().generate(prompts(7, seed=1)[:6] + requests, SAMPLED)[6:]
    assert crowded == together


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


def test_nothing_to_do_is_done():
    assert engine().generate([], GREEDY) == []
    assert engine().score_choices([], [1, 2]).probabilities.shape == (0, 2)


def test_nothing_is_compiled_after_a_bucket_is_warm():
    sampling = dataclasses.replace(SAMPLED, max_new_tokens=5)
    requests = prompts(11)
    engine().generate(requests, sampling)
    engine().score_choices(requests, [1, 2])
    before = steps.TRACES.copy()
    again = prompts(23, seed=5)
    engine().generate(again, dataclasses.replace(sampling, seed=99))
    engine().score_choices(again, [3, 4])
    assert before == steps.TRACES
    engine().generate(again, dataclasses.replace(sampling, max_new_tokens=6))
    assert steps.TRACES["decode"] > before["decode"]  # the counter does count


@pytest.mark.slow
@pytest.mark.parametrize("axes", [(2, 2, 1, 2), (1, 2, 1, 4), (2, 2, 2, 1)])
def test_a_mesh_gives_the_results_of_one_device(axes):
    mesh = partitioning.make_mesh(partitioning.MeshConfig(*axes))
    shardings = jax.tree.map(lambda to: to.sharding, foreign.targets(CONFIG, mesh))
    params = jax.device_put(PARAMS, shardings)
    shapes = {"batch_size": 8}
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
    shapes = EngineConfig(batch_size=6, buckets=[16, 64], max_batch_tokens=128)
    assert shapes.buckets == (16, 64)
    assert shapes.rows(16, multiple=1) == 6
    assert shapes.rows(16, multiple=4) == 8
    assert shapes.rows(64, multiple=1) == 2


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"buckets": ()}, {"buckets": (8, 4)}])
def test_wrong_shapes_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        EngineConfig(**{"batch_size": 4, "buckets": (4,), **wrong})


STORIES = pathlib.Path(__file__).parents[4] / "shared" / "models" / "stories260K"


@pytest.mark.skipif(not STORIES.exists(), reason="the stories260K model is not at hand")
def test_a_trained_model_tells_the_story_that_its_uncached_forward_tells():
    model = huggingface.read_model(STORIES)
    shapes = EngineConfig(batch_size=2, buckets=(8,))
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

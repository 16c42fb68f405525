import itertools
import math

import pytest

from humpback_jax.errors import UsageError
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method import samples
from humpback_jax.method.samples import Sample, SamplesConfig


def sample(name: str, mean: float = -1.0, status="ok", tokens: int = 10) -> Sample:
    return Sample(name, status, "" if status == "ok" else f"why {name}", mean * tokens, tokens)


def test_the_likeliest_for_each_token_is_kept():
    drawn = [sample("a", -2.0), sample("b", -0.5, tokens=40), sample("c", -1.0, tokens=2)]
    assert drawn[1].logprob < drawn[2].logprob  # the longer one is less likely as a whole
    for order in itertools.permutations(drawn):
        assert samples.choose(order) == drawn[1]


def test_of_equals_the_one_drawn_first_is_kept():
    drawn = [sample("a", -2.0), sample("b"), sample("c"), sample("d", tokens=20)]
    assert samples.choose(drawn).instruction == "b"
    assert samples.choose(drawn[::-1]).instruction == "d"


def test_a_rejected_sample_is_never_kept_however_likely():
    drawn = [sample("a", -0.1, "leaked"), sample("b", -3.0), sample("c", -0.2, "too_long")]
    chosen = samples.choose(drawn)
    assert (chosen.instruction, chosen.status) == ("b", "ok")
    assert chosen.detail == "samples rejected: 2 of 3 (leaked 1, too_long 1)"


def test_if_none_passes_the_first_ones_status_stands():
    drawn = [sample("a", -9.0, "wrong_language"), sample("b", -0.1, "leaked")]
    chosen = samples.choose([*drawn, sample("c", -0.1, "leaked")])
    assert (chosen.instruction, chosen.status) == ("a", "wrong_language")
    assert chosen.detail == "why a; samples rejected: 3 of 3 (leaked 2, wrong_language 1)"


def test_a_single_sample_is_the_candidate_as_it_is():
    for one in (sample("a"), sample("a", status="empty"), Sample("", "error", "what")):
        assert samples.choose([one]) is one


def test_nothing_is_said_where_nothing_was_rejected():
    assert samples.choose([sample("a"), sample("b", -0.5)]).detail == ""
    assert samples.rejected([]) == ""


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_sample_without_a_finite_likelihood_is_the_last_choice(broken):
    drawn = [Sample("a", "ok", "", broken, 3), Sample("b", "ok", "", -1.0, 0), sample("c", -99.0)]
    for order in itertools.permutations(drawn):
        assert samples.choose(order).instruction == "c"
    assert samples.choose(drawn[:2]).instruction == "a"


def test_the_first_samples_request_has_the_segments_own_id():
    ids = [samples.request_id("s1", k) for k in range(3)]
    assert ids[0] == "s1"
    assert len({*ids, *(samples.request_id("s2", k) for k in range(3))}) == 6


def test_wrong_numbers_of_samples_are_refused():
    with pytest.raises(UsageError, match="per_segment is 0"):
        SamplesConfig(per_segment=0)
    greedy = SamplingConfig(max_new_tokens=4, temperature=0.0)
    SamplesConfig().check_sampling(greedy)
    SamplesConfig(per_segment=4).check_sampling(SamplingConfig(max_new_tokens=4))
    with pytest.raises(UsageError, match="at temperature 0"):
        SamplesConfig(per_segment=4).check_sampling(greedy)

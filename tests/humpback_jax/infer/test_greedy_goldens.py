"""What the engine generates greedily is, id for id, what transformers does.

The goldens are remade by `make parity` (tests/goldens/make_greedy.py).
"""

import pathlib

import llama_variants
import numpy as np
import pytest

from humpback_jax.checkpoints import huggingface
from humpback_jax.infer.engine import Engine, EngineConfig, Request
from humpback_jax.infer.sampling import SamplingConfig

GOLDENS = pathlib.Path(llama_variants.__file__).parent
# Two buckets, and slots that do not divide the prompts: what a neighbour is must not matter.
SHAPES = EngineConfig(slots=12, buckets=(16, 40))


def _unpadded(table):
    return [[int(i) for i in row if i >= 0] for row in table]


@pytest.mark.usefixtures("optimised")
def test_greedy_ids_of_a_real_model_are_those_of_transformers(shared):
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("no stories260K in ../shared/models")
    with np.load(GOLDENS / "stories260K_greedy.npz") as golden:
        prompts, outputs = _unpadded(golden["prompts"]), _unpadded(golden["outputs"])
        stop_ids, limit = golden["stop_ids"].tolist(), golden["outputs"].shape[1]
    stopped = [output[-1] in stop_ids for output in outputs]
    assert len(prompts) == 200
    assert any(stopped)
    assert not all(stopped)
    model = huggingface.read_model(folder)
    engine = Engine(model.config, model.params, SHAPES, stop_ids)
    requests = [Request(str(i), prompt) for i, prompt in enumerate(prompts)]
    results = engine.generate(requests, SamplingConfig(max_new_tokens=limit, temperature=0.0))
    for result, output, stop in zip(results, outputs, stopped, strict=True):
        expected = tuple(output[:-1] if stop else output)
        assert result.token_ids == expected, f"prompt {result.request_id}"
        assert result.finish_reason == ("stop" if stop else "length")

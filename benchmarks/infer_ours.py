"""Our side of `make bench-infer`: the engine, driven line by line over stdin.

Jobs: "generate" continues each prompt greedily to its own limit, "score" gives the log-probability
of each choice after each prompt, "reason" writes a reason before it scores. An engine is made for
every job, so that the keys and values of a prefix are computed in every turn.
"""

import json
import sys

import jax
import paired
from flax import linen as nn

from humpback_jax.checkpoints import huggingface
from humpback_jax.infer import weights
from humpback_jax.infer.engine import Engine, EngineConfig, Request
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.init import init_params


class Ours:
    """The actions of this side.

    A job's fields: prompts (lists of ids), limits, prefix, choices, slots, buckets.
    """

    def __init__(self, config: LlamaConfig, params: dict):
        self._config, self._weights = config, weights.prepare(params)

    def _engine(self, job: dict) -> Engine:
        shapes = EngineConfig(slots=job["slots"], buckets=job["buckets"])
        return Engine(self._config, self._weights, shapes, stop_ids=())

    def generate(self, job: dict) -> dict:
        return {"ids": self._generated(self._engine(job), job)}

    def _generated(self, engine: Engine, job: dict) -> list[list[int]]:
        requests = [
            Request(str(i), prompt, limit)
            for i, (prompt, limit) in enumerate(zip(job["prompts"], job["limits"], strict=True))
        ]
        sampling = SamplingConfig(max_new_tokens=max(job["limits"]), temperature=0.0)
        results = engine.generate(requests, sampling, job.get("prefix", ()))
        return [list(result.token_ids) for result in results]

    def score(self, job: dict) -> dict:
        return {"log_probs": self._scored(self._engine(job), job, job["prompts"])}

    def _scored(self, engine: Engine, job: dict, prompts: list[list[int]]) -> list[list[float]]:
        requests = [Request(str(i), prompt) for i, prompt in enumerate(prompts)]
        scores = engine.score_choices(requests, job["choices"], job.get("prefix", ()))
        return scores.log_probs.tolist()

    def reason(self, job: dict) -> dict:
        engine = self._engine(job)
        reasons = self._generated(engine, job)
        grown = [
            prompt + reason for prompt, reason in zip(job["prompts"], reasons, strict=True)
        ]  # fmt: skip
        return {"log_probs": self._scored(engine, job, grown)}


def main() -> None:
    case = json.loads(sys.argv[1])
    if "folder" in case:
        model = huggingface.read_model(case["folder"])
        config, params = model.config, model.params
    else:
        config = LlamaConfig(**case["llama"], dtype=case["dtype"], param_dtype=case["dtype"])
        params = jax.jit(lambda key: nn.unbox(init_params(config, key)))(jax.random.key(0))
    ours = Ours(config, params)
    actions = {"generate": ours.generate, "score": ours.score, "reason": ours.reason}
    paired.serve({"versions": {}}, paired.timed(actions))


if __name__ == "__main__":
    main()

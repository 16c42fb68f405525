"""One side of `make bench-train`: our trainer's step, driven line by line over stdin.

Reads {"steps": n} and answers {"seconds": s, "loss": x, "peak_mib": m}; the first answer, given
unasked, is {"ready": seconds of compilation}.
"""

import json
import resource
import sys
import time

import jax
import numpy as np
import paired

from humpback_jax.models.config import LlamaConfig
from humpback_jax.partitioning import MeshConfig, make_mesh
from humpback_jax.train import step as train_step
from humpback_jax.train.config import TrainConfig
from humpback_jax.train.optimizer import OptimizerConfig, make_optimizer


def main() -> None:
    case = json.loads(sys.argv[1])
    rows, length = case["rows"], case["length"]
    llama = LlamaConfig(**case["llama"], dtype=case["dtype"], remat=case["remat"])
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    halves = {"inputs": length // 2, "targets": length // 2}
    train = TrainConfig(10_000, rows, halves, dropout_rate=0.0, pack=case["packed"])
    optimizer = make_optimizer(OptimizerConfig(**case["optimizer"]), train.train_steps)
    shardings = train_step.state_shardings(llama, optimizer, mesh)
    state = train_step.fresh_state(llama, optimizer, shardings, 0)
    step_fn = train_step.make_train_step(llama, optimizer, mesh, train)
    batch = _batch(rows, length, llama.vocab_size)
    began = time.perf_counter()
    state, metrics = step_fn(state, batch)
    loss = float(metrics["loss"])

    def work(job: dict) -> dict:
        nonlocal state
        began = time.perf_counter()
        for _ in range(job["steps"]):
            state, metrics = step_fn(state, batch)
        loss = float(metrics["loss"])
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if jax.default_backend() == "gpu":
            peak = jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
        return {"seconds": seconds, "loss": loss, "peak_mib": peak}

    paired.serve({"ready": time.perf_counter() - began, "loss": loss}, work)


def _batch(rows: int, length: int, vocab_size: int) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(0).integers(0, vocab_size, (rows, length + 1), np.int32)
    return {
        "decoder_input_tokens": tokens[:, :-1],
        "decoder_target_tokens": tokens[:, 1:],
        "decoder_loss_weights": np.ones((rows, length), np.int32),
        "decoder_segment_ids": np.ones((rows, length), np.int32),
        "decoder_positions": np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)),
    }


if __name__ == "__main__":
    main()

"""What the paired benchmarks share: sides that take turns, their models, this machine's ceilings.

A side is a process of its own that does what a line of JSON on its stdin asks and answers with a
line of JSON. Sides take turns, so that what else the machine does falls on all of them. Sides that
run in other environments import this file too, so JAX is imported where it is needed only.
"""

import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

HERE = pathlib.Path(__file__).resolve().parent


def llama(
    embed: int, layers: int, heads: int, kv_heads: int, size: int, mlp: int, vocabulary: int,
    length: int, tie: bool = True,
) -> dict:  # fmt: skip
    """Returns the fields of a LlamaConfig of LLaMA 2's constants."""
    return {
        "vocab_size": vocabulary,
        "embed_dim": embed,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": size,
        "mlp_dim": mlp,
        "max_length": length,
        "rope_theta": 10000.0,
        "norm_eps": 1e-5,
        "tie_embeddings": tie,
    }


def llama_33m(length: int) -> dict:
    return llama(512, 8, 8, 8, 64, 1376, 16000, length)


def llama_110m(length: int) -> dict:
    return llama(768, 12, 12, 12, 64, 2048, 32000, length)


def llama_1b(length: int) -> dict:
    return llama(2048, 16, 32, 8, 64, 8192, 32000, length)


def llama_7b(length: int) -> dict:
    return llama(4096, 32, 32, 32, 128, 11008, 32000, length, tie=False)


class Side:
    """A process that works when it is told to; `ready` is what it says first, unasked."""

    def __init__(self, python: str, script: str, case: dict):
        self._process = subprocess.Popen(
            [python, str(HERE / script), json.dumps(case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        self.ready = self._answer()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        sys.exit("one side of the benchmark ended: see what it printed above")

    def turn(self, job: dict) -> dict:
        """Returns the side's answer to a job."""
        assert self._process.stdin is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self._process.stdin.close()  # pyright: ignore
        self._process.wait()


def serve(ready: dict, work: Callable[[dict], dict]) -> None:
    """A side's whole life once it is ready: answers each line of stdin."""
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), flush=True)


def timed(actions: Mapping[str, Callable[[dict], dict]]) -> Callable[[dict], dict]:
    """Returns what does the action that a job names under "do", and adds the seconds it took."""

    def work(job: dict) -> dict:
        began = time.perf_counter()
        answer = actions[job["do"]](job)
        return {"seconds": time.perf_counter() - began, **answer}

    return work


def take_turns(jobs: Mapping[str, tuple[Side, dict]], turns: int) -> dict[str, list[dict]]:
    """Returns the answers to each named job of each turn; a turn does every job once, in order."""
    answers: dict[str, list[dict]] = {name: [] for name in jobs}
    for _ in range(turns):
        for name, (side, job) in jobs.items():
            answers[name].append(side.turn(job))
    return answers


def median_seconds(answers: Iterable[dict]) -> float:
    return statistics.median(answer["seconds"] for answer in answers)


def paired_ratio(ours: Iterable[dict], peer: Iterable[dict]) -> float:
    """Returns how many times as fast ours is: the median over the turns."""
    pairs = zip(ours, peer, strict=True)
    return statistics.median(b["seconds"] / a["seconds"] for a, b in pairs)


def matmul_flops() -> float:
    """Returns the FLOP/s of a large float32 matrix product here, the ceiling of this machine."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((2048, 2048))
    product = jax.jit(lambda x: x @ x)
    return 2 * 2048**3 / _fastest(lambda: product(x).block_until_ready())


def read_bandwidth() -> float:
    """Returns the bytes a second of reading 512 MiB once, in a matrix-vector product."""
    import jax
    import jax.numpy as jnp

    matrix, vector = jnp.ones((16384, 8192)), jnp.ones(8192)
    product = jax.jit(lambda matrix, vector: matrix @ vector)
    return matrix.nbytes / _fastest(lambda: product(matrix, vector).block_until_ready())


def _fastest(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def table(rows: Sequence[dict], columns: Mapping[str, Callable[[dict], str]]) -> str:
    """Returns the rows as a Markdown table; columns are as for `report`."""
    lines = [list(columns), *([show(row) for show in columns.values()] for row in rows)]
    head, *body = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([head, "|---" * len(columns) + "|", *body])


def report(
    bench: str,
    rows: Sequence[dict],
    columns: Mapping[str, Callable[[dict], str]],
    versions: Mapping[str, str] | None = None,
) -> None:
    """Prints a table of the rows, and all that is in them as a last line of JSON.

    Args:
      bench: name of the benchmark.
      rows: one measurement each.
      columns: of the table: heading to what a row shows under it.
      versions: of the peers' packages.
    """
    import jax

    print("\n" + table(rows, columns))
    ours = {name: importlib.metadata.version(name) for name in ("jax", "flax")}
    device = jax.devices()[0].device_kind
    versions = {**ours, **(versions or {})}
    print(json.dumps({"bench": bench, "rows": rows, "device": device, "versions": versions}))

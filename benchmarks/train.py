"""Training speed against torch and transformers, paired: `make bench-train`.

Both sides train the same LLaMA on random tokens, each in a process of its own; they take turns, so
that what else the machine does falls on both. Tokens a second are those of the median turn. The
second table is our own step on Open Assistant's lengths, packed against padded. Ends with one line
of JSON.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys

import jax

from humpback_jax.hardware import chip_of
from humpback_jax.models import flops
from humpback_jax.models.config import LlamaConfig

HERE = pathlib.Path(__file__).resolve().parent
OPTIMIZER = {"learning_rate": 1e-4, "final_learning_rate": 1e-4}


def _llama(embed, layers, heads, kv_heads, size, mlp, vocabulary, length) -> dict:
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
        "tie_embeddings": True,
    }


CPU_CASES = {
    "33M, fp32, 4 x 512": (_llama(512, 8, 8, 8, 64, 1376, 16000, 512), 4, 512, "float32"),
    "110M, fp32, 4 x 512": (_llama(768, 12, 12, 12, 64, 2048, 32000, 512), 4, 512, "float32"),
}
GPU_CASES = {
    "1B, bf16, 8 x 2048": (_llama(2048, 16, 32, 8, 64, 8192, 32000, 2048), 8, 2048, "bfloat16"),
}


class Side:
    """A process that trains when it is told to."""

    def __init__(self, python: str, script: str, case: dict):
        self._process = subprocess.Popen(
            [python, str(HERE / script), json.dumps(case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        self.ready = self._answer()
        self.turns: list[dict] = []

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        sys.exit("one side of the benchmark ended: see what it printed above")

    def turn(self, steps: int) -> None:
        assert self._process.stdin is not None
        print(json.dumps({"steps": steps}), file=self._process.stdin, flush=True)
        self.turns.append(self._answer())

    def close(self) -> None:
        self._process.stdin.close()  # pyright: ignore
        self._process.wait()


def _compare(name: str, case: dict, python: str, turns: int, steps: int) -> dict:
    ours = Side(sys.executable, "train_ours.py", case)
    peer = Side(python, "train_torch.py", case)
    for _ in range(turns):
        for side in (ours, peer):
            side.turn(steps)
    ours.close()
    peer.close()
    tokens = steps * case["rows"] * case["length"]
    rates = [
        tokens / statistics.median(turn["seconds"] for turn in side.turns) for side in (ours, peer)
    ]
    pairs = zip(ours.turns, peer.turns, strict=True)
    row = {
        "case": name,
        "ours": rates[0],
        "peer": "torch.compile + transformers",
        "peer_value": rates[1],
        "ratio": statistics.median(b["seconds"] / a["seconds"] for a, b in pairs),
        "ceiling_fraction": None,
        "peak_mib": ours.turns[-1]["peak_mib"],
        "peer_peak_mib": peer.turns[-1]["peak_mib"],
        "compile_seconds": ours.ready["ready"],
        "peer_compile_seconds": peer.ready["ready"],
    }
    llama = LlamaConfig(**case["llama"])
    per_token = flops.train_flops(llama, case["rows"], case["length"]) / (
        case["rows"] * case["length"]
    )
    chip = chip_of(jax.devices()[0].device_kind)
    peak = chip.peak_flops_bf16 if chip else _matmul_flops()
    row["ceiling_fraction"] = rates[0] * per_token / peak
    return row


def _matmul_flops() -> float:
    """Returns the FLOP/s of a large float32 matrix product here, the ceiling of this machine."""
    import time

    import jax.numpy as jnp

    x = jnp.ones((2048, 2048))
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(times)


def _packing(pairs: pathlib.Path, turns: int) -> list[dict]:
    """Compares useful tokens a second, packed and padded, on the lengths of real pairs."""
    from humpback_jax import prompts
    from humpback_jax.corpus.openassistant import SeedFilters, read_seed_pairs
    from humpback_jax.data import tasks
    from humpback_jax.data.sentencepiece_tokenizer import train_tokenizer

    found = read_seed_pairs(pairs, SeedFilters()).pairs
    templates = prompts.Prompts()
    tokenizer = train_tokenizer([f"{p.instruction}\n{p.output}" for p in found], 8000)
    llama, rows, length, dtype = next(iter(CPU_CASES.values()))
    llama = {**llama, "vocab_size": tokenizer.vocab_size}
    lengths = {"inputs": length // 2, "targets": length // 2}
    named = [
        (
            pair.pair_id,
            prompts.Example(
                templates.render_forward(pair.instruction, templates.assistant_tag), pair.output
            ),
        )
        for pair in found
    ]
    examples, too_long = tasks.tokenize(named, tokenizer, lengths)
    fractions, sides = [], []
    for pack in (True, False):
        mixture = tasks.make_mixture(
            "bench", [tasks.Part("oasst", examples, 1.0)], llama["vocab_size"]
        )
        batches = tasks.BatchIterator(mixture, lengths, rows, tokenizer.bos_id, 0, pack)
        taken = [next(batches)["decoder_segment_ids"] > 0 for _ in range(50)]
        fractions.append(sum(int(b.sum()) for b in taken) / (50 * rows * length))
        case = {"llama": llama, "rows": rows, "length": length, "dtype": dtype, "remat": "none",
                "packed": pack, "optimizer": OPTIMIZER}  # fmt: skip
        sides.append(Side(sys.executable, "train_ours.py", case))
    for _ in range(turns):
        for side in sides:
            side.turn(1)
    for side in sides:
        side.close()
    rates = [
        fraction * rows * length / statistics.median(t["seconds"] for t in side.turns)
        for fraction, side in zip(fractions, sides, strict=True)
    ]
    print(
        f"\n{len(examples)} pairs of {pairs.name} fit {length // 2} + {length // 2} tokens, "
        f"{too_long} do not; rows are {fractions[0]:.0%} full packed, {fractions[1]:.0%} padded"
    )
    return [
        {
            "case": "33M, useful tokens/s on Open Assistant lengths, 4 x 512",
            "ours": rates[0],
            "peer": "ours, padded",
            "peer_value": rates[1],
            "ratio": rates[0] / rates[1],
            "ceiling_fraction": fractions[0],
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer_python", default=".venv-peers/bin/python")
    parser.add_argument("--pairs", default="../shared/data/oasst/oasst1_en_validation.jsonl")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn")
    options = parser.parse_args()
    cases = GPU_CASES if jax.default_backend() == "gpu" else CPU_CASES
    rows = []
    for name, (llama, batch, length, dtype) in cases.items():
        case = {"llama": llama, "rows": batch, "length": length, "dtype": dtype, "remat": "none",
                "packed": False, "optimizer": OPTIMIZER}  # fmt: skip
        rows.append(_compare(name, case, options.peer_python, options.turns, options.steps))
    pairs = pathlib.Path(options.pairs)
    if pairs.exists():
        rows += _packing(pairs, options.turns)
    else:
        print(f"no {pairs}: packing is not measured; give --pairs an Open Assistant export")
    print("\n| case | ours, tokens/s | peer | peer, tokens/s | ratio | of the ceiling | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        peaks = f"{row['peak_mib']:.0f} / {row['peer_peak_mib']:.0f}" if "peak_mib" in row else ""
        print(
            f"| {row['case']} | {row['ours']:.0f} | {row['peer']} | {row['peer_value']:.0f} | "
            f"{row['ratio']:.2f} | {row['ceiling_fraction']:.0%} | {peaks} |"
        )
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax")}
    device = jax.devices()[0].device_kind
    print(json.dumps({"bench": "train", "rows": rows, "device": device, "versions": versions}))


if __name__ == "__main__":
    main()

"""Training speed against torch and transformers, paired: `make bench-train`.

Both sides train the same LLaMA on random tokens, each in a process of its own; they take turns, so
that what else the machine does falls on both. Tokens a second are those of the median turn. The
second table is our own step on Open Assistant's lengths, packed against padded. Ends with one line
of JSON.
"""

import argparse
import pathlib
import sys

import jax
import paired

from humpback_jax.hardware import chip_of
from humpback_jax.models import flops
from humpback_jax.models.config import LlamaConfig

OPTIMIZER = {"learning_rate": 1e-4, "final_learning_rate": 1e-4}
CPU_CASES = {
    "33M, fp32, 4 x 512": (paired.llama_33m(512), 4, 512, "float32"),
    "110M, fp32, 4 x 512": (paired.llama_110m(512), 4, 512, "float32"),
}
GPU_CASES = {
    "1B, bf16, 8 x 2048": (paired.llama_1b(2048), 8, 2048, "bfloat16"),
}
COLUMNS = {
    "case": lambda row: row["case"],
    "ours, tokens/s": lambda row: f"{row['ours']:.0f}",
    "peer": lambda row: row["peer"],
    "peer, tokens/s": lambda row: f"{row['peer_value']:.0f}",
    "ratio": lambda row: f"{row['ratio']:.2f}",
    "of the ceiling": lambda row: f"{row['ceiling_fraction']:.0%}",
    "peak MiB": lambda row: (
        f"{row['peak_mib']:.0f} / {row['peer_peak_mib']:.0f}" if "peak_mib" in row else ""
    ),
}


def _compare(name: str, case: dict, python: str, turns: int, steps: int) -> dict:
    ours = paired.Side(sys.executable, "train_ours.py", case)
    peer = paired.Side(python, "train_torch.py", case)
    job = {"steps": steps}
    answers = paired.take_turns({"ours": (ours, job), "peer": (peer, job)}, turns)
    ours.close()
    peer.close()
    tokens = steps * case["rows"] * case["length"]
    row = {
        "case": name,
        "ours": tokens / paired.median_seconds(answers["ours"]),
        "peer": "torch.compile + transformers",
        "peer_value": tokens / paired.median_seconds(answers["peer"]),
        "ratio": paired.paired_ratio(answers["ours"], answers["peer"]),
        "ceiling_fraction": None,
        "peak_mib": answers["ours"][-1]["peak_mib"],
        "peer_peak_mib": answers["peer"][-1]["peak_mib"],
        "compile_seconds": ours.ready["ready"],
        "peer_compile_seconds": peer.ready["ready"],
    }
    llama = LlamaConfig(**case["llama"])
    per_token = flops.train_flops(llama, case["rows"], case["length"]) / (
        case["rows"] * case["length"]
    )
    chip = chip_of(jax.devices()[0].device_kind)
    peak = chip.peak_flops_bf16 if chip else paired.matmul_flops()
    row["ceiling_fraction"] = row["ours"] * per_token / peak
    return row


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
    fractions, jobs = [], {}
    for pack in (True, False):
        mixture = tasks.make_mixture(
            "bench", [tasks.Part("oasst", examples, 1.0)], llama["vocab_size"]
        )
        batches = tasks.BatchIterator(mixture, lengths, rows, tokenizer.bos_id, 0, pack)
        taken = [next(batches)["decoder_segment_ids"] > 0 for _ in range(50)]
        fractions.append(sum(int(b.sum()) for b in taken) / (50 * rows * length))
        case = {"llama": llama, "rows": rows, "length": length, "dtype": dtype, "remat": "none",
                "packed": pack, "optimizer": OPTIMIZER}  # fmt: skip
        jobs[pack] = (paired.Side(sys.executable, "train_ours.py", case), {"steps": 1})
    answers = paired.take_turns(jobs, turns)
    for side, _ in jobs.values():
        side.close()
    rates = [
        fraction * rows * length / paired.median_seconds(answers[pack])
        for fraction, pack in zip(fractions, jobs, strict=True)
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
    paired.report("train", rows, COLUMNS)


if __name__ == "__main__":
    main()

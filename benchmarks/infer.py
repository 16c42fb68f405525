"""Inference speed against transformers and llama.cpp, paired: `make bench-infer`.

Every side runs the same LLaMA of random weights, read from one Hugging Face folder, in a process of
its own; they take turns, so that what else the machine does falls on all. A first turn, not
counted, compiles and shows that the sides compute the same. Figures are those of the median turn.
Ends with one line of JSON.

Cases: "skewed" generates to limits of a log-normal distribution; "curation" scores candidates
behind a rubric they share; "llamacpp" generates in parallel sequences of equal limits; on a GPU
"gpu" alone, which has no peer but the chip.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import tempfile

import jax
import numpy as np
import paired
from etils import epath
from flax import linen as nn

from humpback_jax.checkpoints import huggingface
from humpback_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from humpback_jax.hardware import Chip, chip_of
from humpback_jax.method.rating import RatingConfig
from humpback_jax.models import flops
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.init import init_params

LONGEST = 1024
CPU_MODELS = {"33M": paired.llama_33m(LONGEST), "110M": paired.llama_110m(LONGEST)}
GPU_MODELS = {"1B": paired.llama_1b(2048), "7B": paired.llama_7b(2048)}
CPU_CASES = ("skewed", "curation", "llamacpp")
SLOTS = 16
FIRST_ORDINARY_ID = 3
CHOICES = [11, 12, 13, 14, 15]  # stand for the digits 1 to 5: any ids cost the same
RUBRIC_TOKENS = 512
REASON_TOKENS = RatingConfig().max_reasoning_tokens
GPU_SLOTS, GPU_PROMPT, GPU_NEW, GPU_PREFILL = 64, 128, 256, 1024


@dataclasses.dataclass(frozen=True)
class Work:
    """What a case takes at the least, whoever does it: its ceiling.

    Attributes:
      flops: of the mathematics, the output projection of tokens that are read out only.
      bytes: read from memory: all weights once a step, and the cache of every sequence.
    """

    flops: float
    bytes: float

    def seconds(self, machine: "Machine") -> tuple[float, str]:
        """Returns (the least time, which of "matmul" and "memory" it is)."""
        bounds = {
            "matmul": self.flops / machine.flops,
            "memory": self.bytes / machine.bytes_per_second,
        }
        bound = max(bounds, key=lambda name: bounds[name])
        return bounds[bound], bound


@dataclasses.dataclass(frozen=True)
class Machine:
    """FLOP/s and bytes a second: a chip's published ones, or those measured here."""

    flops: float
    bytes_per_second: float

    @classmethod
    def here(cls, chip: Chip | None) -> "Machine":
        if chip is not None:
            return cls(chip.peak_flops_bf16, chip.hbm_bytes_per_second)
        return cls(paired.matmul_flops(), paired.read_bandwidth())


@dataclasses.dataclass(frozen=True)
class Bench:
    """One model's sides, and what they run on."""

    name: str
    config: LlamaConfig
    machine: Machine
    ours: paired.Side
    torch: paired.Side | None = None
    llamacpp: paired.Side | None = None

    def close(self) -> None:
        for side in (self.ours, self.torch, self.llamacpp):
            if side is not None:
                side.close()


def read_work(config: LlamaConfig, lengths: list[int], prefix: int, rows: int) -> Work:
    """Returns the work of reading prompts behind a prefix that is read already.

    Args:
      config: of the model.
      lengths: tokens of each prompt without the prefix.
      prefix: tokens.
      rows: prompts that are read together, for which the weights are read once.
    """
    output = config.vocab_size * config.embed_dim
    body = flops.matmul_parameters(config) - output
    width = config.num_heads * config.head_dim
    products = sum(
        2.0 * body * n + 2.0 * output + 4.0 * config.num_layers * width * n * (prefix + n / 2)
        for n in lengths
    )
    return Work(products, -(-len(lengths) // rows) * _weight_bytes(config))


def decode_work(config: LlamaConfig, lengths: list[int], limits: list[int], rows: int) -> Work:
    """Returns the work of all tokens after each first, `rows` at a time without an idle slot."""
    steps = [limit - 1 for limit in limits]
    means = [n + limit / 2 for n, limit in zip(lengths, limits, strict=True)]
    products = sum(
        count * flops.decode_flops(config, 1, round(mean))
        for count, mean in zip(steps, means, strict=True)
    )
    token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * _item_bytes(config)
    cache = sum(count * mean * token for count, mean in zip(steps, means, strict=True))
    return Work(products, sum(steps) / rows * _weight_bytes(config) + cache)


def _item_bytes(config: LlamaConfig) -> int:
    return jax.numpy.dtype(config.dtype).itemsize


def _weight_bytes(config: LlamaConfig) -> int:
    return flops.matmul_parameters(config) * _item_bytes(config)


def _sum(*works: Work) -> Work:
    return Work(sum(work.flops for work in works), sum(work.bytes for work in works))


def generation(bench: Bench, name: str, job: dict, turns: int) -> list[dict]:
    """Returns a row for each peer that generates for the same prompts and limits."""
    jobs = {"ours": (bench.ours, {"do": "generate", **job})}
    if bench.torch:
        jobs["transformers generate, padded"] = bench.torch, {"do": "generate_padded", **job}
        jobs["transformers generate_batch"] = bench.torch, {"do": "generate_continuous", **job}
    if bench.llamacpp:
        jobs["llama.cpp"] = bench.llamacpp, {"do": "generate", **job}
    first = paired.take_turns(jobs, 1)
    answers = paired.take_turns(jobs, turns)
    lengths, limits = [len(prompt) for prompt in job["prompts"]], job["limits"]
    work = _sum(
        read_work(bench.config, lengths, 0, job["slots"]),
        decode_work(bench.config, lengths, limits, job["slots"]),
    )
    least, bound = work.seconds(bench.machine)
    rows = []
    for peer in [name for name in jobs if name != "ours"]:
        row = _row(f"{bench.name}, {name}, tokens/s", sum(limits), peer, answers)
        same = [a == b for a, b in zip(first["ours"][0]["ids"], first[peer][0]["ids"], strict=True)]
        row |= {
            "ceiling_fraction": row["ours"] * least / sum(limits),
            "ceiling": bound,
            "identical": sum(same) / len(same),
        }
        rows.append(row)
    return rows


def _row(case: str, units: float, peer: str, answers: dict[str, list[dict]]) -> dict:
    """Returns the rates of ours and the peer in units a second, and their paired ratio."""
    return {
        "case": case,
        "ours": units / paired.median_seconds(answers["ours"]),
        "peer": peer,
        "peer_value": units / paired.median_seconds(answers[peer]),
        "ratio": paired.paired_ratio(answers["ours"], answers[peer]),
    }


def skewed_job(vocabulary: int) -> dict:
    """Returns 64 prompts of 16 to 128 random ids with limits most of which are short."""
    random = np.random.default_rng(0)
    limits = np.clip(random.lognormal(np.log(40), 1.0, 64), 8, 256).astype(int).tolist()
    return {
        "prompts": [_ids(random, vocabulary, n) for n in random.integers(16, 129, 64)],
        "limits": limits,
        "slots": SLOTS,
        "buckets": [128],
    }


def equal_job(vocabulary: int) -> dict:
    """Returns as many prompts as there are slots, each continued by 128 tokens."""
    random = np.random.default_rng(1)
    return {
        "prompts": [_ids(random, vocabulary, n) for n in random.integers(16, 129, SLOTS)],
        "limits": [128] * SLOTS,
        "slots": SLOTS,
        "buckets": [128],
    }


def _ids(random: np.random.Generator, vocabulary: int, count: int) -> list[int]:
    return random.integers(FIRST_ORDINARY_ID, vocabulary, count).tolist()


def curation(bench: Bench, turns: int) -> list[dict]:
    """Returns rows of scoring candidates behind a rubric, in candidates a second."""
    random = np.random.default_rng(2)
    vocabulary = bench.config.vocab_size
    rubric = _ids(random, vocabulary, RUBRIC_TOKENS)
    own = [_ids(random, vocabulary, n) for n in random.integers(64, 193, 64)]
    lengths = [len(ids) for ids in own]
    job = {"do": "score", "prompts": [rubric + ids for ids in own], "choices": CHOICES,
           "slots": SLOTS}  # fmt: skip
    shared = {**job, "prefix": rubric, "buckets": [128, 192]}
    reason = {**shared, "do": "reason", "limits": [REASON_TOKENS] * len(own),
              "buckets": [128, 192, 256, 320]}  # fmt: skip
    without = "ours, rubric read by every candidate"
    reasoning = f"ours, a reason of {REASON_TOKENS} tokens first"
    jobs = {
        "ours": (bench.ours, shared),
        without: (bench.ours, {**job, "buckets": [RUBRIC_TOKENS + b for b in shared["buckets"]]}),
        reasoning: (bench.ours, reason),
    }
    if bench.torch:
        jobs["transformers forward, padded"] = bench.torch, job
    first = paired.take_turns(jobs, 1)
    answers = paired.take_turns(jobs, turns)
    work = _sum(
        read_work(bench.config, [RUBRIC_TOKENS], 0, 1),
        read_work(bench.config, lengths, RUBRIC_TOKENS, SLOTS),
    )
    least, bound = work.seconds(bench.machine)
    tokens = sum(RUBRIC_TOKENS + n for n in lengths) / (RUBRIC_TOKENS + sum(lengths))
    rows = []
    for peer in [name for name in jobs if name != "ours"]:
        row = _row(f"{bench.name}, curation, candidates/s", len(own), peer, answers)
        row |= {"ceiling_fraction": row["ours"] * least / len(own), "ceiling": bound}
        if peer == without:
            row |= {"ceiling_fraction": row["ratio"] / tokens, "ceiling": f"{tokens:.2f} x tokens"}
        if peer != reasoning:
            row["difference"] = _difference(first["ours"][0], first[peer][0])
        rows.append(row)
    return rows


def _difference(ours: dict, peer: dict) -> float:
    """Returns the largest difference between two answers' log-probabilities, in nats."""
    return float(np.abs(np.array(ours["log_probs"]) - np.array(peer["log_probs"])).max())


def check_conversion(bench: Bench) -> float:
    """Returns how far llama.cpp's log-probabilities of all ids are from transformers', in nats."""
    assert bench.torch
    assert bench.llamacpp
    random = np.random.default_rng(3)
    vocabulary = bench.config.vocab_size
    prompts = [_ids(random, vocabulary, n) for n in (1, 7, 40, 128)]
    job = {"do": "score", "prompts": prompts, "choices": list(range(vocabulary)), "slots": 4}
    return _difference(bench.torch.turn(job), bench.llamacpp.turn(job))


def on_gpu(bench: Bench, turns: int) -> list[dict]:
    """Returns decoding and prefill beside what the chip could do at the best."""
    random = np.random.default_rng(4)
    vocabulary = bench.config.vocab_size
    prompts = [_ids(random, vocabulary, GPU_PROMPT) for _ in range(GPU_SLOTS)]
    job = {"do": "generate", "prompts": prompts, "slots": GPU_SLOTS, "buckets": [GPU_PROMPT]}
    long = [_ids(random, vocabulary, GPU_PREFILL) for _ in range(GPU_SLOTS)]
    read = {"do": "score", "prompts": long, "choices": CHOICES, "slots": SLOTS,
            "buckets": [GPU_PREFILL]}  # fmt: skip
    # What the second generates beyond the first is decoding alone.
    limits = {"half": [GPU_NEW // 2] * GPU_SLOTS, "whole": [GPU_NEW] * GPU_SLOTS}
    jobs = {name: (bench.ours, {**job, "limits": limits[name]}) for name in limits}
    jobs["read"] = bench.ours, read
    paired.take_turns(jobs, 1)
    answers = paired.take_turns(jobs, turns)
    seconds = {name: paired.median_seconds(answers[name]) for name in jobs}
    lengths = [GPU_PROMPT] * GPU_SLOTS
    whole, half = (
        decode_work(bench.config, lengths, limits[name], GPU_SLOTS) for name in ("whole", "half")
    )
    decoded = Work(whole.flops - half.flops, whole.bytes - half.bytes)
    tokens = GPU_SLOTS * (GPU_NEW - GPU_NEW // 2)
    prefill = read_work(bench.config, [GPU_PREFILL] * GPU_SLOTS, 0, SLOTS)
    return [
        _against_chip(bench, f"decode, batch {GPU_SLOTS}", tokens,
                      seconds["whole"] - seconds["half"], decoded),
        _against_chip(bench, f"prefill of {GPU_PREFILL}", GPU_SLOTS * GPU_PREFILL,
                      seconds["read"], prefill),
    ]  # fmt: skip


def _against_chip(bench: Bench, name: str, tokens: int, seconds: float, work: Work) -> dict:
    least, bound = work.seconds(bench.machine)
    return {
        "case": f"{bench.name}, {name}, tokens/s",
        "ours": tokens / seconds,
        "peer": f"the chip's {bound}",
        "peer_value": tokens / least,
        "ratio": least / seconds,
        "ceiling_fraction": least / seconds,
        "ceiling": bound,
    }


def on_cpu(bench: Bench, cases: list[str], turns: int) -> list[dict]:
    rows = []
    if bench.llamacpp:
        print(f"{bench.name}: log-probabilities of llama.cpp and transformers differ by at most "
              f"{check_conversion(bench):.1e} nats", flush=True)  # fmt: skip
    if "skewed" in cases:
        job = skewed_job(bench.config.vocab_size)
        rows += generation(bench, "64 skewed limits, 16 slots", job, turns)
    if "curation" in cases:
        rows += curation(bench, turns)
    if "llamacpp" in cases and bench.llamacpp:
        job = equal_job(bench.config.vocab_size)
        alone = dataclasses.replace(bench, torch=None)
        rows += generation(alone, "16 x 128 tokens", job, turns)
    return rows


def write_folder(folder: str, config: LlamaConfig) -> None:
    """Writes random weights for all sides; the tokenizer is of no matter, but belongs there."""
    packaged = epath.resource_path("humpback_jax") / "microworld" / "base" / "tokenizer.model"
    params = nn.unbox(init_params(config, jax.random.key(0)))
    tokenizer = SentencePieceTokenizer(packaged.read_bytes())
    huggingface.write_model(folder, config, params, (tokenizer.eos_id,), tokenizer)


def measure_cpu(name: str, options: argparse.Namespace, machine: Machine) -> tuple[list, dict]:
    """Returns the rows of one model, and the versions of the peers."""
    config, cases = LlamaConfig(**CPU_MODELS[name]), options.cases.split(",")
    with tempfile.TemporaryDirectory() as folder:
        write_folder(folder, config)
        case = {"folder": folder}
        ours = paired.Side(sys.executable, "infer_ours.py", case)
        torch = paired.Side(options.peer_python, "infer_torch.py", case)
        llamacpp = None
        if "llamacpp" in cases and pathlib.Path(options.cpp_python).exists():
            llamacpp = paired.Side(options.cpp_python, "infer_llamacpp.py", case)
        elif "llamacpp" in cases:
            print(f"no {options.cpp_python}: llama.cpp is not measured; see `make .venv-llamacpp`")
        bench = Bench(name, config, machine, ours, torch, llamacpp)
        rows = on_cpu(bench, cases, options.turns)
        bench.close()
    versions = dict(torch.ready["versions"])
    if llamacpp:
        versions |= llamacpp.ready["versions"]
    return rows, versions


def measure_gpu(name: str, options: argparse.Namespace, machine: Machine) -> tuple[list, dict]:
    """Returns the rows of one model, whose random weights are made on the GPU."""
    llama = GPU_MODELS[name]
    case = {"llama": llama, "dtype": "bfloat16"}
    ours = paired.Side(sys.executable, "infer_ours.py", case)
    config = LlamaConfig(**llama, dtype="bfloat16", param_dtype="bfloat16")
    bench = Bench(name, config, machine, ours)
    rows = on_gpu(bench, options.turns)
    bench.close()
    return rows, {}


COLUMNS = {
    "case": lambda row: row["case"],
    "ours": lambda row: f"{row['ours']:.4g}",
    "peer": lambda row: row["peer"],
    "peer's": lambda row: f"{row['peer_value']:.4g}",
    "ratio": lambda row: f"{row['ratio']:.2f}",
    "of the ceiling": lambda row: f"{row['ceiling_fraction']:.0%} ({row['ceiling']})",
    "identical": lambda row: f"{row['identical']:.0%}" if "identical" in row else "",
    "nats apart": lambda row: f"{row['difference']:.0e}" if "difference" in row else "",
}


def main() -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # this process needs little
    gpu = jax.default_backend() == "gpu"
    models = GPU_MODELS if gpu else CPU_MODELS
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer_python", default=".venv-peers/bin/python")
    parser.add_argument("--cpp_python", default=".venv-llamacpp/bin/python")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--cases", default=",".join(CPU_CASES), help="of those on a CPU")
    parser.add_argument("--models", default=",".join(models))
    options = parser.parse_args()
    machine = Machine.here(chip_of(jax.devices()[0].device_kind))
    print(
        f"ceilings: {machine.flops / 1e9:.1f} GFLOP/s, {machine.bytes_per_second / 1e9:.1f} GB/s",
        flush=True,
    )
    rows, versions = [], {}
    for name in options.models.split(","):
        found, peers = (measure_gpu if gpu else measure_cpu)(name, options, machine)
        rows += found
        versions |= peers
    paired.report("infer", rows, COLUMNS, versions)


if __name__ == "__main__":
    main()

"""What fewer bits change in a model's output: `make bench-precision`.

Beside float32 stand bfloat16 throughout, a cache of bfloat16, int8 weights, an int8 cache, and
both; each on the same prompts. Measured are the log-probabilities of the grades 1 to 5 and the
score they mean, how far greedy continuations stay the same, and the log-probability of given text
that is read token by token through the cache. By default on the packaged base model of the
microworld, with its own pages, and on ../shared/models/stories260K where it is.

With --folder it is another model folder, and --pairs a file of {"instruction": ..., "output": ...}
a line, rated and continued under the default prompts. Ends with one line of JSON.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import random
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paired
from etils import epath

from humpback_jax.checkpoints import bundle, huggingface
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UserError
from humpback_jax.evaluate.curation import auc
from humpback_jax.evaluate.drift import drift
from humpback_jax.infer import memory, steps, weights
from humpback_jax.infer.engine import Engine, EngineConfig, Request, Result
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.infer.weights import Weights
from humpback_jax.method.rating import GRADES, RatingPrompts
from humpback_jax.microworld import templates
from humpback_jax.microworld.segments import web_texts
from humpback_jax.microworld.world import WorldConfig, make_world
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.llama import Llama
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, read_jsonl

SLOTS = 16
RATED, CONTINUED, READ = 600, 128, 64
NEW_TOKENS = 64
STORY_TOKENS, STORY_PROMPT = 200, 16
STORIES = pathlib.Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K"
MARKS = ("<!-- make bench-precision writes what follows -->", "<!-- until here -->")


@dataclasses.dataclass(frozen=True)
class Kept:
    """How a model is computed and kept: dtypes of computation, weights and cache."""

    name: str
    computed: str = "float32"
    weights: str | None = None
    cache: str | None = None


REFERENCE = Kept("float32")
VARIANTS = (
    REFERENCE,
    Kept("bfloat16 cache", cache="bfloat16"),
    Kept("int8 cache", cache="int8"),
    Kept("int8 weights", weights="int8"),
    Kept("int8 weights and cache", weights="int8", cache="int8"),
    Kept("bfloat16", computed="bfloat16"),
    Kept("bfloat16, int8 weights and cache", computed="bfloat16", weights="int8", cache="int8"),
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model and what it is asked.

    Attributes:
      name: in the table.
      config: in float32.
      params: in float32.
      stop_ids: what ends a continuation.
      prompts: are continued greedily.
      texts: are read; each begins with BOS.
      rated: what stands before a grade, by the candidate's id; empty if the model knows none.
      digits: the token of each grade.
      good: whether a candidate is good, by its id, where that is known.
    """

    name: str
    config: LlamaConfig
    params: Any
    stop_ids: tuple[int, ...]
    prompts: list[list[int]]
    texts: list[list[int]]
    rated: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    digits: tuple[int, ...] = ()
    good: dict[str, bool] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Output:
    """What a model gave.

    Attributes:
      log_probs: [n, 5] of the grades.
      scores: expected score of each candidate.
      continued: of each prompt the tokens, a stop one last.
      read: [texts] log-probability of each token but the first.
      weight_bytes: of all parameters.
      entry_bytes: of one token in the cache.
    """

    log_probs: np.ndarray
    scores: dict[str, float]
    continued: list[list[int]]
    read: list[np.ndarray]
    weight_bytes: int
    entry_bytes: int


def measure(subject: Subject, kept: Kept) -> Output:
    """Returns what the subject gives when it is kept so."""
    dtype = kept.computed
    config = dataclasses.replace(subject.config, dtype=dtype, param_dtype=dtype)
    params = jax.tree.map(lambda x: x.astype(dtype), subject.params)
    found = weights.prepare(params, kept.weights)

    def engine(prompts: Sequence[Sequence[int]]) -> Engine:
        bucket = -(-max(map(len, prompts)) // 32) * 32
        shapes = EngineConfig(slots=SLOTS, buckets=(bucket,), cache_dtype=kept.cache)
        return Engine(config, found, shapes, subject.stop_ids)

    log_probs, scores = np.zeros((0, len(GRADES))), {}
    if subject.rated:
        requests = [Request(key, ids) for key, ids in subject.rated.items()]
        choices = engine([*subject.rated.values()]).score_choices(requests, subject.digits)
        log_probs = choices.log_probs
        scores = dict(zip(subject.rated, map(float, choices.probabilities @ GRADES), strict=True))
    requests = [Request(str(i), ids) for i, ids in enumerate(subject.prompts)]
    greedy = SamplingConfig(max_new_tokens=NEW_TOKENS, temperature=0.0)
    results = engine(subject.prompts).generate(requests, greedy)
    return Output(
        log_probs,
        scores,
        [_whole(result) for result in results],
        read(config, found, kept.cache, subject.texts),
        sum(leaf.nbytes for leaf in jax.tree.leaves(found.params)),
        memory.slot_bytes(config, 1, kept.cache),
    )


def _whole(result: Result) -> list[int]:
    """Returns the generated tokens; -1 stands for any stop token."""
    return [*result.token_ids, *[-1] * (result.finish_reason == "stop")]


def read(
    config: LlamaConfig, found: Weights, cache_dtype: str | None, texts: list[list[int]]
) -> list[np.ndarray]:
    """Returns the log-probability of each text's tokens but the first, by decode steps alone."""
    tokens = np.zeros((len(texts), max(map(len, texts))), np.int32)
    for row, ids in zip(tokens, texts, strict=True):
        row[: len(ids)] = ids
    program = steps.Program(config, None, cache_dtype=cache_dtype, form=found.form)
    table = np.asarray(_read(program, found.params, tokens))
    return [row[: len(ids) - 1] for row, ids in zip(table, texts, strict=True)]


@functools.partial(jax.jit, static_argnums=0)
def _read(program: steps.Program, params: Any, tokens: jax.Array) -> jax.Array:
    rows, length = tokens.shape
    cache = program.cache.zeros(program.config, rows, length, program.cache_dtype)
    model = Llama(program.config, program.form)

    def step(cache, t):
        positions = jnp.full((rows, 1), t)
        logits, cache = model.apply({"params": params}, tokens[:, t][:, None], positions,
                                    cache=cache)  # fmt: skip
        log_probs = jax.nn.log_softmax(logits[:, 0])
        return cache, jnp.take_along_axis(log_probs, tokens[:, t + 1][:, None], 1)[:, 0]

    return jax.lax.scan(step, cache, jnp.arange(length - 1))[1].T


def compare(subject: Subject, kept: Kept, before: Output, after: Output) -> dict:
    """Returns the row of a way of keeping a model: all that it changes in the output."""
    same = [_same(a, b) for a, b in zip(before.continued, after.continued, strict=True)]
    lengths = [len(tokens) for tokens in before.continued]
    parted = [n for n, length in zip(same, lengths, strict=True) if n < length]
    read = np.concatenate([b - a for a, b in zip(before.read, after.read, strict=True)])
    row = {
        "case": f"{subject.name}, {kept.name}",
        "weight_bytes": after.weight_bytes,
        "entry_bytes": after.entry_bytes,
        "identical": 1 - len(parted) / len(lengths),
        "identical_tokens": sum(same) / sum(lengths),
        "diverged_at": float(np.mean(parted)) if parted else None,
        "text_change": float(read.mean()),
        "text_mean": float(np.abs(read).mean()),
        "perplexity": float(np.exp(-np.concatenate(after.read).mean())),
    }
    if not subject.rated:
        return row
    digits = np.abs(after.log_probs - before.log_probs)
    moved = drift(before.scores, after.scores)
    scores = np.abs([after.scores[key] - before.scores[key] for key in before.scores])
    return row | {
        "digits_largest": float(digits.max()),
        "digits_mean": float(digits.mean()),
        "score_largest": float(scores.max()),
        "score_mean": float(scores.mean()),
        "rank_agreement": moved.rank_agreement,
        "moved": moved.moved / moved.segments,
        "auc": auc(after.scores, subject.good) if subject.good else None,
    }


def _same(before: Sequence[int], after: Sequence[int]) -> int:
    """Returns how many tokens two continuations have in common before they part."""
    pairs = enumerate(zip(before, after, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(before), len(after)))


def microworld() -> Subject:
    """Returns the packaged base model, asked about the pages of its own world."""
    base = epath.resource_path("humpback_jax") / "microworld" / "base"
    model = bundle.load_model(base)
    config = WorldConfig()
    labels = [text.label for text in web_texts(make_world(config), config)]
    labels = [label for label in labels if label.instructions][:RATED]
    pairs = [(label.instructions[0], label.text) for label in labels]
    prompts = Prompts(
        forward=templates.FORWARD, backward=templates.BACKWARD, rating=templates.RATING,
        score=templates.SCORE,
    )  # fmt: skip
    good = {str(i): label.is_good for i, label in enumerate(labels)}
    return asked("microworld", model, pairs, prompts, good)


def asked(
    name: str,
    model: bundle.LoadedModel,
    pairs: Sequence[tuple[str, str]],
    prompts: Prompts,
    good: dict[str, bool] | None = None,
) -> Subject:
    """Returns a model that rates pairs and reads answers.

    Half of what it continues are backward prompts, half the first thirds of answers. What is longer
    than the model's longest sequence is left out.
    """
    tokenizer: Tokenizer = model.tokenizer
    texts = RatingPrompts(tokenizer, prompts)
    rated = {
        str(i): texts.grade(Candidate(str(i), instruction, output, "", "", "ok"))
        for i, (instruction, output) in enumerate(pairs)
    }
    backward = [tokenizer.encode_prompt(prompts.render_backward(output)) for _, output in pairs]
    answers = [[tokenizer.bos_id, *tokenizer.encode(output)] for _, output in pairs]
    room = model.config.max_length
    rated = {key: ids for key, ids in rated.items() if len(ids) <= room}
    backward = [ids for ids in backward if len(ids) + NEW_TOKENS <= room]
    answers = [ids for ids in answers if len(ids) <= room]
    begun = [ids[: max(1, len(ids) // 3)] for ids in answers[: CONTINUED // 2]]
    params = jax.tree.map(lambda x: x.astype("float32"), model.params)
    return Subject(
        name, model.config, params, model.eos_ids, backward[: CONTINUED // 2] + begun,
        answers[:READ], rated, texts.digits, good or {},
    )  # fmt: skip


def stories(folder: pathlib.Path) -> Subject:
    """Returns a model without a tokenizer, asked about stories of its own."""
    model = huggingface.read_model(folder)
    params = jax.tree.map(lambda x: x.astype("float32"), model.params)
    shapes = EngineConfig(slots=SLOTS, buckets=(1,))
    engine = Engine(model.config, params, shapes, stop_ids=())
    requests = [Request(str(i), [1]) for i in range(CONTINUED)]
    drawn = SamplingConfig(max_new_tokens=STORY_TOKENS, temperature=1.0, top_p=1.0, seed=0)
    told = [[1, *result.token_ids] for result in engine.generate(requests, drawn)]
    prompts = [ids[:STORY_PROMPT] for ids in told]
    return Subject(folder.name, model.config, params, (), prompts, told[:READ])


def folder(path: str, pairs: str) -> Subject:
    """Returns a model folder that is asked about a file's pairs."""
    rows = []
    for number, row in read_jsonl(pairs):
        if not isinstance(row, dict) or not {"instruction", "output"} <= row.keys():
            raise UserError(f"{pairs} line {number} is no pair: give it instruction and output")
        rows.append(row)
    random.Random(0).shuffle(rows)
    found = [(row["instruction"], row["output"]) for row in rows[:RATED]]
    return asked(pathlib.Path(path).name, bundle.load_model(path), found, Prompts())


def _two(row: dict, name: str) -> str:
    """Shows the largest change and the mean one."""
    if f"{name}_largest" not in row:
        return ""
    return f"{row[f'{name}_largest']:.2g} / {row[f'{name}_mean']:.2g}"


def _shown(row: dict, name: str, form: str) -> str:
    return "" if row.get(name) is None else format(row[name], form)


COLUMNS = {
    "model and how it is kept": lambda row: row["case"],
    "weights, MiB": lambda row: f"{row['weight_bytes'] / 2**20:.2f}",
    "cache, bytes a token": lambda row: str(row["entry_bytes"]),
    "grades' log-probabilities, largest / mean change": lambda row: _two(row, "digits"),
    "expected score, likewise": lambda row: _two(row, "score"),
    "rank agreement": lambda row: _shown(row, "rank_agreement", ".5f"),
    "other grade": lambda row: _shown(row, "moved", ".1%"),
    "AUC": lambda row: _shown(row, "auc", ".4f"),
    "same continuations": lambda row: _shown(row, "identical", ".0%"),
    "tokens before they part": lambda row: _shown(row, "identical_tokens", ".0%"),
    "parted at token": lambda row: _shown(row, "diverged_at", ".0f"),
    "given text, nats a token: change / mean": lambda row: (
        f"{row['text_change']:+.1e} / {row['text_mean']:.1e}"
    ),
    "perplexity": lambda row: f"{row['perplexity']:.4f}",
}


def write(page: pathlib.Path, table: str) -> None:
    """Puts the table between the marks of a page."""
    before, rest = page.read_text().split(MARKS[0])
    page.write_text(f"{before}{MARKS[0]}\n\n{table}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", help="a model folder with its tokenizer")
    parser.add_argument("--pairs", help="the pairs it is asked about, JSON lines")
    parser.add_argument("--write", type=pathlib.Path, help="a page with the two marks in it")
    options = parser.parse_args()
    if bool(options.folder) != bool(options.pairs):
        parser.error("--folder and --pairs belong together")
    if options.folder:
        subjects = [folder(options.folder, options.pairs)]
    else:
        subjects = [microworld(), *([stories(STORIES)] if STORIES.is_dir() else [])]
    rows = []
    for subject in subjects:
        before = measure(subject, REFERENCE)
        for kept in VARIANTS:
            after = before if kept == REFERENCE else measure(subject, kept)
            rows.append(compare(subject, kept, before, after))
            print(json.dumps(rows[-1]), flush=True)
    if options.write:
        write(options.write, paired.table(rows, COLUMNS))
    paired.report("precision", rows, COLUMNS)


if __name__ == "__main__":
    main()

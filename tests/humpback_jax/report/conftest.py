"""A small run directory as the stages leave it, without a model having run."""

import collections
import dataclasses
import json
import random

import pytest
from etils import epath

from humpback_jax import records, rundir
from humpback_jax.corpus.filters import funnel
from humpback_jax.corpus.profile import Profile
from humpback_jax.evaluate import curation as quality
from humpback_jax.evaluate import microworld
from humpback_jax.method import mixtures, selection
from humpback_jax.microworld.language import Fact
from humpback_jax.microworld.questions import Question
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, Rating, Reject, SeedPair, Segment, Signals, Source
from humpback_jax.report import page
from humpback_jax.rundir import Counts, StageDir

EVIL = '<script>alert("pages must not run")</script><img src=http://evil.example/x onerror=x()>'
GRADES = (1, 2, 3, 4, 5)
SKILL = {"M0": 0.15, "M1": 0.55, "M2": 0.62, "uncurated": 0.4}


class FakeRun:
    """Writes stages one after another; each method is one stage."""

    def __init__(self, root, segments=60, shards=2, texts=None, seed=0):
        self.root = epath.Path(root)
        self.rng = random.Random(seed)
        self.shards = shards
        self.texts = texts or [
            f"Text {i}. " + "The town grows rice. " * 20 for i in range(segments)
        ]
        self.segments: list[Segment] = []
        self.candidates: list[Candidate] = []
        self.ratings: dict[int, list[Rating]] = {}
        self.truth: dict[str, bool] = {}
        self.pairs: list[SeedPair] = []
        self.chosen: dict[str, list[str]] = {}
        self.stages: list[str] = []

    def stage(self, name: str) -> StageDir:
        self.stages.append(name)
        stage = StageDir(self.root, name)
        stage.begin({"name": name}, {})
        return stage

    def stage_summary(self, name: str) -> dict:
        return StageDir(self.root, name).summary()

    def _write(self, stage: StageDir, cls: type, rows, rejects=()) -> Counts:
        """Writes records that may carry a status as the inference stages do."""
        total = Counts(0, 0)
        for index in range(self.shards):
            part = rows[index :: self.shards]
            bad: dict[str, int] = {}
            for row in part:
                if getattr(row, "status", "ok") != "ok":
                    bad[row.status] = bad.get(row.status, 0) + 1
            errors = bad.pop("error", 0)
            out = len(part) - sum(bad.values()) - errors
            counts = Counts(len(part), out, bad, errors)
            stage.write_shard(index, cls, part, counts, "f", rejects[index :: self.shards])
            total += counts
        return total

    def segment(self) -> None:
        stage = self.stage("segment")
        for i, text in enumerate(self.texts):
            segment_id = records.stable_id("segment", i)
            self.truth[segment_id] = self.rng.random() < 0.25
            header = EVIL if i % 3 == 0 else f"About town {i}"
            text = f"{EVIL} {text}" if i % 3 == 0 else text
            signals = Signals(len(text), 0.0, 0.1, 0.0)
            source = Source("web-00000.warc.gz", 100 * i, f"<urn:uuid:{i}>")
            self.segments.append(
                Segment(segment_id, source, f"http://site{i}.example/{i}", "en", (header,), header,
                        text, f"site{i}.example", signals)
            )  # fmt: skip
        n = len(self.segments)
        rejects = [
            Reject(f"r{reason}{i}", f"web-00000.warc.gz@{i}", reason, f"Header {i} | {EVIL}")
            for reason in ("too_short", "header_navigation", "duplicate", "not_html")
            for i in range(12)
        ]
        self._write(stage, Segment, self.segments, rejects)
        reasons = {"too_short": 3 * n, "header_navigation": n // 2, "duplicate": 7}
        counts = Counts(n + sum(reasons.values()), n, reasons)
        pages = Counts(n // 4 + 9, n // 4, {"http_status": 5, "not_html": 3}, 1)
        steps = funnel(counts.records_in, collections.Counter(reasons))
        profile = Profile()
        for i in range(n // 4):
            profile.add_page("de" if i % 5 == 4 else EVIL if i == 0 else "en", [40, 700, 1500])
        stage.finish(counts, "d", 3.21, pages=pages, funnel=steps, profile=profile.plain())

    def seed(self) -> None:
        stage = self.stage("seed")
        for i in range(24):
            words = "Tell me about the river. " * self.rng.randint(1, 4)
            self.pairs.append(SeedPair(f"seed{i}", words, "It is wide. " * 9, "seed.jsonl"))
        counts = Counts(26, 24, {"unranked": 2})
        stage.write_shard(0, SeedPair, self.pairs, counts, "f")
        stage.finish(counts, "d", 0.1)

    def augment(self) -> None:
        stage = self.stage("augment")
        for i, segment in enumerate(self.segments):
            status = "leaked" if i % 20 == 7 else "ok"
            instruction = f"What is town {i} known for? {EVIL if i % 3 == 0 else ''}"
            self.candidates.append(
                Candidate(segment.segment_id, instruction, segment.text, "myx", "t=0.7", status)
            )
        stage.finish(self._write(stage, Candidate, self.candidates), "d", 12.0)

    def train(self, name: str, strategy="threshold", count=0, steps=60) -> None:
        stage = self.stage(name)
        config = selection.SelectionConfig(strategy=strategy, threshold=3.5, count=count)
        chosen = []
        if name == "Myx":
            examples = mixtures.backward_examples(self.pairs)
        else:
            if name not in ("M0", "pretrain"):
                last = self.ratings[max(self.ratings)]
                chosen = selection.select(self.candidates, last, config)
            examples = mixtures.joint_examples(self.pairs, chosen, Prompts())
        self.chosen[name] = [c.segment_id for c in chosen]
        settings = json.loads((stage.path / "config.json").read_text())
        settings["config"]["selection"] = dataclasses.asdict(config)
        rundir.write_json(stage.path / "config.json", settings)
        content = records.to_parquet(records.Example, examples)
        rundir.write_atomic(stage.path / "examples.parquet", content)
        self.log(name, steps)
        n = len(examples)
        stage.finish(Counts(n, n, {"too_long": 0}), "d", 40.0, augmented=len(chosen))

    def log(self, name: str, steps: int) -> None:
        rows = [
            {
                "step": step,
                "loss": 0.6 + 3 / (1 + step / 15) + self.rng.gauss(0, 0.03),
                "accuracy": 0.8 - 0.5 / (1 + step / 15),
                "learning_rate": 1e-3 * (1 - 0.9 * step / steps),
                "grad_norm": 1.0,
                "target_tokens": 2048.0,
                "timing/uptime": step * 0.5,
            }
            for step in range(5, steps + 1, 5)
        ]
        path = self.root / name / "train" / "metrics.jsonl"
        rundir.write_atomic(path, records.to_jsonl(rows))

    def curate(self, t: int) -> None:
        stage = self.stage(f"curate{t}")
        ok = [c for c in self.candidates if c.status == "ok"]
        rows = []
        before = {r.segment_id: r.score for r in self.ratings.get(t - 1, ())}
        for i, candidate in enumerate(ok):
            mean = 3.9 if self.truth[candidate.segment_id] else 2.4
            score = min(5.0, max(1.0, self.rng.gauss(mean, 0.8)))
            if t > 1:
                score = min(5.0, 0.5 * (score + before[candidate.segment_id]) + 0.1)
            weights = [2.0 ** -(2 * abs(score - g)) for g in GRADES]
            spread = tuple(w / sum(weights) for w in weights)
            status = "too_long" if i == 3 else "ok"
            score, spread = (score, spread) if status == "ok" else (0.0, ())
            rationale = f"Because of {EVIL}" if i % 3 == 0 else ""
            rows.append(
                Rating(candidate.segment_id, t, "m", score, spread, rationale, status)
            )  # fmt: skip
        self.ratings[t] = rows
        stage.finish(self._write(stage, Rating, rows), "d", 30.0 + t)

    def evaluate(self, models, questions=80, labels=True) -> None:
        stage = self.stage("evaluate")
        asked = [
            Question(f"q{i}", f"What does town {i} grow?", "web" if i % 3 else "known",
                     (Fact("Baldun", "crop", "rice"), Fact("Baldun", "drink", "tea")))
            for i in range(questions)
        ]  # fmt: skip
        results = {"accuracy": {}}
        for model in models:
            answers, scores = [], {}
            for q in asked:
                skill = SKILL[model] + (0.2 if q.group == "known" else -0.1)
                scores[q.question_id] = sum(self.rng.random() < skill for _ in range(2)) / 2
                answers.append({"id": q.question_id, "instruction": q.instruction,
                                "answer": f"{model} says: it grows rice & <b>tea</b>.",
                                "finish_reason": "eos"})  # fmt: skip
            answers += [{"id": f"p{i}", "instruction": f"Write a poem, number {i}. {EVIL}",
                         "answer": "" if i == 1 else "Roses are red. " * 40,
                         "finish_reason": "eos"} for i in range(4)]  # fmt: skip
            path = stage.path / "answers" / f"{model}.jsonl"
            rundir.write_atomic(path, records.to_jsonl(answers))
            if questions:
                results["accuracy"][model] = self._accuracy(asked, scores)
        if labels:
            rounds = {str(t): self._quality(t) for t in self.ratings}
            results |= {"curation": rounds}
            results |= {"backward": {"good_segments": 14, "right_instruction": 0.75}}
        rundir.write_json(stage.path / "results.json", results)
        n = (questions + 4) * len(models)
        stage.finish(Counts(n, n), "d", 22.5)

    def _accuracy(self, asked, scores) -> dict:
        def plain(accuracy):
            return {k: v for k, v in dataclasses.asdict(accuracy).items() if k != "group"}

        groups = microworld.accuracy_by_group(asked, scores, resamples=200)
        whole = [dataclasses.replace(q, group="all") for q in asked]
        total = microworld.accuracy_by_group(whole, scores, resamples=200)["all"]
        by_group = {name: plain(row) for name, row in groups.items()}
        return {**plain(total), "groups": by_group, "scores": scores}

    def _quality(self, t: int) -> dict:
        truth = {
            c.segment_id: self.truth[c.segment_id] for c in self.candidates if c.status == "ok"
        }
        scores = {r.segment_id: r.score for r in self.ratings[t] if r.status == "ok"}
        return {
            **dataclasses.asdict(quality.selection_quality(self.chosen[f"M{t}"], truth)),
            "auc": quality.auc(scores, truth),
            "right_instruction": 0.6,
            "calibration": [dataclasses.asdict(b) for b in quality.calibration(scores, truth)],
            "thresholds": [dataclasses.asdict(q) for q in quality.at_thresholds(scores, truth)],
        }

    def run(self, models=("M0", "M1", "M2", "uncurated"), iterations=2, more=()) -> page.Run:
        config = f'Recipe.run_dir = "{self.root.name}"\n# {EVIL}\n'
        return page.Run(self.root, (*self.stages, *more), tuple(models), iterations, config)


def full_run(root, **kwargs) -> FakeRun:
    """Returns a complete run of two iterations with an arm, questions and labels."""
    fake = FakeRun(root, **kwargs)
    fake.segment()
    fake.seed()
    fake.train("Myx")
    fake.augment()
    fake.train("M0")
    for t in (1, 2):
        fake.curate(t)
        fake.train(f"M{t}")
    fake.train("uncurated", "random", len(fake.chosen["M2"]))
    fake.evaluate(("M0", "M1", "M2", "uncurated"))
    return fake


@pytest.fixture(scope="session")
def fake(tmp_path_factory) -> FakeRun:
    return full_run(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture
def make_fake(tmp_path):
    return lambda **kwargs: FakeRun(tmp_path / "run", **kwargs)

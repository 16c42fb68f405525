"""The stage that measures: evaluate."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from humpback_jax import records, rundir
from humpback_jax.checkpoints import bundle
from humpback_jax.evaluate import answers, curation, microworld
from humpback_jax.infer.computation import computation, deciding
from humpback_jax.infer.engine import Engine, EngineConfig
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.microworld.labels import Label, join_labels, read_labels
from humpback_jax.microworld.questions import Question, read_questions
from humpback_jax.records import Candidate, Rating, Segment
from humpback_jax.rundir import Counts, StageDir
from launch import configuration
from launch.context import Context, Outcome, input_digest

RESULTS_NAME = "results.json"


def evaluate(context: Context) -> None:
    """Lets the evaluated models answer, and measures answers and curation where truth is known."""
    recipe = context.recipe
    files = {"questions": recipe.questions, "labels": recipe.labels, "prompts": recipe.prompts}
    paths = {name: recipe.path(value) for name, value in files.items() if value}
    inputs = {name: input_digest(path) for name, path in paths.items()}
    iterations = range(1, recipe.iterations + 1)
    rounds = [name for t in iterations for name in (f"curate{t}", f"M{t}")]
    inputs |= context.digests("segment", "augment", *rounds, *recipe.evaluated)
    engine_config = configuration.build(EngineConfig, "evaluate")
    sampling = configuration.build(SamplingConfig, "evaluate")
    config = {
        "engine": deciding(engine_config),
        "sampling": sampling,
        "prompts": context.prompts,
        "dtype": recipe.inference_dtype,
    }

    def work(stage: StageDir) -> Outcome:
        stage.compute_by(computation(engine_config, context.mesh_of("evaluate")))
        questions = read_questions(paths["questions"]) if "questions" in paths else []
        wanted = {q.question_id: q.instruction for q in questions}
        if "prompts" in paths:
            wanted |= answers.read_instructions(paths["prompts"])
        rows = {
            name: _answers(context, stage, name, wanted, engine_config, sampling)
            for name in recipe.evaluated
            if wanted
        }
        given = {name: {row["id"]: row["answer"] for row in rows[name]} for name in rows}
        results: dict[str, Any] = {
            "accuracy": _accuracy(questions, given),
            "question_groups": {q.question_id: q.group for q in questions},
        }
        if "labels" in paths:
            results |= _curation(context, read_labels(paths["labels"]))
        rundir.write_json(stage.path / RESULTS_NAME, results)
        return Outcome(_counts(rows), rundir.fingerprint([results, given]))

    context.run("evaluate", config, inputs, work)


def _answers(
    context: Context,
    stage: StageDir,
    name: str,
    wanted: Mapping[str, str],
    engine_config: EngineConfig,
    sampling: SamplingConfig,
) -> list[dict[str, Any]]:
    """Returns a model's answer to each instruction, from its file if it is written already."""
    path = stage.path / "answers" / f"{name}.jsonl"
    if not path.exists():
        mesh = context.mesh_of("evaluate")
        dtype = context.recipe.inference_dtype or None
        model = bundle.load_model(context.stage(name).path, mesh, dtype)
        decode = model.tokenizer.decode
        engine = Engine(model.config, model.params, engine_config, model.eos_ids, mesh, decode)
        if engine_config.warm_up:
            engine.warm_up(sampling)
        rows = answers.answer(engine, model.tokenizer, context.prompts, wanted, sampling)
        rundir.write_atomic(path, records.to_jsonl(rows))
    return [row for _, row in records.read_jsonl(path)]


def _counts(given: Mapping[str, Sequence[Mapping[str, Any]]]) -> Counts:
    """Returns the conservation law of all models' answers."""
    reasons = [row["finish_reason"] for rows in given.values() for row in rows]
    too_long = reasons.count("too_long")
    rejects = {"too_long": too_long} if too_long else {}
    return Counts(len(reasons), len(reasons) - too_long, rejects)


def _accuracy(
    questions: Sequence[Question], given: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Returns {model: {mean, low, high, questions, groups: {group: {...}}}}."""
    if not questions:
        return {}
    together = [dataclasses.replace(q, group="all") for q in questions]
    table = {}
    for name, by_id in given.items():
        scores = microworld.score_answers(questions, by_id)
        groups = microworld.accuracy_by_group(questions, scores)
        whole = microworld.accuracy_by_group(together, scores)["all"]
        table[name] = {
            **_interval(whole),
            "groups": {group: _interval(accuracy) for group, accuracy in groups.items()},
            "scores": scores,
        }
    return table


def _interval(accuracy: microworld.Accuracy) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(accuracy).items() if k != "group"}


def _curation(context: Context, labels: Sequence[Label]) -> dict[str, Any]:
    """Returns how Myx and each round of curation agree with the labels."""
    found = join_labels(context.stage("segment").read(Segment), labels)
    by_id = {key: label for key, label in found.items() if label is not None}
    candidates = {c.segment_id: c for c in context.stage("augment").read(Candidate)}
    rated = {key: by_id[key] for key, c in candidates.items() if key in by_id and c.status == "ok"}
    truth = {key: label.is_good for key, label in rated.items()}
    right = {
        key: by_id[key].is_answer_to(c.instruction) for key, c in candidates.items() if key in by_id
    }
    good = [right[key] for key, is_good in truth.items() if is_good]
    table = {}
    for t in range(1, context.recipe.iterations + 1):
        ratings = context.stage(f"curate{t}").read(Rating)
        scores = {r.segment_id: r.score for r in ratings if r.status == "ok"}
        chosen = augmented_ids(context, f"M{t}")
        table[str(t)] = {
            **dataclasses.asdict(curation.selection_quality(chosen, truth)),
            "auc": curation.auc(scores, truth),
            "right_instruction": sum(right.get(key, False) for key in chosen) / max(1, len(chosen)),
            "calibration": [dataclasses.asdict(b) for b in curation.calibration(scores, truth)],
            "thresholds": [dataclasses.asdict(q) for q in curation.at_thresholds(scores, truth)],
        }
    backward = {"good_segments": len(good), "right_instruction": sum(good) / max(1, len(good))}
    return {"curation": table, "backward": backward}


def augmented_ids(context: Context, model: str) -> list[str]:
    """Returns the ids of the segments that a forward model was trained on."""
    path = context.stage(model).path / "examples.parquet"
    examples = records.read_parquet(records.Example, path)
    return [i for e in examples if e.origin == "augmented" for i in e.source_ids]

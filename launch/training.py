"""The stages that train: the base model, the backward model Myx and the forward models M_t."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from humpback_jax import distributed, records, rundir
from humpback_jax.checkpoints import bundle, huggingface, importing
from humpback_jax.corpus.openassistant import SeedFilters, read_seed_pairs
from humpback_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer, train_tokenizer
from humpback_jax.data.tokenizer_files import load_tokenizer
from humpback_jax.errors import UsageError, UserError
from humpback_jax.method import mixtures
from humpback_jax.method.selection import SelectionConfig, select
from humpback_jax.prompts import Prompts
from humpback_jax.rundir import Counts, StageDir
from humpback_jax.train import fit
from humpback_jax.train.config import TrainConfig
from humpback_jax.train.optimizer import OptimizerConfig
from launch import configuration
from launch.context import Context, Outcome, input_digest
from launch.recipe import BACKWARD, Arm, Pretraining


def pretrain(context: Context) -> None:
    """Trains a base model from nothing and leaves it as a Hugging Face folder in Recipe.base."""
    recipe = context.recipe
    if not recipe.base.startswith("{run_dir}/"):
        raise UsageError(
            f"BASE is {recipe.base}, where pretraining would write its model: leave it at "
            "'{run_dir}/base_model', or set Recipe.pretrain = False to use that model"
        )
    plan = configuration.build(Pretraining)
    config = configuration.build(TrainConfig, "pretrain")
    optimizer = configuration.build(OptimizerConfig, "pretrain")
    llama = configuration.build_llama()
    text, given = recipe.path(plan.text), recipe.path(plan.tokenizer)
    inputs = {"text": input_digest(text)} if text else context.digests("segment")
    if given:
        inputs["tokenizer"] = input_digest(given)

    def work(stage: StageDir) -> Outcome:
        texts = list(_texts(text) if text else _segment_texts(context))
        if given:
            tokenizer = SentencePieceTokenizer(epath.Path(given).read_bytes())
        else:
            tokenizer = train_tokenizer(texts, plan.vocab_size)
        bundle.check_vocabulary(tokenizer, llama, stage.path)
        from humpback_jax.data import tasks

        pieces = tasks.tokenize_texts(texts, tokenizer, config.feature_lengths["targets"])
        part = tasks.Part("text", pieces, 1.0)
        card = _train(
            context, stage, llama, None, tokenizer, (tokenizer.eos_id,), [part], config, optimizer
        )
        export(stage.path, epath.Path(recipe.path(recipe.base)), context.mesh)
        return Outcome(Counts(len(texts), len(texts)), card.fingerprint)

    settings = {"train": _decisive(config), "optimizer": optimizer, "llama": llama, "plan": plan}
    context.run("pretrain", settings, inputs, work)


def _texts(path: str):
    for number, row in records.read_jsonl(path):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise UserError(f"{path}:{number} is no {{'text': ...}} line: correct the file")
        yield row["text"]


def _segment_texts(context: Context):
    for segment in context.stage("segment").read(records.Segment):
        yield segment.text


def base(context: Context) -> None:
    """Imports the base model, of Hugging Face's layout or Meta's, into an Orbax model folder."""
    folder = context.recipe.path(context.recipe.base)
    inputs = context.digests("pretrain") if context.recipe.pretrain else {}
    model, tokenizer = importing.open_folder(folder)
    source = importing.source_digest(folder)

    def work(stage: StageDir) -> Outcome:
        card = importing.import_model(model, tokenizer, stage.path, context.mesh)
        # The same weights under another tokenizer or RoPE are another model.
        return Outcome(Counts(1, 1), rundir.fingerprint([card.fingerprint, source]))

    context.run("base", {"base": source}, inputs, work)


def export(
    model_folder: epath.Path,
    folder: epath.Path,
    mesh: jax.sharding.Mesh,
    prompts: Prompts | None = None,
) -> None:
    """Writes a model folder as a Hugging Face folder, with a chat template if given prompts."""
    model = bundle.load_model(model_folder, mesh)
    huggingface.write_model(
        folder, model.config, model.params, model.eos_ids, model.tokenizer, prompts
    )


def backward(context: Context) -> None:
    """Trains Myx: the base finetuned to write the instruction of a seed pair's output."""

    def examples() -> list[records.Example]:
        return mixtures.backward_examples(context.stage("seed").read(records.SeedPair))

    _finetune(context, BACKWARD, examples, context.digests("base", "seed"), {})


def forward(context: Context, name: str) -> None:
    """Trains a forward model: M_t of the loop, or an arm of a comparison."""
    arm = configuration.build(Arm, name)
    settings: dict[str, Any] = {"arm": arm}
    needs = ["base", "seed"] if arm.use_seed else ["base"]
    augmented = arm.use_augmented and name != "M0"
    selection, iteration = None, 0
    if augmented:
        selection = configuration.build(SelectionConfig, name)
        iteration = arm.iteration or _own_iteration(context, name)
        needs += ["augment", f"curate{iteration}"]
        if arm.same_count_as:
            needs.append(arm.same_count_as)
        settings |= {"selection": selection, "iteration": iteration}

    def examples() -> list[records.Example]:
        pairs = context.stage("seed").read(records.SeedPair) if arm.use_seed else ()
        chosen: Sequence[records.Candidate] = ()
        if selection is not None:
            chosen = _selected(context, arm, selection, iteration)
        return mixtures.joint_examples(pairs, chosen, context.prompts)

    _finetune(context, name, examples, context.digests(*needs), settings)


def _own_iteration(context: Context, name: str) -> int:
    models = context.recipe.forward_models
    return models.index(name) if name in models else context.recipe.iterations


def _selected(
    context: Context, arm: Arm, selection: SelectionConfig, iteration: int
) -> Sequence[records.Candidate]:
    """Returns the candidates that an arm trains on."""
    if arm.same_count_as:
        limit = context.stage(arm.same_count_as).summary()["augmented"]
        count = min(limit, selection.count) if selection.count else limit
        selection = dataclasses.replace(selection, count=count)
    candidates = list(context.stage("augment").read(records.Candidate))
    ratings = list(context.stage(f"curate{iteration}").read(records.Rating))
    chosen = select(candidates, ratings, selection)
    if not chosen:
        raise UserError(
            f"none of the {len(ratings)} ratings of curate{iteration} is kept: lower "
            "SelectionConfig.threshold or set SelectionConfig.strategy = 'top'"
        )
    return chosen


def _finetune(context: Context, name: str, make_examples, inputs, settings: dict[str, Any]) -> None:
    """Runs a finetuning stage: examples.parquet, then training from the base."""
    recipe = context.recipe
    config = configuration.build(TrainConfig, name)
    optimizer = configuration.build(OptimizerConfig, name)
    settings |= {"train": _decisive(config), "optimizer": optimizer, "prompts": context.prompts}
    if config.replay_rate:
        if not recipe.replay:
            raise UsageError(
                "TrainConfig.replay_rate needs a text: bind Recipe.replay to a JSONL of {text}, or "
                "set the rate to 0"
            )
        inputs = {**inputs, "replay": input_digest(recipe.path(recipe.replay))}

    def work(stage: StageDir) -> Outcome:
        folder = context.stage("base").path
        card, tokenizer = bundle.read_card(folder), load_tokenizer(folder)
        # Before anything is written: what is refused here may be bound anew.
        fit.check(config, fit.training_config(card.config, config), context.mesh)
        examples = make_examples()
        content = records.to_parquet(records.Example, examples)
        if distributed.is_primary():
            rundir.write_atomic(stage.path / "examples.parquet", content)
        parts, too_long = _parts(context, name, examples, tokenizer, config)
        card = _train(
            context,
            stage,
            card.config,
            lambda: bundle.load_model(folder, context.mesh).params,
            tokenizer,
            card.eos_ids,
            parts,
            config,
            optimizer,
            _validation(context, name, tokenizer, config),
        )
        if name == recipe.forward_models[-1]:
            export(stage.path, stage.path / "hf", context.mesh, context.prompts)
        counts = Counts(len(examples), len(examples) - too_long, {"too_long": too_long})
        augmented = sum(e.origin == "augmented" for e in examples)
        extra = {"augmented": augmented, "seed": len(examples) - augmented}
        return Outcome(counts, card.fingerprint, extra)

    context.run(name, settings, inputs, work)


def _decisive(config: TrainConfig) -> TrainConfig:
    """Returns what decides the result: how often a run saves and logs does not."""
    return dataclasses.replace(
        config, checkpoint_period=1, log_period=1, eval_period=0, keep_checkpoints=1
    )


def _parts(context, name, examples, tokenizer, config):
    """Returns (the parts of a mixture, the number of examples too long for their features)."""
    from humpback_jax.data import tasks

    parts, too_long = [], 0
    for origin in ("seed", "augmented"):
        own = [e for e in examples if e.origin == origin]
        kept, long = _tokenize(context, name, own, tokenizer, config)
        too_long += long
        parts.append(tasks.Part(origin, kept, float(len(kept))))
    if config.replay_rate:
        texts = _texts(context.recipe.path(context.recipe.replay))
        pieces = tasks.tokenize_texts(texts, tokenizer, config.feature_lengths["targets"])
        others = sum(part.rate for part in parts)
        rate = others * config.replay_rate / (1 - config.replay_rate)
        parts.append(tasks.Part("replay", pieces, rate))
    return parts, too_long


def _tokenize(context, name, examples, tokenizer, config):
    """Returns (the examples as a model is trained on them, the number of those too long)."""
    from humpback_jax.data import tasks

    direction = "backward" if name == BACKWARD else "forward"
    pairs = [(e.example_id, mixtures.to_prompt(e, context.prompts, direction)) for e in examples]
    return tasks.tokenize(pairs, tokenizer, config.feature_lengths)


def _validation(context, name, tokenizer, config):
    """Returns the recipe's validation pairs as examples; those too long are left out."""
    if not context.recipe.validation or not config.eval_period:
        return ()
    filters = configuration.build(SeedFilters)
    pairs = read_seed_pairs(context.recipe.path(context.recipe.validation), filters).pairs
    if name == BACKWARD:
        examples = mixtures.backward_examples(pairs)
    else:
        examples = mixtures.seed_examples(pairs, context.prompts)
    return _tokenize(context, name, examples, tokenizer, config)[0]


def _train(
    context, stage, llama, load_params, tokenizer, eos_ids, parts, config, optimizer, validation=()
):
    """Trains in the stage's folder, which is laid out as T5X's MODEL_DIR."""
    # The trainer brings TensorFlow with it, which no other stage needs.
    from humpback_jax.train.trainer import Run, train

    run = Run(stage.path, llama, load_params, tokenizer, eos_ids, parts, context.mesh, validation)
    return train(run, config, optimizer)

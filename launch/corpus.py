"""The stages that make segments and seed pairs, and the microworld to take them from."""

import dataclasses

from beam_pipelines.config import BeamConfig
from beam_pipelines.segment import run_segment
from humpback_jax import records, rundir
from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.corpus.openassistant import SeedFilters, read_seed_pairs
from humpback_jax.corpus.reading import ReadConfig
from humpback_jax.microworld import pretraining
from humpback_jax.microworld.files import write_world
from humpback_jax.microworld.world import WorldConfig, make_world
from humpback_jax.records import SeedPair
from humpback_jax.rundir import Counts, StageDir
from launch import configuration
from launch.context import Context, Outcome, input_digest
from launch.recipe import PretrainingText


def world(context: Context) -> None:
    """Writes a microworld: pages, seed, questions, labels, and pretraining text."""
    config = configuration.build(WorldConfig)
    text = configuration.build(pretraining.PretrainingConfig)
    amount = configuration.build(PretrainingText)

    def work(stage: StageDir) -> Outcome:
        write_world(stage.path, config)
        documents = pretraining.documents(make_world(config), text, stop=amount.documents)
        rows = records.to_jsonl({"text": document} for document in documents)
        rundir.write_atomic(stage.path / "pretraining.jsonl", rows)
        names = ("corpus", "seed.jsonl", "questions.jsonl", "labels.jsonl", "pretraining.jsonl")
        digests = [input_digest(str(stage.path / name)) for name in names]
        return Outcome(Counts(1, 1), rundir.fingerprint(digests))

    context.run("world", {"world": config, "text": text, "amount": amount}, {}, work)


def segment(context: Context) -> None:
    """Cuts the corpus into segments."""
    recipe = context.recipe
    filters = configuration.build(SegmentFilters)
    filters = dataclasses.replace(
        filters,
        evaluation=[recipe.path(pattern) for pattern in filters.evaluation],
        blocklist=[recipe.path(pattern) for pattern in filters.blocklist],
    )
    run_segment(
        recipe.root,
        recipe.path(recipe.corpus),
        filters,
        configuration.build(BeamConfig),
        recipe.num_shards,
        configuration.build(ReadConfig),
    )


def seed(context: Context) -> None:
    """Reads the seed pairs."""
    path = context.recipe.path(context.recipe.seed)
    filters = configuration.build(SeedFilters)
    inputs = {"seed": input_digest(path)}

    def work(stage: StageDir) -> Outcome:
        fingerprint = rundir.fingerprint([filters, inputs])
        found = read_seed_pairs(path, filters)
        stage.write_shard(0, SeedPair, found.pairs, found.counts, fingerprint, found.rejects)
        return Outcome(found.counts, stage.shards_digest())

    context.run("seed", {"filters": filters}, inputs, work)

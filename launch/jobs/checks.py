"""What would fail in a place is found before anything is started there that costs money."""

import math
import os
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from beam_pipelines.config import BeamConfig
from humpback_jax import rundir
from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.errors import UsageError, UserError
from humpback_jax.partitioning import MeshConfig, mesh_shape
from humpback_jax.train.config import TrainConfig
from launch import configuration
from launch.jobs.command import BEAM_STAGES, Place
from launch.jobs.places import group_of
from launch.recipe import Pretraining, Recipe

_INFERENCE = ("augment", "curate", "evaluate")


def check(place: Place, stage: str, recipe: Recipe) -> None:
    """Raises UsageError if a stage could not work in a place; nothing is read or written.

    Args:
      place: as gin configures it.
      stage: "M1", "curate2"; "run" for all of them.
      recipe: of the run.
    """
    if place.remote:
        for name, path in _paths(stage, recipe):
            if not rundir.is_remote(path):
                raise UsageError(
                    f"{name} is {path}, which only this machine has, and the work is elsewhere: "
                    "give a path in a bucket, gs://BUCKET/..."
                )
    if place.shared:
        _check_absolute(stage, recipe)
    topology = getattr(place, "topology", None)
    if topology is not None:
        for scope in _mesh_scopes(stage):
            _check_mesh(topology, getattr(place, "processes", 1), scope)


def check_writable(run_dir: str) -> None:
    """Writes an empty file into a run directory and takes it away again.

    Raises:
      UserError: it cannot be written with what this machine may do.
    """
    probe = epath.Path(run_dir) / f".writable-{uuid.uuid4().hex}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except Exception as error:  # each file system has kinds of its own
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:200] if lines else type(error).__name__
        raise UserError(
            f"RUN_DIR {run_dir} cannot be written from here ({reason}): make the bucket, log in "
            "with `gcloud auth application-default login`, or correct RUN_DIR"
        ) from error


def check_beam(stage: str, recipe: Recipe, engine: str) -> None:
    """Raises UsageError if Beam's workers would look for a stage's files in another folder.

    Args:
      stage: that runs by this process, or by another one of this machine.
      recipe: of the run.
      engine: of augment and curate.
    """
    group = group_of(stage)
    if group not in BEAM_STAGES or (engine == "pod" and group != "segment"):
        return
    if not configuration.build(BeamConfig).is_local:
        _check_absolute(stage, recipe)


def _check_absolute(stage: str, recipe: Recipe) -> None:
    for name, path in _paths(stage, recipe):
        if not rundir.is_remote(path) and not os.path.isabs(path):
            raise UsageError(
                f"{name} is {path}, and Beam's workers run in other folders than this command: "
                f"give the whole path, {os.path.abspath(path)}, of a disk that they see, or one in "
                "a bucket, gs://BUCKET/..."
            )


def _paths(stage: str, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yields (name, path) of the run directory and of all that a stage reads besides."""
    yield "RUN_DIR", recipe.run_dir
    for name, text in _inputs(stage, recipe):
        for path in text.split(","):
            path = path.strip().removeprefix("@")  # as of a manifest
            if path and not path.startswith(("{run_dir}", "{package}")):
                yield name, path


def _inputs(stage: str, recipe: Recipe) -> Iterator[tuple[str, str]]:
    whole = stage == "run"
    if whole or stage == "segment":
        filters = configuration.build(SegmentFilters)
        yield "CORPUS", recipe.corpus
        yield "SegmentFilters.evaluation", ",".join(filters.evaluation)
        yield "SegmentFilters.blocklist", ",".join(filters.blocklist)
    if whole or stage == "seed":
        yield "SEED", recipe.seed
    if whole or stage == "base":
        yield "BASE", recipe.base
    if stage == "pretrain" or (whole and recipe.pretrain):
        pretraining = configuration.build(Pretraining)
        yield "Pretraining.text", pretraining.text
        yield "Pretraining.tokenizer", pretraining.tokenizer
    for model in recipe.models if whole else (stage,):
        config = configuration.build(TrainConfig, model) if model in recipe.models else None
        yield "Recipe.validation", recipe.validation if config and config.eval_period else ""
        yield "Recipe.replay", recipe.replay if config and config.replay_rate else ""
    if whole or stage == "evaluate":
        for name in ("questions", "labels", "prompts"):
            yield f"Recipe.{name}", getattr(recipe, name)


def _mesh_scopes(stage: str) -> tuple[str, ...]:
    """Returns the scopes of the meshes that a stage lays over its devices."""
    if stage == "run":
        return ("", *_INFERENCE)
    group = group_of(stage)
    if group == "train":
        return ("",)
    return (group,) if group in _INFERENCE else ()


def _check_mesh(topology: Any, hosts: int, scope: str) -> None:
    config = configuration.build(MeshConfig, scope)
    devices = topology.num_devices
    axes = (config.data, config.fsdp, config.sequence, config.tensor)
    needed = math.prod(size for size in axes if size > 0)
    if scope in _INFERENCE and needed <= devices // hosts:
        devices //= hosts  # each host has replicas of its own
    try:
        mesh_shape(config, devices)
    except UsageError as error:
        bound = f"{scope}/MeshConfig" if scope else "MeshConfig"
        sentence = str(error).replace("devices at hand", f"devices of {topology.describe()}")
        raise UsageError(sentence.replace("bind MeshConfig", f"bind {bound}")) from error
    if scope not in _INFERENCE and topology.slices != config.slices:
        raise UsageError(
            f"MeshConfig.slices = {config.slices} and Topology.slices = {topology.slices}: bind "
            "both to the number of slices"
        )

"""What would fail in a place is found before anything is started there that costs money."""

import math
import uuid
from typing import Any

from etils import epath

from humpback_jax.errors import UsageError, UserError
from humpback_jax.partitioning import MeshConfig, mesh_shape
from launch import configuration
from launch.jobs.command import Place
from launch.jobs.places import group_of
from launch.recipe import Recipe

_INFERENCE = ("augment", "curate", "evaluate")
# What a stage reads besides the run directory.
_INPUTS = {"segment": ("corpus",), "seed": ("seed",), "base": ("base",)}


def check(place: Place, stage: str, recipe: Recipe) -> None:
    """Raises UsageError if a stage could not work in a place; nothing is read or written.

    Args:
      place: as gin configures it.
      stage: "M1", "curate2"; "run" for all of them.
      recipe: of the run.
    """
    if getattr(place, "remote", False):
        _check_paths(stage, recipe)
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


def _check_paths(stage: str, recipe: Recipe) -> None:
    names = [name for s, names in _INPUTS.items() if stage in (s, "run") for name in names]
    for name in ("run_dir", *names):
        for path in getattr(recipe, name).split(","):
            if "://" not in path and not path.startswith(("{run_dir}", "{package}")):
                raise UsageError(
                    f"{name.upper()} is {path}, which only this machine has, and the work is "
                    "elsewhere: give a path in a bucket, gs://BUCKET/..."
                )


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

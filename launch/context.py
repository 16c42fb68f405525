"""What the stages of a run share, and how a stage that is no Beam job is run."""

import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath

from humpback_jax import distributed, partitioning, rundir
from humpback_jax.errors import UserError
from humpback_jax.prompts import Prompts
from humpback_jax.rundir import Counts, StageDir
from launch import configuration
from launch.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a stage has done: its conservation law, the digest of its outputs, and more to keep."""

    counts: Counts
    digest: str
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Context:
    """A recipe with its configuration, on this machine.

    Attributes:
      recipe: the recipe.
      engine: what runs the stages of inference: "beam", or "pod", which is without Beam.
    """

    def __init__(self, recipe: Recipe, engine: str = "beam"):
        self.recipe = recipe
        self.engine = engine

    @functools.cached_property
    def prompts(self) -> Prompts:
        return configuration.build(Prompts)

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The mesh of training."""
        return self.mesh_of("")

    def mesh_of(self, scope: str) -> jax.sharding.Mesh:
        """Returns the mesh of a stage, which may have one of its own under its scope."""
        return partitioning.make_mesh(configuration.build(partitioning.MeshConfig, scope))

    def stage(self, name: str) -> StageDir:
        return StageDir(self.recipe.run_dir, name)

    def digest(self, name: str) -> str:
        """Returns the digest of a stage that must be done; UserError says which command does it."""
        stage = self.stage(name)
        if not stage.is_done():
            raise UserError(
                f"stage {name} of {self.recipe.run_dir} is not done: run `humpback run`, or the "
                f"stage alone with `humpback {command_of(name)}`, on the same gin files first"
            )
        return stage.digest

    def digests(self, *names: str) -> dict[str, str]:
        """Returns the digests of stages that must be done, as the inputs of another."""
        return {name: self.digest(name) for name in names}

    def run(
        self,
        name: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        work: Callable[[StageDir], Outcome],
    ) -> None:
        """Runs a stage unless it is done under the same configuration and inputs.

        Of several processes the primary one begins and finishes it, all of them work.
        """
        stage = self.stage(name)

        def begin() -> bool:
            stage.begin(config, inputs)
            return stage.is_done()

        if distributed.on_primary(begin):
            return
        started = time.monotonic()
        outcome = work(stage)
        seconds = round(time.monotonic() - started, 3)
        distributed.on_primary(
            lambda: stage.finish(outcome.counts, outcome.digest, seconds, **outcome.extra)
        )


def command_of(stage: str) -> str:
    """Returns the subcommand that runs a stage: "curate --iteration=2" for "curate2"."""
    alone = {"world", "segment", "seed", "pretrain", "base", "augment", "evaluate", "report"}
    if stage in alone:
        return stage
    if stage.startswith("curate") and stage.removeprefix("curate").isdigit():
        return f"curate --iteration={stage.removeprefix('curate')}"
    return f"train --model={stage}"


def input_digest(path: str) -> str:
    """Returns the digest of an input file or folder; raises UserError when there is none."""
    place = epath.Path(path)
    if not path or not place.exists():
        raise UserError(
            f"there is no {path or 'input'}: correct the path in the gin file or on the command"
        )
    files = [place]
    if place.is_dir():
        # What a killed write leaves behind has a hidden name.
        files = sorted(p for p in place.iterdir() if p.is_file() and p.name[0] != ".")
    return rundir.fingerprint([(os.path.basename(f), _sha256(f)) for f in files])


def _sha256(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore

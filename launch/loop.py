"""All stages of a recipe, in order; each is skipped when done and resumed when it was killed."""

import importlib

from humpback_jax import distributed, rundir
from humpback_jax.errors import UsageError, UserError
from launch import claims, configuration
from launch.context import Context
from launch.ending import EndWatch
from launch.jobs import checks
from launch.jobs.launch_plan import Launcher, is_shared
from launch.recipe import BACKWARD

# Stage -> module and function. A module is imported when its stage is run: reading the seed needs
# no Beam, segmenting no model.
_STAGES = {
    "world": ("launch.corpus", "world"),
    "segment": ("launch.corpus", "segment"),
    "seed": ("launch.corpus", "seed"),
    "pretrain": ("launch.training", "pretrain"),
    "base": ("launch.training", "base"),
    BACKWARD: ("launch.training", "backward"),
    "augment": ("launch.inference", "augment"),
    "evaluate": ("launch.results", "evaluate"),
    "report": ("launch.reporting", "report"),
}


def run_stage(context: Context, name: str) -> None:
    """Runs one stage by its name: one of the fixed ones, "curate2", or a forward model's."""
    if distributed.count() > 1 and not is_shared(name, context.engine):
        raise UsageError(
            f"stage {name} runs in one process: run only the stages that train in several, and "
            "augment and curate with --engine=pod"
        )
    done = distributed.on_primary(context.stage(name).is_done)
    if name in context.recipe.models and name != BACKWARD:
        importlib.import_module("launch.training").forward(context, name)
    elif name in _STAGES:
        module, function = _STAGES[name]
        getattr(importlib.import_module(module), function)(context)
    else:
        inference = importlib.import_module("launch.inference")
        inference.curate(context, int(name.removeprefix("curate")))
    if not distributed.is_primary():
        return
    if not context.stage(name).is_done():
        if name != "segment" or not _is_dry_run():
            raise UserError(
                f"stage {name} has ended and is not done in {context.recipe.run_dir}: let all "
                "that work on it write into the same RUN_DIR, then run the same command again"
            )
        print(f"{name}: checked, not run", flush=True)
        return
    configuration_path = context.stage(name).path / "config.gin"
    if not configuration_path.exists():
        rundir.write_atomic(configuration_path, configuration.config_text())
    summary = context.stage(name).summary()
    counts = rundir.Counts(**summary["counts"])
    outcome = "done already" if done else f"done in {summary['seconds']:.0f} s"
    print(f"{name}: {counts}; {outcome}", flush=True)


def _is_dry_run() -> bool:
    """Returns whether Beam's jobs are translated and not submitted."""
    from beam_pipelines.config import BeamConfig

    return configuration.build(BeamConfig).is_dry_run


def describe_run(context: Context, anew: bool = False) -> None:
    """Writes what a run directory says of itself: the configuration and the order of stages.

    What an earlier command wrote stays, unless `anew`: a stage may still refuse this configuration.
    """
    root = context.recipe.root
    if not distributed.is_primary():
        return
    if (root / rundir.ORDER_NAME).exists() and not anew:
        return
    rundir.write_atomic(root / "config.gin", configuration.config_text())
    rundir.write_json(root / rundir.ORDER_NAME, context.recipe.stages)


def run_alone(context: Context, name: str, driver: str = "", place: str = "") -> None:
    """Runs one stage by itself, for the driver whose claim has that id if one is given.

    Args:
      context: the run.
      name: of the stage.
      driver: id of the driver's claim.
      place: where the driver has sent it, as Launcher.whereabouts says.

    Raises:
      UserError: another command works on that stage, or a driver that is not this one's.
    """
    checks.check_beam(name, context.recipe, context.engine)
    claim = claims.hold(context.recipe.root, name, driver, place)
    with claim as held, EndWatch(f"stage {name}", held):
        describe_run(context)
        run_stage(context, name)


def run(context: Context, launcher: Launcher) -> None:
    """Runs all stages of the recipe, each here or in the place that the launch plan gives it.

    Raises:
      UserError: the run directory is in use, or a stage failed.
    """
    root = context.recipe.root
    if distributed.count() > 1:
        raise UsageError("`humpback run` is one process: run the stages that train by themselves")
    launcher.check_ready()
    claim = claims.hold(root, claims.RUN, place_of=launcher.whereabouts)
    with claim as held, EndWatch("the run", held) as watch:
        assert held is not None  # as it is in the first process
        describe_run(context)
        for name in context.recipe.stages:
            held.check()
            # A stage that is done is held against its configuration here, wherever it was done.
            if launcher.runs(name) and not context.stage(name).is_done():
                launcher.run(name, held, watch)
            else:
                run_stage(context, name)
        describe_run(context, anew=True)
    print(f"report: {root / 'report' / 'index.html'}", flush=True)

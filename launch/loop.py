"""All stages of a recipe, in order; each is skipped when done and resumed when it was killed."""

import importlib

from humpback_jax import distributed, rundir
from humpback_jax.errors import UsageError
from launch import configuration
from launch.context import Context
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
    if distributed.count() > 1 and not _is_shared(context, name):
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
        print(f"{name}: checked, not run", flush=True)
        return
    configuration_path = context.stage(name).path / "config.gin"
    if not configuration_path.exists():
        rundir.write_atomic(configuration_path, configuration.config_text())
    summary = context.stage(name).summary()
    counts = rundir.Counts(**summary["counts"])
    outcome = "done already" if done else f"done in {summary['seconds']:.0f} s"
    print(f"{name}: {counts}; {outcome}", flush=True)


def _is_shared(context: Context, name: str) -> bool:
    """Returns whether a stage is one that several processes can share."""
    if context.engine == "pod" and (name == "augment" or name.startswith("curate")):
        return True
    return name in ("pretrain", "base", *context.recipe.models)


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


def run(context: Context) -> None:
    """Runs all stages of the recipe."""
    root = context.recipe.root
    if distributed.count() > 1:
        raise UsageError("`humpback run` is one process: run the stages that train by themselves")
    for name in context.recipe.stages:
        run_stage(context, name)
    describe_run(context, anew=True)
    print(f"report: {root / 'report' / 'index.html'}", flush=True)

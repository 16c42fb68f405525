"""The stages that run a model over the corpus: augment and curate."""

from beam_pipelines.augment import run_augment
from beam_pipelines.config import BeamConfig
from beam_pipelines.curate import run_curate
from humpback_jax.errors import UsageError
from humpback_jax.infer.engine import EngineConfig
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method.leaks import LeakConfig
from humpback_jax.method.long_texts import LongTextConfig
from humpback_jax.method.rating import RatingConfig
from humpback_jax.method.samples import SamplesConfig
from humpback_jax.partitioning import MeshConfig
from launch import configuration
from launch.context import Context
from launch.recipe import BACKWARD


def augment(context: Context) -> None:
    """Lets Myx write an instruction for each segment."""
    context.digests("segment", BACKWARD)
    run_augment(
        context.recipe.root,
        context.stage(BACKWARD).path,
        context.prompts,
        configuration.build(EngineConfig, "augment"),
        configuration.build(SamplingConfig, "augment"),
        configuration.build(LeakConfig),
        _beam(context),
        configuration.build(MeshConfig, "augment"),
        context.recipe.inference_dtype or None,
        samples_config=configuration.build(SamplesConfig),
        long_text_config=configuration.build(LongTextConfig, "augment"),
    )


def curate(context: Context, iteration: int) -> None:
    """Lets M(t-1) rate the candidates."""
    if not 1 <= iteration <= context.recipe.iterations:
        raise UsageError(
            f"there is no iteration {iteration}: the recipe has 1 to {context.recipe.iterations}"
        )
    rater = f"M{iteration - 1}"
    context.digests("augment", rater)
    run_curate(
        context.recipe.root,
        iteration,
        context.stage(rater).path,
        context.prompts,
        configuration.build(EngineConfig, "curate"),
        configuration.build(RatingConfig, f"curate{iteration}"),
        _beam(context),
        configuration.build(MeshConfig, "curate"),
        context.recipe.inference_dtype or None,
        long_text_config=configuration.build(LongTextConfig, "curate"),
    )


def _beam(context: Context) -> BeamConfig | None:
    """Returns where Beam runs, None for the engine that is without it."""
    return None if context.engine == "pod" else configuration.build(BeamConfig)

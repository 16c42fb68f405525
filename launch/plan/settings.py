"""What a recipe says about the programs of its run, read from gin exactly as the run reads it."""

import dataclasses

from humpback_jax.infer.engine import EngineConfig
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.models.config import LlamaConfig
from humpback_jax.partitioning import MeshConfig
from humpback_jax.train.config import TrainConfig
from humpback_jax.train.optimizer import OptimizerConfig
from launch import configuration
from launch.plan.topology import Topology
from launch.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Settings:
    """One recipe on one topology.

    Attributes:
      topology: the slice.
      llama: the model's shape.
      train: the numbers of each model that the loop trains, by name, in the loop's order.
      planned: the name of the model whose training step is compiled: the last one.
      optimizer: of that model.
      mesh: of training.
      inference_mesh: of augment.
      engine: of augment.
      sampling: of augment.
      inference_dtype: of weights, cache and computation in inference.
    """

    topology: Topology
    llama: LlamaConfig
    train: dict[str, TrainConfig]
    planned: str
    optimizer: OptimizerConfig
    mesh: MeshConfig
    inference_mesh: MeshConfig
    engine: EngineConfig
    sampling: SamplingConfig
    inference_dtype: str

    @property
    def planned_train(self) -> TrainConfig:
        return self.train[self.planned]


def read_recipe() -> Recipe:
    """Returns the recipe; where its run keeps files does not matter here and need not be given."""
    return Recipe(run_dir=".", corpus="", seed="", base="")


def read() -> Settings:
    """Returns the settings of the gin configuration that has been parsed.

    Raises:
      UsageError: something is not bound, or a value is refused.
    """
    recipe = read_recipe()
    models = recipe.models
    planned = recipe.forward_models[-1]
    llama = configuration.build_llama()
    return Settings(
        topology=configuration.build(Topology),
        llama=llama,
        train={name: configuration.build(TrainConfig, name) for name in models},
        planned=planned,
        optimizer=configuration.build(OptimizerConfig, planned),
        mesh=configuration.build(MeshConfig),
        inference_mesh=configuration.build(MeshConfig, "augment"),
        engine=configuration.build(EngineConfig, "augment"),
        sampling=configuration.build(SamplingConfig, "augment"),
        inference_dtype=recipe.inference_dtype or llama.dtype,
    )

"""Our JAX model in Beam's RunInference: one model a worker, a whole shard an element.

The engine sorts a shard's records into length buckets itself; adaptive batches of Beam's would
recompile it (sizes 1 to 976 were seen). Whatever goes wrong with one record becomes that record's
status, since Beam's own exception handling sends a whole batch to the dead letters.
"""

import abc
import dataclasses
import math
import platform
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import jax
from apache_beam.ml.inference.base import ModelHandler
from etils import epath
from jax.sharding import Mesh

from beam_pipelines.shards import Loader, Shard, ShardOutput, Worker
from humpback_jax import partitioning
from humpback_jax.checkpoints import bundle
from humpback_jax.checkpoints.bundle import LoadedModel
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UserError
from humpback_jax.infer.computation import computation
from humpback_jax.infer.engine import Engine, EngineConfig
from humpback_jax.partitioning import MeshConfig


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """Where a worker finds its model, and how it is to run.

    Attributes:
      path: a model folder of ours (Orbax) or of Hugging Face, readable by all workers.
      engine: the shapes of the engine's programs.
      mesh: the devices of each worker, all of its process unless it needs more: then those of all
        processes. None uses one device.
      dtype: of the computation, by default the model's.
    """

    path: str
    engine: EngineConfig
    mesh: MeshConfig | None = None
    dtype: str | None = None

    def fingerprint(self) -> str:
        """Returns the fingerprint of the weights without loading them."""
        return bundle.fingerprint(self.path)

    def load(self) -> tuple[LoadedModel, Engine]:
        """Loads the model and makes its engine."""
        if not epath.Path(self.path).exists():
            raise UserError(
                f"the worker on {platform.node()} finds no model folder {self.path}: put the model "
                "where every worker can read it, on gs:// or a shared disk"
            )
        mesh = self._mesh()
        model = bundle.load_model(self.path, mesh=mesh, dtype=self.dtype)
        decode = model.tokenizer.decode
        return model, Engine(model.config, model.params, self.engine, model.eos_ids, mesh, decode)

    def computation(self) -> dict[str, Any]:
        """Returns what the last bits of results depend on in this process."""
        return computation(self.engine, self._mesh())

    def _mesh(self) -> Mesh | None:
        return None if self.mesh is None else partitioning.make_mesh(self.mesh, _devices(self.mesh))


def _devices(mesh: MeshConfig) -> Sequence[Any]:
    """Returns this process's devices, or all processes' if the mesh needs more than it has."""
    local = jax.local_devices()
    axes = (mesh.data, mesh.fsdp, mesh.sequence, mesh.tensor)
    needed = math.prod(size for size in axes if size > 0)
    return local if needed <= len(local) else jax.devices()


@dataclasses.dataclass(frozen=True)
class ModelTask:
    """What a worker is to do with a model."""

    model: ModelSource

    def computation(self) -> dict[str, Any]:
        return self.model.computation()


T = TypeVar("T", bound=ModelTask)


class ModelWorker(abc.ABC, Generic[T]):
    """What the workers that run a model share: its task, engine, tokenizer and fingerprint."""

    def __init__(self, task: T):
        """Loads the task's model."""
        model, engine = task.model.load()
        self._task = task
        self._engine: Engine = engine
        self._tokenizer: Tokenizer = model.tokenizer
        self._fingerprint: str = model.fingerprint
        if task.model.engine.warm_up:
            self._warm_up()

    @abc.abstractmethod
    def _warm_up(self) -> None:
        """Compiles all that `process` can need."""

    @property
    def spans_processes(self) -> bool:
        mesh = self._engine.mesh
        return mesh is not None and mesh.is_multi_process


class ShardHandler(ModelHandler[Shard, ShardOutput, "LockedWorker"]):
    """Gives RunInference shards one by one; the model is loaded from its path in the worker."""

    def __init__(self, loader: Loader, share: bool):
        """Makes a handler.

        Args:
          loader: makes a worker.
          share: all worker processes of a machine use one model, held by one of them.
        """
        super().__init__(min_batch_size=1, max_batch_size=1, large_model=share)
        self._loader = loader

    def load_model(self) -> "LockedWorker":
        return LockedWorker(self._loader.load())

    def run_inference(
        self,
        batch: Sequence[Shard],
        model: "LockedWorker",
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[ShardOutput]:
        return [model.process(shard) for shard in batch]

    def get_num_bytes(self, batch: Sequence[Shard]) -> int:
        # The default pickles the whole shard once more, only to measure it.
        return sum(len(shard.rows) for shard in batch)

    def get_metrics_namespace(self) -> str:
        return "humpback"


class LockedWorker:
    """Works on one shard at a time: two at once would need the memory of two KV caches."""

    def __init__(self, worker: Worker):
        self._worker = worker
        self._lock = threading.Lock()

    def process(self, shard: Shard) -> ShardOutput:
        with self._lock:
            return self._worker.process(shard)

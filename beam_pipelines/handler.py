"""Our JAX model in Beam's RunInference: one model a worker, a whole shard an element.

The engine sorts a shard's records into length buckets itself; adaptive batches of Beam's would
recompile it (sizes 1 to 976 were seen). Whatever goes wrong with one record becomes that record's
status, since Beam's own exception handling sends a whole batch to the dead letters.
"""

import dataclasses
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from apache_beam.ml.inference.base import ModelHandler

from humpback_jax import partitioning
from humpback_jax.checkpoints import bundle
from humpback_jax.checkpoints.bundle import LoadedModel
from humpback_jax.infer.engine import Engine, EngineConfig
from humpback_jax.partitioning import MeshConfig
from humpback_jax.records import Reject
from humpback_jax.rundir import Counts


@dataclasses.dataclass(frozen=True)
class Shard:
    """A shard to be worked on: its index and its records."""

    index: int
    rows: Sequence[Any]


@dataclasses.dataclass(frozen=True)
class ShardOutput:
    """What became of a shard: its new records, those not passed on, and the counts."""

    index: int
    rows: Sequence[Any]
    rejects: Sequence[Reject]
    counts: Counts


class Worker(Protocol):
    """A model in memory that works on shards; arguments and results are picklable."""

    def process(self, shard: Shard) -> ShardOutput: ...


class Task(Protocol):
    """What a worker is to do: small and picklable, the model is loaded by `load` alone."""

    def load(self) -> Worker: ...


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """Where a worker finds its model, and how it is to run.

    Attributes:
      path: a model folder, readable by all workers.
      engine: the shapes of the engine's programs.
      mesh: the devices of each worker; None uses one device.
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
        mesh = None if self.mesh is None else partitioning.make_mesh(self.mesh)
        model = bundle.load_model(self.path, mesh=mesh, dtype=self.dtype)
        return model, Engine(model.config, model.params, self.engine, model.eos_ids, mesh)


class ShardHandler(ModelHandler[Shard, ShardOutput, Worker]):
    """Gives RunInference shards one by one; the model is loaded from its path in the worker."""

    def __init__(self, task: Task, share: bool):
        """Makes a handler.

        Args:
          task: what the workers do.
          share: all worker processes of a machine use one model, held by one of them.
        """
        super().__init__(min_batch_size=1, max_batch_size=1, large_model=share)
        self._task = task

    def load_model(self) -> Worker:
        return LockedWorker(self._task.load())

    def run_inference(
        self, batch: Sequence[Shard], model: Worker, inference_args: dict[str, Any] | None = None
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

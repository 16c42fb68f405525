"""Dataflow: a Beam stage whose job is submitted from here, and waited for.

Segmenting runs on CPUs, augmenting and curating on TPUs of one host; Dataflow mixes the two in no
job. CPU workers install this package by setup.py, TPU workers run an image that has it.
"""

import dataclasses
import os
import shlex
from collections.abc import Sequence
from typing import ClassVar

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError
from launch.jobs import environment, gin_files
from launch.jobs.command import Command, Place, check_given, humpback_here
from launch.jobs.images import image_commands
from launch.jobs.job_name import job_name
from launch.plan import topology
from launch.plan.topology import Topology

# (kind, shape) -> accelerator and machine of a worker; a worker is one host.
_WORKERS = {
    ("v5e", "1x1"): ("tpu-v5-lite-podslice", "ct5lp-hightpu-1t"),
    ("v5e", "2x2"): ("tpu-v5-lite-podslice", "ct5lp-hightpu-4t"),
    ("v5e", "2x4"): ("tpu-v5-lite-podslice", "ct5lp-hightpu-8t"),
    ("v6e", "1x1"): ("tpu-v6e-slice", "ct6e-standard-1t"),
}
_ON_TPU = ("augment", "curate")
_ON_CPU = ("segment",)
_SETUP_FILE = "./setup.py"


@configurable
@dataclasses.dataclass(frozen=True)
class Dataflow(Place):
    """A Dataflow job. TPU workers have the kind and shape that Topology says.

    Attributes:
      name: the jobs' names begin with it, and go on with the subcommand: "hb-curate-1".
      project: of Google Cloud.
      region: such as "us-central1".
      temp_location: a folder of a bucket, gs://bucket/tmp.
      zone: of the workers, where Dataflow shall not choose it; TPU workers need one.
      image: of the workers; "" installs this package by setup.py, on CPUs alone.
      machine_type: of CPU workers; "" leaves it to Dataflow.
      num_workers: to begin with.
      max_workers: the most that Dataflow may start.
      options: further flags of Beam, such as "--subnetwork=...".
      topology: of the TPU workers.
    """

    remote: ClassVar[bool] = True
    runs_beam_alone: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("run", "image")
    of_machines: ClassVar[tuple[str, ...]] = ("image",)

    name: str
    project: str
    region: str
    temp_location: str
    zone: str = ""
    image: str = ""
    machine_type: str = ""
    num_workers: int = 1
    max_workers: int = 10
    options: Sequence[str] = ()
    topology: Topology | None = dataclasses.field(default_factory=topology.bound_or_none)

    def __post_init__(self):
        check_given(self, "name", "project", "region")
        if not self.temp_location.startswith("gs://"):
            raise UsageError(
                f"Dataflow.temp_location is {self.temp_location!r}: give a folder of a bucket, "
                "gs://bucket/tmp"
            )
        if not 1 <= self.num_workers <= self.max_workers:
            raise UsageError(
                f"Dataflow has {self.num_workers} workers of at most {self.max_workers}: give at "
                "least 1, and no more than the most"
            )

    def commands(self, humpback: Sequence[str]) -> list[Command]:
        """Returns the subcommand, run here with Dataflow for its runner.

        Raises:
          UsageError: it is no Beam stage, or no machine of Dataflow is like the topology.
        """
        flags, rest = gin_files.split(humpback)
        command = rest[0]
        if command not in (*_ON_CPU, *_ON_TPU):
            raise UsageError(
                f"`humpback {command}` is no Beam job: Dataflow runs "
                f"{', '.join((*_ON_CPU, *_ON_TPU))}"
            )
        worker = self._cpu() if command in _ON_CPU else self._tpu()
        options = (*self._job(humpback), *worker, *self.options)
        given = (
            *flags.arguments(),
            "--gin.BeamConfig.runner='DataflowRunner'",
            f"--gin.BeamConfig.options={options!r}",
        )
        purpose = f"submit humpback {command} to Dataflow and wait for its end"
        return [Command(humpback_here((command, *given, *rest[1:])), purpose, costs=True)]

    def action(self, name: str, humpback: Sequence[str]) -> list[Command]:
        """Returns the commands of an action."""
        if name == "run":
            return self.commands(humpback)
        if not self.image:
            raise UsageError("no image is named: bind Dataflow.image to a name in your registry")
        given = {}
        if self.topology is not None:
            given = {"LIBTPU_INIT_ARGS": environment.variables(self.topology)["LIBTPU_INIT_ARGS"]}
        return image_commands(self.image, "dataflow", given)

    def remains(self, humpback: Sequence[str]) -> str:
        """Returns what goes on without this process, and the commands that end it."""
        name = self._job_name(humpback)
        jobs = ("gcloud", "dataflow", "jobs")
        where = (f"--project={self.project}", f"--region={self.region}")
        listing = shlex.join((*jobs, "list", *where, "--status=active", f"--filter=name={name}"))
        cancelling = shlex.join((*jobs, "cancel", "JOB_ID", *where))
        return (
            f"job {name} may go on and is paid for until it ends: `{listing}` shows its id, "
            f"`{cancelling}` ends it"
        )

    def _job_name(self, humpback: Sequence[str]) -> str:
        return f"{self.name}-{job_name(humpback)}"

    def _job(self, humpback: Sequence[str]) -> tuple[str, ...]:
        return (
            f"--project={self.project}",
            f"--region={self.region}",
            f"--temp_location={self.temp_location}",
            f"--staging_location={self.temp_location.rstrip('/')}/staging",
            f"--job_name={self._job_name(humpback)}",
            f"--num_workers={self.num_workers}",
            f"--max_num_workers={self.max_workers}",
            *([f"--worker_zone={self.zone}"] if self.zone else []),
        )

    def _cpu(self) -> tuple[str, ...]:
        machine = (f"--worker_machine_type={self.machine_type}",) if self.machine_type else ()
        if self.image:
            return (*machine, *self._container())
        if not os.path.exists(_SETUP_FILE):
            raise UsageError(
                "Dataflow's workers install this package by setup.py, and there is none in this "
                "folder: launch from the root of the repository, or bind Dataflow.image"
            )
        return (*machine, f"--setup_file={_SETUP_FILE}")

    def _tpu(self) -> tuple[str, ...]:
        if self.topology is None:
            raise UsageError(
                "Dataflow's TPU workers have no kind: bind Topology.kind and Topology.shape"
            )
        worker = _WORKERS.get((self.topology.kind, self.topology.shape))
        if worker is None or self.topology.slices > 1:
            listed = ", ".join(f"{kind} {shape}" for kind, shape in _WORKERS)
            raise UsageError(
                f"Dataflow has no worker of {self.topology.describe()}, one host alone: bind "
                f"Topology to one of {listed}, as augment/Topology.shape = '2x4'"
            )
        if not self.image or not self.zone:
            raise UsageError(
                "Dataflow's TPU workers want an image with jax for TPUs and a zone that has them: "
                "bind Dataflow.image (`humpback launch dataflow image` builds it) and Dataflow.zone"
            )
        accelerator, machine = worker
        wanted = f"worker_accelerator=type:{accelerator};topology:{self.topology.shape}"
        return (
            f"--dataflow_service_options={wanted}",
            f"--worker_machine_type={machine}",
            *self._container(),
            # One process has the TPU, and one thread feeds it.
            "--experiments=no_use_multiple_sdk_containers",
            "--number_of_worker_harness_threads=1",
        )

    def _container(self) -> tuple[str, ...]:
        return (f"--sdk_container_image={self.image}", "--sdk_location=container")

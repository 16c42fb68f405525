"""A Flink cluster of one's own: a Beam stage whose job is submitted from here, and waited for."""

import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import ClassVar

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError
from launch.jobs.command import BEAM_STAGES, Command, Place, humpback_here

# Of Beam 2.77, which has a job server for each; the cluster's must be the same.
BEAM_VERSION = "2.77.0"
VERSIONS = ("1.19", "1.20", "2.0", "2.1", "2.2")
_ADDRESS = re.compile(r"[^\s/:]+:[0-9]+")


def default_jar(version: str) -> str:
    """Returns where Maven puts Beam's job server for a version of Flink."""
    name = f"beam-runners-flink-{version}-job-server"
    folder = f"~/.m2/repository/org/apache/beam/{name}/{BEAM_VERSION}"
    return str(pathlib.Path(folder).expanduser() / f"{name}-{BEAM_VERSION}.jar")


@configurable
@dataclasses.dataclass(frozen=True)
class Flink(Place):
    """A Flink cluster whose machines see the run directory and run the worker pool.

    Attributes:
      master: the JobManager's REST address, "HOST:8081".
      version: of the cluster, "2.2" for 2.2.1.
      job_server_jar: Beam's job server for that version; "" is where Maven puts it.
      parallelism: slots that a job takes; a slot works on one shard at a time.
      worker_pool: address of beam_pipelines.worker_pool as each TaskManager sees it, so loopback
        where every machine has a pool of its own.
      artifacts_dir: where the job server keeps what a job brings along; "" is a temporary folder,
        which serves, since the pool's workers have this package installed.
      options: further flags of Beam, which win over those that follow from the above.
    """

    runs_beam_alone: ClassVar[bool] = True
    shared: ClassVar[bool] = True  # its machines see what it reads and writes, by its whole path
    programs: ClassVar[tuple[str, ...]] = ("java",)

    master: str
    version: str = VERSIONS[-1]
    job_server_jar: str = ""
    parallelism: int = 1
    worker_pool: str = "127.0.0.1:50001"
    artifacts_dir: str = ""
    options: Sequence[str] = ()

    def __post_init__(self):
        if self.version not in VERSIONS:
            raise UsageError(
                f"Flink.version is {self.version!r}, which Beam {BEAM_VERSION} cannot run on: use "
                f"a cluster of one of {', '.join(VERSIONS)}"
            )
        for name in ("master", "worker_pool"):
            if not _ADDRESS.fullmatch(getattr(self, name)):
                raise UsageError(
                    f"Flink.{name} is {getattr(self, name)!r}: write it as HOST:PORT, without http"
                )
        if self.parallelism < 1:
            raise UsageError(f"Flink.parallelism is {self.parallelism}: give 1 or more")

    @property
    def jar(self) -> str:
        return os.path.expanduser(self.job_server_jar) or default_jar(self.version)

    def beam_options(self) -> tuple[str, ...]:
        """Returns Beam's flags for a job on the cluster."""
        return (
            f"--flink_master={self.master}",
            f"--flink_version={self.version}",
            f"--flink_job_server_jar={self.jar}",
            *([f"--artifacts_dir={self.artifacts_dir}"] if self.artifacts_dir else []),
            f"--parallelism={self.parallelism}",
            "--environment_type=EXTERNAL",
            f"--environment_config={self.worker_pool}",
            *self.options,
        )

    def commands(self, humpback: Sequence[str]) -> list[Command]:
        """Returns what looks at the cluster, then the subcommand, run here with Flink for runner.

        Raises:
          UsageError: the subcommand is no Beam stage.
        """
        if humpback[0] not in BEAM_STAGES:
            raise UsageError(
                f"`humpback {humpback[0]}` is no Beam job: Flink runs {', '.join(BEAM_STAGES)}"
            )
        look = (sys.executable, "-m", "launch.jobs.flink_check", f"--master={self.master}")
        look += (f"--version={self.version}", f"--jar={self.jar}", f"--slots={self.parallelism}")
        given = (
            "--gin.BeamConfig.runner='FlinkRunner'",
            f"--gin.BeamConfig.options={self.beam_options()!r}",
        )
        job = humpback_here((*humpback, *given))
        return [
            Command(look, "see that the cluster, Java and Beam's job server are there"),
            Command(job, f"submit humpback {humpback[0]} to Flink and wait for its end"),
        ]

    def remains(self, humpback: Sequence[str]) -> str:
        """Returns what goes on without this process, and where it is ended."""
        return (
            f"a job of humpback {humpback[0]} may go on and keep its slots: cancel it at "
            f"http://{self.master} unless it is to finish"
        )

"""GKE: a JobSet of one slice or several, which xpk makes.

xpk (1.16) has the JobSet restarted where a pod ends with 42 (preempted, all saved) or is killed
(127 to 255), and failed by any other code. Its shell sends SIGTERM to the process it has started,
so the command that it gets ends in an `exec`: the signal reaches humpback and no shell before it.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import ClassVar

from humpback_jax.configurable import configurable
from humpback_jax.errors import PreemptedError, UsageError
from launch.jobs import environment, gin_files, shell
from launch.jobs.command import Command, Place, check_given
from launch.jobs.hosts import on_hosts
from launch.jobs.images import image_commands
from launch.jobs.job_name import job_name
from launch.plan import topology
from launch.plan.topology import Topology

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_NAME_LENGTH = 40  # of a workload, to xpk
_CHIPS_PER_POD = 4


@configurable
@dataclasses.dataclass(frozen=True)
class Xpk(Place):
    """A workload of a GKE cluster that xpk has made; its kind and size Topology says.

    Attributes:
      name: the workloads' names begin with it, and go on with the subcommand: "hb-train-m1".
      cluster: of GKE.
      project: of Google Cloud.
      zone: such as "us-west4-a".
      image: with this package, as `launch xpk image` builds it.
      max_restarts: of a JobSet, after preemptions.
      grace_seconds: between SIGTERM and the end of a pod; a save must fit.
      spot: the cluster provides spot machines for it, where it provides by itself.
      reservation: whose machines it provides then.
      priority: of the workload in the cluster's queue.
      options: further flags of `xpk workload create`.
      topology: the slice.
    """

    remote: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("run", "image", "create", "status", "logs", "delete")
    of_machines: ClassVar[tuple[str, ...]] = ("image",)
    programs: ClassVar[tuple[str, ...]] = ("xpk",)

    name: str
    cluster: str
    project: str
    zone: str
    image: str
    max_restarts: int = 100
    grace_seconds: int = 600
    spot: bool = False
    reservation: str = ""
    priority: str = "medium"
    options: Sequence[str] = ()
    topology: Topology = dataclasses.field(default_factory=topology.bound)

    def __post_init__(self):
        check_given(self, "cluster", "project", "zone", "image")
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"Xpk.name is {self.name!r}: give small letters, digits and hyphens, a letter first"
            )
        if self.spot and self.reservation:
            raise UsageError("Xpk.spot and Xpk.reservation exclude each other: bind one of them")
        if self.max_restarts < 0 or self.grace_seconds < 30:
            raise UsageError(
                f"Xpk has {self.max_restarts} restarts and {self.grace_seconds} s of grace: give "
                "no negative number and at least the 30 s that Kubernetes gives by itself"
            )

    @property
    def processes(self) -> int:
        """One in each pod of all slices together; xpk gives each of them four chips."""
        chips = math.prod(self.topology.dimensions)
        return max(1, chips // _CHIPS_PER_POD) * self.topology.slices

    def commands(self, humpback: Sequence[str]) -> list[Command]:
        """Returns what creates the workload and what waits for its end."""
        return [self._create(humpback), self._wait(humpback)]

    def action(self, name: str, humpback: Sequence[str]) -> list[Command]:
        """Returns the commands of an action."""
        if name == "run":
            return self.commands(humpback)
        if name == "image":
            return image_commands(self.image, "gke")
        if name == "create":
            return [self._create(humpback)]
        one = {"status": self._status, "logs": self._logs, "delete": self._delete}
        return [one[name](humpback)]

    def whereabouts(self, humpback: Sequence[str]) -> str:
        """Returns the name of the workload, which Kubernetes starts again by itself."""
        return f"xpk {self.project}/{self.zone}/{self.cluster}/{self.workload(humpback)}"

    def rejoin(self, humpback: Sequence[str]) -> list[Command]:
        """Returns what waits for the end of the workload."""
        return [self._wait(humpback)]

    def remains(self, humpback: Sequence[str]) -> str:
        """Returns what goes on without this process, and the command that ends it."""
        return (
            f"workload {self.workload(humpback)} may go on and is paid for until it ends: "
            f"`{self._delete(humpback).quoted()}` ends it"
        )

    def workload(self, humpback: Sequence[str]) -> str:
        """Returns the name of a subcommand's workload.

        Raises:
          UsageError: it is too long for xpk.
        """
        whole = f"{self.name}-{job_name(humpback)}"
        if len(whole) > _NAME_LENGTH:
            raise UsageError(
                f"the workload would be named {whole}, and xpk takes {_NAME_LENGTH} characters: "
                "bind a shorter Xpk.name"
            )
        return whole

    def shell_line(self, humpback: Sequence[str]) -> str:
        """Returns the line of bash that the containers run."""
        carried = gin_files.carry(on_hosts(humpback, self.processes, self.topology.describe()))
        written = [
            f"{shell.line(('mkdir', '-p', folder))} && {shell.line(('printf', '%s', text))} "
            f"> {shell.word(name)}"
            for name, text in carried.files.items()
            for folder in [name.rpartition("/")[0] or "."]
        ]
        variables = [f"{k}={v}" for k, v in environment.variables(self.topology).items()]
        process = shell.line(("exec", "env", *variables, "humpback", *carried.humpback))
        return " && ".join([*written, process])

    def _create(self, humpback: Sequence[str]) -> Command:
        slices = self.topology.slices
        flags = (
            f"--tpu-type={self.topology.accelerator_type}",
            f"--num-slices={slices}",
            f"--docker-image={self.image}",
            f"--restart-on-exit-codes={PreemptedError.exit_code}",
            f"--max-restarts={self.max_restarts}",
            f"--termination-grace-period-seconds={self.grace_seconds}",
            f"--priority={self.priority}",
            *(["--spot"] if self.spot else []),
            *([f"--reservation={self.reservation}"] if self.reservation else []),
            *self.options,
            f"--command={self.shell_line(humpback)}",
        )
        # With --quiet a finished workload of the same name makes room.
        argv = (*self._xpk("create"), f"--workload={self.workload(humpback)}", "--quiet", *flags)
        purpose = f"start humpback {humpback[0]} on {self.topology.describe()} of {self.cluster}"
        return Command(argv, purpose, costs=True)

    def _wait(self, humpback: Sequence[str]) -> Command:
        waited = f"--wait-for-job-completion={self.workload(humpback)}"
        return Command((*self._xpk("list"), waited), "wait for its end: 0 done, 125 failed")

    def _status(self, humpback: Sequence[str]) -> Command:
        wanted = f"--filter-by-job={self.workload(humpback)}"
        return Command((*self._xpk("list"), wanted), "how it stands with the workload")

    def _logs(self, humpback: Sequence[str]) -> Command:
        selected = f"--selector=jobset.sigs.k8s.io/jobset-name={self.workload(humpback)}"
        first = ",jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
        argv = ("kubectl", "logs", "--follow", selected + first)
        return Command(argv, "the log of the first pod")

    def _delete(self, humpback: Sequence[str]) -> Command:
        argv = (*self._xpk("delete"), f"--workload={self.workload(humpback)}", "--quiet")
        return Command(argv, "end the workload and delete it")

    def _xpk(self, verb: str) -> tuple[str, ...]:
        where = (f"--cluster={self.cluster}", f"--project={self.project}", f"--zone={self.zone}")
        return ("xpk", "workload", verb, *where)

"""Cloud TPU VMs: a queued resource of one slice or several, and a process on each of its workers.

Workers are reached by `gcloud compute tpus queued-resources ssh`, which runs one command on all of
them. A process outlives the connection that started it: scripts/start.sh leaves a shell behind that
ignores the hangup, waits for the process and writes its exit code into a file, and the log into
another, so that whoever connects later sees both (scripts/poll.sh, `logs`). Nothing has to be
installed for it, and no service manager to be asked for rights.

The scripts are constant; what differs stands in their arguments, which are quoted as words.
"""

import dataclasses
import hashlib
import pathlib
import re
import shlex
from collections.abc import Sequence
from importlib import resources
from typing import ClassVar

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError, UserError
from launch.jobs import environment, gin_files
from launch.jobs.command import Command, Place, check_given, humpback_here
from launch.jobs.hosts import on_hosts
from launch.jobs.job_name import job_name
from launch.plan import topology
from launch.plan.topology import Topology

# The software of the virtual machine that Google Cloud names for each kind.
RUNTIME_VERSIONS = {
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
    "tpu7x": "v2-alpha-tpu7-ubuntu2404",
}
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?")


@configurable
@dataclasses.dataclass(frozen=True)
class TpuVm(Place):
    """A queued resource of Cloud TPU, whose kind and size Topology says.

    Attributes:
      name: of the queued resource and its nodes.
      project: of Google Cloud.
      zone: such as "us-west4-a".
      package: what workers install: "git+https://...@TAG", a wheel "gs://.../x.whl", or a wheel of
        this machine, which is copied to them.
      python: the version that workers run.
      runtime_version: of the virtual machines; "" takes the one for the kind of TPU.
      spot: cheaper machines that may be taken away at any time.
      reserved: machines of the project's reservation.
      valid_until_duration: after which a request that waits is given up, such as "6h"; "" never.
      restarts: how often `run` starts again after a preemption.
      keep: leave the machines when `run` ends; they are paid for until they are deleted.
      poll_seconds: between two looks at the workers.
      create_options: further flags of `queued-resources create`, such as "--network=...".
      ssh_options: further flags of every ssh and scp, such as "--tunnel-through-iap".
      topology: the slice.
    """

    remote: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = (
        *("run", "create", "setup", "start", "status", "logs", "stop", "delete"),
    )
    of_machines: ClassVar[tuple[str, ...]] = ("create", "setup", "status", "delete")
    programs: ClassVar[tuple[str, ...]] = ("gcloud",)

    name: str
    project: str
    zone: str
    package: str
    python: str = "3.12"
    runtime_version: str = ""
    spot: bool = False
    reserved: bool = False
    valid_until_duration: str = ""
    restarts: int = 20
    keep: bool = False
    poll_seconds: float = 30.0
    create_options: Sequence[str] = ()
    ssh_options: Sequence[str] = ()
    topology: Topology = dataclasses.field(default_factory=topology.bound)

    def __post_init__(self):
        check_given(self, "project", "zone")
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"TpuVm.name is {self.name!r}: give small letters, digits and hyphens, a letter "
                "first, at most 42"
            )
        if self.spot and self.reserved:
            raise UsageError("TpuVm.spot and TpuVm.reserved exclude each other: bind one of them")
        if not self.package.startswith(("git+", "gs://")) and not self.package.endswith(".whl"):
            raise UsageError(
                f"TpuVm.package is {self.package!r}: give git+https://...@TAG, gs://.../x.whl, or "
                "the path of a wheel here (python -m build --wheel)"
            )
        if self.restarts < 0 or self.poll_seconds <= 0:
            raise UsageError(
                f"TpuVm has {self.restarts} restarts and looks every {self.poll_seconds} s: give "
                "no negative number, and some seconds"
            )

    @property
    def processes(self) -> int:
        """One on each worker of all slices together."""
        return self.topology.hosts * self.topology.slices

    def commands(self, humpback: Sequence[str]) -> list[Command]:
        """Returns one command, the supervisor of all others: it creates, starts, restarts, deletes.

        It ends when the subcommand has ended on all workers.
        """
        flags, rest = gin_files.split(humpback)
        launch = ("launch", "tpu-vm", "run", "--no-dry-run", *flags.arguments(), "--", *rest)
        purpose = f"humpback {rest[0]} on {self.topology.describe()}, supervised from here"
        return [Command(humpback_here(launch), purpose, costs=True)]

    def perform(self, name: str, humpback: Sequence[str]) -> int | None:
        """Carries out an action and returns its exit code; None if it is its commands alone."""
        from launch.jobs import tpu_vm_supervisor

        if name == "run":
            return tpu_vm_supervisor.run(self, humpback)
        if name == "create":
            return tpu_vm_supervisor.ask(self)
        return None

    def whereabouts(self, humpback: Sequence[str]) -> str:
        """Returns the name of the machines; there, the supervisor finds what runs already."""
        del humpback
        return f"tpu-vm {self.project}/{self.zone}/{self.name}"

    def remains(self, humpback: Sequence[str] = ()) -> str:
        """Returns what goes on without this process, and the command that ends it."""
        del humpback
        return (
            f"{self.name} may go on and is paid for until it is deleted: "
            f"`{self.delete().quoted()}` deletes it"
        )

    def action(self, name: str, humpback: Sequence[str]) -> list[Command]:
        """Returns the commands of an action, those of "run" in the order in which it runs them."""
        steps = {
            "create": lambda: [self.create()],
            "setup": self.setup,
            "start": lambda: [self.start(humpback)],
            "status": lambda: [self.describe(), *([self.poll(humpback)] if humpback else [])],
            "logs": lambda: [self.logs(humpback)],
            "stop": lambda: [self.stop(humpback)],
            "delete": lambda: [self.delete()],
        }
        if name != "run":
            return steps[name]()
        order = ("create", "setup", "start", "status", "delete")
        return [command for step in order for command in steps[step]()]

    def create(self) -> Command:
        slices = self.topology.slices
        nodes = (f"--node-id={self.name}",)
        if slices > 1:
            nodes = (f"--node-count={slices}", f"--node-prefix={self.name}")
        chosen = (
            *(["--spot"] if self.spot else []),
            *(["--reserved"] if self.reserved else []),
            *([f"--valid-until-duration={u}"] if (u := self.valid_until_duration) else []),
        )
        runtime = self.runtime_version or RUNTIME_VERSIONS[self.topology.kind]
        shape = (
            f"--accelerator-type={self.topology.accelerator_type}",
            f"--runtime-version={runtime}",
        )
        argv = self._gcloud("create", *shape, *nodes, *chosen, *self.create_options)
        return Command(argv, f"ask for {self.topology.describe()}", costs=True)

    def describe(self) -> Command:
        return Command(
            self._gcloud("describe", "--format=json(state)"), "how it stands with the machines"
        )

    def setup(self) -> list[Command]:
        """Returns what installs the package on every worker."""
        package, identity, copying = self.package, "", []
        if not package.startswith(("git+", "gs://")):
            wheel = pathlib.Path(package)
            identity, package = _digest(wheel), wheel.name
            argv = self._reach("scp", str(wheel), f"{self.name}:{package}")
            copying = [Command(argv, "copy the wheel to every worker")]
        purpose = "install humpback on every worker"
        return [*copying, self._script("setup", purpose, self.python, package, identity)]

    def start(self, humpback: Sequence[str], attempt: str = "") -> Command:
        """Returns what starts a subcommand on every worker and comes back at once.

        Args:
          humpback: its arguments.
          attempt: a start is done once under one name; "" is a name as well.
        """
        carried = gin_files.carry(on_hosts(humpback, self.processes, self.topology.describe()))
        files = [text for pair in carried.files.items() for text in pair]
        variables = [f"{k}={v}" for k, v in environment.variables(self.topology).items()]
        argv = ("env", *variables, "humpback", *carried.humpback)
        arguments = (job_name(humpback), attempt, str(len(carried.files)), *files, *argv)
        return self._script("start", f"start humpback {humpback[0]} on every worker", *arguments)

    def poll(self, humpback: Sequence[str]) -> Command:
        return self._script("poll", "how it stands with every worker", job_name(humpback))

    def stop(self, humpback: Sequence[str]) -> Command:
        return self._script("stop", "tell every worker to save and end", job_name(humpback))

    def logs(self, humpback: Sequence[str], lines: int = 0) -> Command:
        """Returns what follows the log of the first worker, or shows its last lines and ends."""
        how = ("-n", str(lines)) if lines else ("-n", "+1", "-F")
        command = shlex.join(("tail", *how, f"humpback/jobs/{job_name(humpback)}/log"))
        argv = self._reach("ssh", self.name, f"--command={command}", "--worker=0", "--node=0")
        return Command(argv, "the log of the first worker")

    def delete(self) -> Command:
        argv = self._gcloud("delete", "--force", "--quiet")
        return Command(argv, "delete the machines, which are paid for until then")

    def _gcloud(self, verb: str, *flags: str) -> tuple[str, ...]:
        group = ("gcloud", "compute", "tpus", "queued-resources", verb, self.name)
        return (*group, f"--project={self.project}", f"--zone={self.zone}", *flags)

    def _reach(self, verb: str, *arguments: str) -> tuple[str, ...]:
        group = ("gcloud", "compute", "tpus", "queued-resources", verb)
        everyone = () if "--worker=0" in arguments else ("--worker=all", "--node=all")
        where = (f"--project={self.project}", f"--zone={self.zone}", "--quiet")
        return (*group, *arguments, *where, *everyone, *self.ssh_options)

    def _script(self, name: str, purpose: str, *arguments: str) -> Command:
        """Returns what runs a script of scripts/ on every worker."""
        text = (resources.files("launch.jobs") / "scripts" / f"{name}.sh").read_text()
        command = shlex.join(("bash", "-c", text, f"{name}.sh", *arguments))
        return Command(self._reach("ssh", self.name, f"--command={command}"), purpose)


def _digest(wheel: pathlib.Path) -> str:
    if not wheel.is_file():
        raise UserError(
            f"there is no wheel {wheel}: make one (python -m build --wheel) or correct "
            "TpuVm.package"
        )
    return hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]

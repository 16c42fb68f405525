"""This machine: one process, or several that join over jax.distributed on its own loopback."""

import dataclasses
import os
import sys
from collections.abc import Sequence

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError
from launch.jobs.command import Command, Place, humpback_here

_DEVICES_FLAG = "--xla_force_host_platform_device_count"


@configurable
@dataclasses.dataclass(frozen=True)
class Local(Place):
    """A subcommand of humpback in processes of their own, here.

    Attributes:
      processes: how many; more than one share the work as the hosts of a pod do.
      devices: of the CPU that each process shows JAX; 0 leaves JAX the devices that it finds.
    """

    processes: int = 1
    devices: int = 0

    def __post_init__(self):
        if self.processes < 1 or self.devices < 0:
            raise UsageError(
                f"Local has {self.processes} processes of {self.devices} devices: give at least 1 "
                "process, and 0 devices to leave JAX those of the machine"
            )

    def commands(self, humpback: Sequence[str]) -> list[Command]:
        """Returns one command; of several processes it starts all and ends when they have ended."""
        argv = humpback_here(humpback)
        if self.processes > 1:
            group = (sys.executable, "-m", "launch.jobs.processes", f"--processes={self.processes}")
            argv = (*group, "--", *argv)
        some = f"{self.processes} processes" if self.processes > 1 else "a process"
        purpose = f"humpback {humpback[0]} in {some} of this machine"
        return [Command(argv, purpose, self._environment())]

    def _environment(self) -> dict[str, str]:
        if not self.devices:
            return {}
        flags = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES_FLAG}={self.devices}".strip()
        return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}

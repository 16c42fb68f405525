"""Where Beam's pipelines run, as it is configured; Beam itself is not needed to say it."""

import dataclasses
from collections.abc import Sequence

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError

_MODES = ("in_memory", "multi_threading", "multi_processing")


@configurable
@dataclasses.dataclass(frozen=True)
class BeamConfig:
    """Where pipelines run.

    Attributes:
      runner: FnApiRunner on this machine, else DataflowRunner, FlinkRunner, PortableRunner. The
        DirectRunner is refused: it picks an engine by what it can download.
      direct_running_mode: of the FnApiRunner: in_memory (one process, for small corpora and
        tests), multi_threading, or multi_processing (one process for each worker).
      num_workers: of the FnApiRunner, with multi_threading and multi_processing.
      options: further flags of the runner, such as "--project=..." or "--flink_master=...".
    """

    runner: str = "FnApiRunner"
    direct_running_mode: str = "in_memory"
    num_workers: int = 1
    options: Sequence[str] = ()

    def __post_init__(self):
        object.__setattr__(self, "options", tuple(self.options))
        if self.runner == "DirectRunner":
            raise UsageError(
                "BeamConfig.runner is 'DirectRunner', whose engine depends on the network: use "
                "'FnApiRunner' on this machine"
            )
        if self.direct_running_mode not in _MODES:
            raise UsageError(
                f"BeamConfig.direct_running_mode is {self.direct_running_mode!r}: choose one of "
                f"{', '.join(_MODES)}"
            )
        if self.num_workers < 1:
            raise UsageError(f"BeamConfig.num_workers is {self.num_workers}: give 1 or more")
        for flag in self.options:
            if not flag.startswith("--"):
                raise UsageError(f"BeamConfig.options holds {flag!r}: write flags as --name=value")

    @property
    def is_local(self) -> bool:
        return self.runner == "FnApiRunner"

    @property
    def shares_model(self) -> bool:
        """Whether the worker processes of a machine use one model, held by one of them.

        On Flink each has its own: a TaskManager ends its worker as soon as its part of the job is
        done, and the model that others still work with would end with it.
        """
        in_one_process = self.is_local and self.direct_running_mode != "multi_processing"
        return not in_one_process and self.runner != "FlinkRunner"

    @property
    def is_dry_run(self) -> bool:
        """Whether jobs are translated for the runner and not submitted (Dataflow's --dry_run)."""
        return any(flag in ("--dry_run", "--dry_run=True") for flag in self.options)

    def flags(self) -> list[str]:
        """Returns the flags of Beam's pipeline options."""
        flags = [f"--runner={self.runner}"]
        if self.is_local:
            flags.append(f"--direct_running_mode={self.direct_running_mode}")
            flags.append(f"--direct_num_workers={self.num_workers}")
        return [*flags, *self.options]

"""How Beam pipelines are run: the options, and errors that read as they were raised."""

import dataclasses
import logging
import re
import sys
import threading
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.runner import PipelineResult

from humpback_jax import errors
from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError, UserError

# A worker's UserError comes to the submitter, who says it in one sentence; Beam would log it
# before, with a traceback.
for _name in ("apache_beam.runners.common", "apache_beam.runners.worker.sdk_worker"):
    logging.getLogger(_name).addFilter(lambda record: not _is_of_user_error(record))

_MODES = ("in_memory", "multi_threading", "multi_processing")
# What the portable runner raises; the engine's own word of it follows.
_JOB_FAILED = re.compile(r"^Pipeline \S+ failed in state [A-Z]+: *([^\n]*)")
_TRACEBACK = "Traceback (most recent call last)"
_USER_ERROR = re.compile(r"^(?:humpback_jax\.errors\.)?(UserError|UsageError): (.+)$", re.MULTILINE)
# What Dataflow says where it takes no job -> what to do.
_REFUSALS = {
    "quota|RESOURCE_EXHAUSTED": "ask for more quota at console.cloud.google.com/iam-admin/quotas, "
    "or take fewer or other workers, or another region",
    "default credentials|UNAUTHENTICATED": "log in with `gcloud auth application-default login`",
    "PERMISSION_DENIED|403|does not have": "let the account of this machine and of the workers use "
    "Dataflow and the bucket, or correct the project",
}
_SAID_CHARACTERS = 200
# Beam adds to the message of an exception the name of the step that raised it.
_STEP_SUFFIX = re.compile(r" \[while running '[^\n]*?'\]$")


def _is_of_user_error(record: logging.LogRecord) -> bool:
    raised = record.exc_info[1] if record.exc_info else None
    return isinstance(raised or sys.exception(), UserError)


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

    def pipeline_options(self) -> PipelineOptions:
        """Returns Beam's options."""
        flags = [f"--runner={self.runner}"]
        if self.is_local:
            flags.append(f"--direct_running_mode={self.direct_running_mode}")
            flags.append(f"--direct_num_workers={self.num_workers}")
        return PipelineOptions([*flags, *self.options])


@worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class _WatchedWorkerHandler(worker_handlers.SubprocessSdkWorkerHandler):  # pyright: ignore
    """Starts a worker process, and ends the pipeline if the process dies.

    Beam's own handler (2.77) goes on waiting for the dead worker's answer, for ever.
    """

    _PERIOD = 0.5  # seconds; an instruction may be sent to the dead worker after it was noticed

    def start_worker(self) -> None:
        self._ended = threading.Event()
        super().start_worker()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop_worker(self) -> None:
        self._ended.set()
        super().stop_worker()

    def _watch(self) -> None:
        self.worker_thread.join()
        died = UserError(
            "a worker process was killed, perhaps for want of memory: run the same command again, "
            "finished shards are kept"
        )
        while not self._ended.wait(self._PERIOD):
            self.control_conn.abort(died)


def run_pipeline(build: Callable[[beam.Pipeline], object], config: BeamConfig) -> PipelineResult:
    """Builds a pipeline, runs it and waits for its end.

    Args:
      build: applies the transforms to the pipeline it is given.
      config: where to run.

    Returns:
      The runner's result, for its counters.

    Raises:
      UserError: a worker raised one; it comes back with its own message, whatever the runner
        wrapped around it. Or the engine, and not our code in it, ended the job.
    """
    pipeline = beam.Pipeline(runner=config.runner, options=config.pipeline_options())
    build(pipeline)
    try:
        result = pipeline.run()
        result.wait_until_finish()
        return result
    except Exception as error:
        original = (
            user_error(error) or _refusal(error, config) or _engine_error(error, config.runner)
        )
        if original is None:
            raise
        raise original from error


def _refusal(error: BaseException, config: BeamConfig) -> UserError | None:
    """Returns what a service that refuses a job says, in one sentence; None for other errors."""
    if config.runner != "DataflowRunner":
        return None
    for pattern, remedy in _REFUSALS.items():
        if found := re.search(rf"^.*(?:{pattern}).*$", str(error), re.MULTILINE | re.IGNORECASE):
            said = found[0].strip()[:_SAID_CHARACTERS]
            return UserError(f"Dataflow refuses the job ({said}): {remedy}")
    return None


def _engine_error(error: Exception, runner: str) -> UserError | None:
    """Returns what says that a cluster ended a job, None if Python code in the job raised."""
    found = _JOB_FAILED.match(str(error))
    if found is None or _TRACEBACK in str(error):
        return None
    return UserError(
        f"the job failed on {runner} ({found[1].rstrip('. ')}): see to the cluster's machines, "
        "perhaps by its logs, and run the same command again, finished shards are kept"
    )


def user_error(error: BaseException) -> UserError | None:
    """Returns the UserError behind an exception of a runner, None if there is none.

    Runners keep a worker's exception as a cause, or only as text inside their own message, since
    it crossed a process; both are looked through.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, UserError):
            return type(cause)(_STEP_SUFFIX.sub("", str(cause)))
        if found := _USER_ERROR.findall(str(cause)):
            name, message = found[-1]
            message = _STEP_SUFFIX.sub("", message.strip().strip("'\""))
            return getattr(errors, name)(message)
        cause = cause.__cause__ or cause.__context__
    return None

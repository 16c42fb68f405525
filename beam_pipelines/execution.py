"""How Beam pipelines are run, so that errors read as they were raised."""

import logging
import re
import sys
import threading
from collections.abc import Callable

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.runner import PipelineResult

from beam_pipelines.config import BeamConfig
from humpback_jax import errors
from humpback_jax.errors import UserError

# A worker's UserError comes to the submitter, who says it in one sentence; Beam would log it
# before, with a traceback.
for _name in ("apache_beam.runners.common", "apache_beam.runners.worker.sdk_worker"):
    logging.getLogger(_name).addFilter(lambda record: not _is_of_user_error(record))

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


def pipeline_options(config: BeamConfig) -> PipelineOptions:
    """Returns Beam's options, as configured."""
    return PipelineOptions(config.flags())


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
    pipeline = beam.Pipeline(runner=config.runner, options=pipeline_options(config))
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

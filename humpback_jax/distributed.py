"""Several processes, one for each host of a pod: who writes files, and when all go on.

All processes run the same command on the same run directory. Files are written by the primary
process alone, but for Orbax's, whose arrays each process writes in part.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from humpback_jax.errors import UsageError, UserError

_ERROR_CHARACTERS = 1 << 11  # of a message that is passed on
_WAIT_MS = 7 * 24 * 3600 * 1000  # a process that dies ends the others' waiting long before


def initialize(coordinator: str = "", count: int = 0, index: int = -1) -> None:
    """Joins this process to the others, before any array is made.

    Args:
      coordinator: host:port of the process 0; "" on Cloud TPU, where JAX finds the others itself.
      count: number of processes.
      index: this one's, from 0.

    Raises:
      UsageError: the three are not given together.
      UserError: the others cannot be reached.
    """
    given = (bool(coordinator), count > 0, index >= 0)
    if any(given) and not (all(given) and index < count):
        raise UsageError(
            f"--coordinator_address={coordinator} --process_count={count} --process_index={index} "
            "do not go together: give all three, the index below the count"
        )
    known: dict[str, Any] = {}
    if all(given):
        known = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
    try:
        jax.distributed.initialize(**known)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the processes could not be joined ({reason}): start all of them, with the address of "
            "process 0 where JAX cannot find it itself"
        ) from error


def is_primary() -> bool:
    """Returns whether this process writes the files; without touching a device if it is alone."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def count() -> int:
    """Returns the number of processes."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Returns this process's number, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def wait_for_all(name: str) -> None:
    """Returns once every process has called this with the same name.

    It may take as long as it takes: unlike a collective it occupies no device and no connection
    that would time out.
    """
    if count() == 1:
        return
    from orbax.checkpoint import multihost

    multihost.get_barrier_sync_fn()(key=name, timeout_ms=_WAIT_MS)


def on_primary(work: Callable[[], Any]) -> Any:
    """Runs `work` in the primary process and returns its result in all of them, once it is done.

    Args:
      work: gives something that JSON can hold; a UserError of it is raised everywhere.
    """
    if count() == 1:
        return work()
    from jax.experimental import multihost_utils

    message: dict[str, Any] = {}
    failure: BaseException | None = None
    if is_primary():
        try:
            message = {"result": work()}
        except BaseException as error:
            failure, code = error, getattr(error, "exit_code", None)
            message = {"error": str(error)[:_ERROR_CHARACTERS], "exit_code": code}
    content = np.frombuffer(json.dumps(message).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    # Padded to a power of two, so that few programs are compiled.
    padded = np.zeros(max(1 << (length - 1).bit_length(), 1 << 10), np.uint8)
    if is_primary():
        padded[:length] = content
    received = bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded)))[:length]
    if failure is not None:
        raise failure
    answer = json.loads(received)
    if "error" in answer:
        raise (UsageError if answer["exit_code"] == 2 else UserError)(answer["error"])
    return answer["result"]

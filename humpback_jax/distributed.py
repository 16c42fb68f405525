"""Several processes, one for each host of a pod: who writes files, and when all go on.

All processes run the same command on the same run directory. Files are written by the primary
process alone, but for Orbax's, whose arrays each process writes in part.
"""

import collections
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from humpback_jax.errors import PreemptedError, UsageError, UserError

_ERROR_CHARACTERS = 1 << 11  # of a message that is passed on
_POLL_SECONDS = 0.5


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


class Company:
    """The processes of a stretch of work that ends in all of them soon after it failed in one.

    Use it as a context manager, as often in every process. What failed is told through the
    key-value store of JAX's coordination service, which occupies no device and no connection that
    would time out. A process that cannot hear of it, since it waits in a collective for the one
    that failed, is ended from a thread.

    Attributes:
      patience: seconds in which a process may end by itself once another has failed.
    """

    _entered: ClassVar[collections.Counter[str]] = collections.Counter()

    def __init__(self, name: str, patience: float = 10.0):
        self.patience = patience
        self._name = name
        self._left = threading.Event()
        self._failed: UserError | None = None

    def __enter__(self) -> "Company":
        if count() > 1:
            Company._entered[self._name] += 1  # a name may come again
            self._prefix = f"humpback/{self._name}/{Company._entered[self._name]}"
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, _kind, error: BaseException | None, _traceback) -> None:
        self._left.set()
        if count() == 1 or error is None or error is self._failed:
            return
        self._look()
        if self._failed is not None and not isinstance(error, UserError):
            raise self._failed from error  # a collective that the other one left
        if not isinstance(error, PreemptedError):  # which comes to all of them
            self._tell("failed", {"error": _first_line(error), "exit_code": exit_code(error)})

    def check(self) -> None:
        """Raises UserError if another process has failed."""
        if self._failed is not None:
            raise self._failed

    def wait_for_all(self) -> None:
        """Returns once every process has called this, however long that takes.

        Raises:
          UserError: one of them failed instead.
        """
        if count() == 1:
            return
        self._tell("done", {})
        while len(_client().key_value_dir_get(f"{self._prefix}/done")) < count():
            self.check()
            time.sleep(_POLL_SECONDS)

    def _tell(self, what: str, message: Mapping[str, Any]) -> None:
        _client().key_value_set(f"{self._prefix}/{what}/{index()}", json.dumps(message))

    def _look(self) -> None:
        """Notices the failure of another process."""
        for key, content in _client().key_value_dir_get(f"{self._prefix}/failed"):
            message, other = json.loads(content), key.rpartition("/")[2]
            sentence = (
                f"process {other} of {count()} failed, and this one ended with it: "
                f"{message['error']}"
            )
            self._failed = _user_error(sentence, message["exit_code"])

    def _watch(self) -> None:
        while self._failed is None:
            if self._left.wait(_POLL_SECONDS):
                return
            try:
                self._look()
            except RuntimeError:
                return  # the coordinator is gone, of which JAX itself tells
        if self._left.wait(self.patience):
            return
        print(f"humpback: {self._failed}", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()  # else the one that failed would wait for this one
        os._exit(self._failed.exit_code)


def _client() -> Any:
    from orbax.checkpoint import multihost

    return multihost.get_jax_distributed_client()


def exit_code(error: BaseException) -> int:
    """Returns the exit code of an error, 1 for one that is not ours."""
    return getattr(error, "exit_code", UserError.exit_code)


def _user_error(message: str, code: int) -> UserError:
    """Returns the error of another process."""
    return (UsageError if code == UsageError.exit_code else UserError)(message)


def _first_line(error: BaseException) -> str:
    """Returns what an error says, in a line that can be passed on."""
    text = str(error)[:_ERROR_CHARACTERS].strip()
    line = text.splitlines()[0] if text else ""
    if isinstance(error, UserError):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def on_primary(work: Callable[[], Any]) -> Any:
    """Runs `work` in the primary process and returns its result in all of them, once it is done.

    Args:
      work: gives something that JSON can hold; a UserError of it is raised everywhere.
    """
    if count() == 1:
        return work()
    from jax.experimental import multihost_utils

    text = ""
    failure: BaseException | None = None
    if is_primary():
        try:
            text = json.dumps({"result": work()})
        except BaseException as error:
            failure = error
            message = {"error": str(error)[:_ERROR_CHARACTERS], "exit_code": exit_code(error)}
            text = json.dumps(message)
    content = np.frombuffer(text.encode(), np.uint8)
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
        raise _user_error(answer["error"], answer["exit_code"])
    return answer["result"]

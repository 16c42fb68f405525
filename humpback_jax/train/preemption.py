"""SIGTERM, by which a scheduler says that the machine will be taken away."""

import signal
import threading

from jax.experimental import multihost_utils

from humpback_jax import distributed


class PreemptionWatch:
    """Notices SIGTERM while it is open; use it as a context manager.

    Of several processes any may get the signal; JAX tells the others and chooses a step that all
    can still reach.
    """

    def __init__(self):
        self._received = False
        self._before = None

    def __enter__(self) -> "PreemptionWatch":
        if distributed.count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _receive(self, *_) -> None:
        self._received = True

    def reached(self, step: int) -> bool:
        """Returns whether to save after this step and end; every process asks at every step."""
        if distributed.count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received

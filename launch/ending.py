"""SIGTERM, by which a scheduler says that the machine will be taken away, outside of training.

Training and inference without Beam watch for it themselves (`train.preemption`). Everything else
keeps what it has done at any moment, so it may end at once: only the claim is to be withdrawn.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from humpback_jax import distributed
from humpback_jax.errors import PreemptedError
from launch.claims import Held

_WITHDRAW_SECONDS = 10.0


class EndWatch:
    """Ends the process at SIGTERM with code 42 while it is open; use it as a context manager.

    Attributes:
      told: whether SIGTERM came.
    """

    def __init__(self, work: str, held: Held | None):
        self.told = False
        self._work = work
        self._held = held
        self._waits = False
        self._before = None

    def __enter__(self) -> "EndWatch":
        # Of several processes JAX watches each itself, in a handler that is not Python's.
        if distributed.count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While this is open SIGTERM sets `told` and ends nothing: the caller sees to it."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Takes Ctrl-C, which may come in what is done in it, for SIGTERM."""
        try:
            yield
        except KeyboardInterrupt:
            self.told = True

    def _receive(self, *_) -> None:
        self.told = True
        if self._waits:
            return
        sentence = (
            f"humpback: {self._work} was told to end (SIGTERM): run the same command again to go "
            "on; what is done is kept\n"
        )
        # What was interrupted may hold locks, of print for one: nothing here may wait for them.
        os.write(2, sentence.encode())
        if self._held is not None:
            withdrawing = threading.Thread(target=self._held.withdraw, daemon=True)
            withdrawing.start()
            withdrawing.join(_WITHDRAW_SECONDS)
        os._exit(PreemptedError.exit_code)

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
      told: the number of the signal that came last, 0 if none did.
      insists: whether Ctrl-C came after it was told. SIGTERM may come twice, as from `timeout`.
    """

    def __init__(self, work: str, held: Held | None = None):
        self.told = 0
        self.insists = False
        self._work = work
        self._held = held
        self._waits = False
        self._handlers = contextlib.ExitStack()

    def __enter__(self) -> "EndWatch":
        self._handle(signal.SIGTERM, self._handlers)
        return self

    def __exit__(self, *_) -> None:
        self._handlers.close()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While this is open SIGTERM and Ctrl-C set `told`, and the caller sees to the rest."""
        with contextlib.ExitStack() as handlers:
            self._handle(signal.SIGINT, handlers)
            self._waits = True
            try:
                yield
            finally:
                self._waits = False

    def _handle(self, number: int, handlers: contextlib.ExitStack) -> None:
        # Of several processes JAX watches each itself, in a handler that is not Python's.
        if distributed.count() == 1 and threading.current_thread() is threading.main_thread():
            before = signal.signal(number, self._receive)
            handlers.callback(signal.signal, number, before)

    def _receive(self, number: int, _frame: object) -> None:
        self.insists |= bool(self.told) and number == signal.SIGINT
        self.told = number
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

"""How long work shows that it goes on: a bar on a terminal, plain lines elsewhere."""

import sys

import tqdm


class Progress:
    """Progress of `total` things of which `first` are done; use it as a context manager."""

    def __init__(self, name: str, total: int, first: int = 0, unit: str = "step"):
        self._name, self._total, self._unit, self._shown = name, total, unit, first
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total, initial=first, desc=name, unit=unit, disable=not self._terminal
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def update(self, done: int, detail: str = "") -> None:
        """Shows that `done` of the total are done: without a terminal, every tenth or so."""
        if self._terminal:
            self._bar.set_postfix_str(detail)
            self._bar.update(done - self._bar.n)
        elif done > self._shown and (done - self._shown >= self._total / 10 or done == self._total):
            self._shown = done
            text = f"{self._name}: {self._unit} {done}/{self._total}"
            print(f"{text}, {detail}" if detail else text, flush=True)

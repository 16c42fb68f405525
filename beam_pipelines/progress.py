"""Progress of a job by its done markers, which every runner leaves in the same place."""

import contextlib
import threading
from collections.abc import Iterator

from humpback_jax.progress import Progress
from humpback_jax.rundir import StageDir

_SECONDS = 2.0


@contextlib.contextmanager
def shard_progress(stage: StageDir, total: int, folder: str = "shards") -> Iterator[None]:
    """Shows how many of a stage's `total` shards are done while the block runs."""
    ended = threading.Event()

    def watch(progress: Progress) -> None:
        while not ended.wait(_SECONDS):
            progress.update(stage.num_done(folder))
        progress.update(stage.num_done(folder))

    with Progress(stage.name, total, stage.num_done(folder), unit="shard") as progress:
        thread = threading.Thread(target=watch, args=(progress,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

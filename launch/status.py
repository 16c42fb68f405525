"""What a run directory says of itself: done, running, or left, with counts and times."""

import time

from etils import epath

from humpback_jax import rundir
from humpback_jax.errors import UserError
from humpback_jax.rundir import ORDER_NAME, Counts, StageDir
from humpback_jax.train.log import read_metrics
from launch import claims
from launch.claims import Claim


def describe(run_dir: str) -> str:
    """Returns a table of a run's stages, and who works on it.

    Args:
      run_dir: the run directory, local or in a bucket.

    Raises:
      UserError: the folder is no run directory, or cannot be reached.
    """
    rundir.check_reach(run_dir)
    order = epath.Path(run_dir) / ORDER_NAME
    if not order.exists():
        raise UserError(
            f"{run_dir} is no run directory (it has no {ORDER_NAME}): give the RUN_DIR of a run"
        )
    rows = [(name, *_state(StageDir(run_dir, name))) for name in rundir.read_json(order)]
    width = max(len(name) for name, *_ in rows)
    lines = [f"{name:{width}}  {state:8} {detail}".rstrip() for name, state, detail in rows]
    return "\n".join([*lines, *map(_worker, claims.read_all(run_dir))])


def _worker(claim: Claim) -> str:
    """Returns a line about who works, or has worked and is gone."""
    silent = max(0.0, time.time() - claim.heartbeat)
    if claim.is_live():
        return f"in use by {claim.describe()}, last sign of life {silent:.0f} s ago"
    return f"no longer in use by {claim.describe()}: it gave no sign of life for {silent:.0f} s"


def _state(stage: StageDir) -> tuple[str, str]:
    if stage.is_done():
        summary = stage.summary()
        return "done", f"{summary['seconds']:8.1f} s  {Counts(**summary['counts'])}"
    if not (stage.path / "config.json").exists():
        return "left", ""
    state = "running" if stage.is_running() else "stopped"
    shards = stage.num_done()
    if shards:
        return state, f"{'':10}  {shards} shards, {stage.counts()}"
    rows = read_metrics(stage.path)
    if rows:
        return state, f"{'':10}  step {rows[-1]['step']}, loss {rows[-1]['loss']:.4f}"
    return state, ""

"""Orbax, behind one module: training states by step, and parameters alone.

<model dir>/checkpoint_<step>/state/    params, opt_state, step
<model dir>/checkpoint_<step>/data/     the data iterator's state, JSON
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint._src.path import step as step_lib

from humpback_jax.errors import UserError

_NAMES = step_lib.standard_name_format(step_prefix="checkpoint")


@contextlib.contextmanager
def manager(folder: epath.PathLike, keep: int = 2) -> Iterator[ocp.training.Checkpointer]:
    """Gives a checkpointer that keeps the last `keep` steps."""
    checkpointer = ocp.training.Checkpointer(
        epath.Path(folder).resolve(),
        step_name_format=_NAMES,  # pyright: ignore
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),  # pyright: ignore
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),  # pyright: ignore
        cleanup_tmp_directories=True,
    )
    try:
        yield checkpointer
    except BaseException:
        # close() raises the error of a failed save once more, in place of our sentence.
        with contextlib.suppress(OSError, ValueError):
            checkpointer.close()
        raise
    checkpointer.close()


def latest_step(checkpointer: ocp.training.Checkpointer) -> int | None:
    """Returns the newest committed step, or None."""
    return checkpointer.latest.step if checkpointer.latest is not None else None


def save(checkpointer: ocp.training.Checkpointer, step: int, state: Any, data: Any) -> None:
    """Saves a training state and its data iterator's state as one committed step."""
    try:
        checkpointer.save_checkpointables(step, {"state": state, "data": data})
    except (OSError, ValueError) as error:  # a full disk is a ValueError of tensorstore
        raise UserError(
            f"the checkpoint of step {step} in {checkpointer.directory} could not be written "
            f"({error}): free space and run the same command again; earlier steps are kept"
        ) from error


def restore(checkpointer: ocp.training.Checkpointer, step: int, abstract: Any) -> tuple[Any, Any]:
    """Returns (state, data iterator's state) of a step.

    Args:
      checkpointer: of the model directory.
      step: a committed step.
      abstract: ShapeDtypeStructs with the shardings the state is to have.
    """
    _check_stored(epath.Path(checkpointer.directory) / f"checkpoint_{step}", abstract.params)
    target = {"state": abstract, "data": None}
    loaded = checkpointer.load_checkpointables(step, target)
    return loaded["state"], loaded["data"]


def save_params(folder: epath.PathLike, step: int, params: Any) -> None:
    """Saves parameters alone as a committed step, replacing one of the same name."""
    with manager(folder) as checkpointer:
        if any(found.step == step for found in checkpointer.checkpoints):
            checkpointer.delete(step)
        save(checkpointer, step, {"params": params}, {"batches": 0})


def restore_params(path: epath.PathLike, abstract: Any) -> Any:
    """Returns the parameters alone of one step's folder, placed as `abstract` says."""
    path = epath.Path(path).resolve()
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}: name a checkpoint_<step> folder")
    _check_stored(path, abstract)
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        loaded = ocp.load_checkpointables(path, {"state": {"params": abstract}})
    return loaded["state"]["params"]


def _check_stored(path: epath.Path, abstract: Any) -> None:
    """Compares the stored parameters with those wanted, leaf by leaf.

    Orbax casts silently to the dtype that is asked for, leaves a parameter that it does not find
    as a ShapeDtypeStruct, and answers a wrong shape with pages.
    """
    try:
        stored = ocp.metadata(path, checkpointable_name="state").metadata["params"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no checkpoint of a model: name a committed checkpoint_<step> folder"
        ) from error
    wanted, found = _described(abstract), _described(stored)
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"{path} holds {found.get(name, 'nothing')} as parameter {name} where the model "
                f"wants {wanted.get(name, 'nothing')}: it belongs to another model configuration"
            )


def _described(params: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {
        "/".join(str(key.key) for key in path): f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def digest(tree: Any) -> str:
    """Returns 16 hex digits of all leaves' paths, shapes, dtypes and bytes."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(jax.device_get(leaf))
        total.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]

"""Orbax, behind one module: training states by step, and parameters alone.

    <model dir>/checkpoint_<step>/state/    params, opt_state, step
    <model dir>/checkpoint_<step>/data/     the data iterator's state, JSON

Each checkpoint's metadata holds a checksum for every leaf of the state, taken from the arrays
themselves before they are written; reading compares them with what has been read.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint._src.path import step as step_lib

from humpback_jax import distributed
from humpback_jax.checkpoints import seal
from humpback_jax.checkpoints.checksum import CHECKSUMS, checksums
from humpback_jax.checkpoints.checksum import fingerprint as digest
from humpback_jax.errors import UserError

__all__ = ["Checkpointer", "digest", "restore_params", "save_params", "step_path"]

# What is read and decompressed at once by whoever looks into a checkpoint.
_CHUNK_BYTES = 64 << 20
_NAMES = step_lib.standard_name_format(step_prefix="checkpoint")
_REMEDY = (
    "delete that folder and run the same command again: a training that is not done goes on from "
    "the checkpoint before, what is done is made anew once its stage folder is deleted too"
)


def step_path(folder: epath.PathLike, step: int) -> epath.Path:
    """Returns the folder of a step."""
    return epath.Path(folder) / f"checkpoint_{step}"


class Checkpointer:
    """The checkpoints of one model directory; use it as a context manager.

    Saving goes on in the background. A save that failed is an error of the next call of `save`,
    `check` or `wait`, so it is never missed.
    """

    def __init__(self, folder: epath.PathLike, keep: int = 2, context: ocp.Context | None = None):
        """Opens a model directory, whose last `keep` steps are kept; saves under `context`."""
        self._context = context
        self.folder = epath.Path(folder).resolve()
        policies = ocp.training
        self._orbax = policies.Checkpointer(
            self.folder,
            step_name_format=_NAMES,  # pyright: ignore
            preservation_policy=policies.preservation_policies.LatestN(keep),  # pyright: ignore
            save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(1),  # pyright: ignore
            cleanup_tmp_directories=True,
        )
        self._pending: tuple[int, Any] | None = None

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if kind is None:
            self.wait()
            self._orbax.close()
            return
        # close() would raise the error of a failed save in place of our sentence.
        with contextlib.suppress(Exception):
            self._orbax.close()

    @property
    def steps(self) -> list[int]:
        """The committed steps, rising."""
        return sorted(found.step for found in self._orbax.checkpoints)

    @property
    def latest(self) -> int | None:
        """The newest committed step, or None."""
        return max(self.steps, default=None)

    def save(self, step: int, state: Any, data: Any) -> None:
        """Begins to save a training state and its data iterator's state as one step.

        The arrays are copied before this returns, so they may be donated.
        """
        self.wait()
        metadata: Any = {CHECKSUMS: checksums(state)}
        items = {"state": state, "data": data}
        context = ocp.Context(self._context)
        context.array.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
        try:
            with context:
                response = self._orbax.save_checkpointables_async(
                    step, items, custom_metadata=metadata
                )
        except (OSError, ValueError) as error:  # a full disk is a ValueError of tensorstore
            raise self._failure(step, error) from error
        self._pending = (step, response)

    def check(self) -> None:
        """Raises UserError if the save in the background has failed; does not wait for it."""
        if self._pending is not None and not self._orbax.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is committed; raises UserError if it failed."""
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        try:
            response.result()
            self._orbax.wait()
        except Exception as error:  # whatever the writing thread died of
            raise self._failure(step, error) from error
        if step not in self.steps:
            raise self._failure(step, RuntimeError("it was not committed"))
        if distributed.is_primary():
            seal.write_seal(step_path(self.folder, step))

    def _failure(self, step: int, error: Exception) -> UserError:
        reason = _one_line(error)
        return UserError(
            f"the checkpoint of step {step} in {self.folder} could not be written ({reason}): free "
            "space and run the same command again; earlier steps are kept"
        )

    def restore(self, step: int, abstract: Any) -> tuple[Any, Any]:
        """Returns (state, data iterator's state) of a step.

        Args:
          step: a committed step.
          abstract: ShapeDtypeStructs with the shardings the state is to have.

        Raises:
          UserError: it belongs to another model, or a leaf is not what was saved.
        """
        path = step_path(self.folder, step)
        stored = _stored_state(path)
        _check_same(path, "parameter", abstract.params, stored["params"])
        _check_same(path, "optimizer state", abstract.opt_state, stored["opt_state"])
        with _readable(path):
            loaded = self._orbax.load_checkpointables(step, {"state": abstract, "data": None})
        _check_sums(path, loaded["state"])
        return loaded["state"], loaded["data"]


def save_params(folder: epath.PathLike, step: int, params: Any) -> None:
    """Saves parameters alone as a committed step, replacing one of the same name.

    It needs little more memory than the parameters have: one shard is compressed at a time, and
    the largest is the least that Orbax can be allowed.
    """
    shards = [s.data.nbytes for x in jax.tree.leaves(params) for s in x.addressable_shards]
    context = ocp.Context()
    context.memory.write_concurrent_bytes = max(shards, default=0) + 1
    with Checkpointer(folder, context=context) as checkpointer:
        if step in checkpointer.steps:
            checkpointer._orbax.delete(step)
        checkpointer.save(step, {"params": params}, {"batches": 0})


def restore_params(path: epath.PathLike, abstract: Any) -> Any:
    """Returns the parameters alone of one step's folder, placed as `abstract` says.

    Floating point parameters may be asked for in another floating point type.
    """
    path = epath.Path(path).resolve()
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}: train or import the model again")
    stored = _stored_state(path)["params"]
    _check_same(path, "parameter", abstract, stored, castable=True)
    # Orbax would cast by itself, but then there would be nothing to compare the checksums with.
    target = jax.tree.map(
        lambda want, found: jax.ShapeDtypeStruct(want.shape, found.dtype, sharding=want.sharding),
        abstract,
        stored,
    )
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context, _readable(path):
        loaded = ocp.load_checkpointables(path, {"state": {"params": target}})
    _check_sums(path, loaded["state"])
    params = loaded["state"]["params"]
    return jax.tree.map(lambda x, want: x.astype(want.dtype), params, abstract)


@contextlib.contextmanager
def _readable(path: epath.Path) -> Iterator[None]:
    """Turns whatever Orbax and tensorstore raise over damaged files into one sentence."""
    try:
        yield
    except Exception as error:
        reason = _one_line(error)
        raise UserError(f"{path} is damaged, it cannot be read ({reason}); {_REMEDY}") from error


def _one_line(error: BaseException) -> str:
    """Returns the beginning of what tensorstore may say on pages, without what Orbax made of it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]


def _check_sums(path: epath.Path, state: Any) -> None:
    """Raises UserError naming the leaves that are not what was saved."""
    with _readable(path):
        metadata: Any = ocp.checkpointables_metadata(path).custom_metadata or {}
    saved = metadata.get(CHECKSUMS)
    if saved is None:
        raise UserError(f"{path} is damaged or not of this project: it has no checksums; {_REMEDY}")
    wrong = [name for name, total in checksums(state).items() if saved.get(name) != total]
    if wrong:
        raise UserError(
            f"{path} is damaged: the checksum of {', '.join(wrong)} is not the one at save; "
            f"{_REMEDY}"
        )


def _stored_state(path: epath.Path) -> Any:
    """Returns the metadata of a checkpoint's state; raises UserError if it has none."""
    try:
        state = ocp.metadata(path, checkpointable_name="state").metadata
        state["params"]  # a checkpoint of something else has none
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no checkpoint of a model, or damaged; {_REMEDY}") from error
    return state


def _check_same(
    path: epath.Path, kind: str, abstract: Any, stored: Any, castable: bool = False
) -> None:
    """Compares what is stored with what is wanted, leaf by leaf.

    Orbax casts silently to the dtype that is asked for, leaves a leaf that it does not find as a
    ShapeDtypeStruct, and answers a wrong shape with pages.

    Args:
      path: of the checkpoint.
      kind: what the leaves are, for the error.
      abstract: ShapeDtypeStructs.
      stored: metadata.
      castable: one floating point type may stand for another.
    """
    wanted, found = _leaves(abstract), _leaves(stored)
    for name in sorted({*wanted, *found}):
        want, have = wanted.get(name), found.get(name)
        if want is not None and have is not None:
            floating = all(jnp.issubdtype(x.dtype, jnp.floating) for x in (want, have))
            if want.shape == have.shape and (want.dtype == have.dtype or (castable and floating)):
                continue
        raise UserError(
            f"{path} holds {_describe(have)} as {kind} {name} where {_describe(want)} is wanted: "
            "it belongs to another model configuration or another optimizer"
        )


def _leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
        if leaf is not None
    }


def _describe(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"

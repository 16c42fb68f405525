"""Whether a checkpoint is what was saved: every array is read and its checksum compared."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from etils import epath

from humpback_jax.checkpoints import checksum, layout, seal
from humpback_jax.checkpoints.layout import Leaf
from humpback_jax.checkpoints.streaming import DamagedError, read_blocks
from humpback_jax.errors import UserError

OF_STATUS = {
    layout.UNCOMMITTED: "the save was killed before it was committed: delete the folder",
    layout.INCOMPLETE: "files of a committed checkpoint are missing: copy it whole",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is wrong with a checkpoint: with an array, with one of its files, or ("") with all."""

    name: str
    problem: str


def verify(path: epath.Path) -> Iterator[Finding]:
    """Yields what is wrong with a checkpoint, nothing if it is as it was saved.

    A checkpoint of others has no checksums; then all that can be said is whether it can be read,
    and one finding says so.
    """
    try:
        for file, problem in seal.broken_files(path):
            yield Finding(file, problem)
    except FileNotFoundError:
        pass  # a checkpoint of others, or one whose save was killed right after it was committed
    status = layout.status_of(path)
    if status != layout.COMMITTED:
        yield Finding("", OF_STATUS[status])
        return
    try:
        leaves = layout.leaves(path)
        saved = layout.custom_metadata(path).get(checksum.CHECKSUMS)
    except (UserError, ValueError, AttributeError) as error:
        yield Finding("", f"its description is damaged ({error})")
        return
    if not isinstance(saved, dict):
        yield Finding(
            "", "it has no checksums, so a flipped bit cannot be told: not of this project"
        )
        saved = None
    names = {leaf.name for leaf in leaves}
    for name in sorted(set(saved or ()) - names):
        yield Finding(name, "it is missing")
    for leaf in leaves:
        if problem := _check(leaf, saved):
            yield Finding(leaf.name, problem)


def _check(leaf: Leaf, saved: dict[str, str] | None) -> str:
    """Returns what is wrong with an array, "" if nothing is."""
    total = np.zeros(2, np.uint32)
    try:
        for place, block in read_blocks(leaf):
            if saved is not None:
                total += checksum.block_sums(block, place)
    except DamagedError as error:
        return str(error)
    if saved is None:
        return ""
    if leaf.name not in saved:
        return "there is no checksum of it"
    found = checksum.as_text(total)
    if found != saved[leaf.name]:
        return f"its checksum is {found}, at save it was {saved[leaf.name]}"
    return ""

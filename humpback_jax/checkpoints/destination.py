"""A folder that a command is to fill, and what is in it already."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from humpback_jax import rundir
from humpback_jax.errors import UserError


def claim(folder: epath.PathLike, kind: str, made_of: Mapping[str, Any], last: str) -> bool:
    """Makes a folder a command's own, and returns whether the command has finished in it before.

    The folder gets a file <kind>.json that says what it is made of. It may be absent or empty, or
    hold that file with the same content: then the same command has run before, to its end if
    the file `last` is there.

    Args:
      folder: to be filled.
      kind: "import" or "export".
      made_of: all that decides the content, JSON-able; "source" is named in the message.
      last: the file that the command writes last.

    Raises:
      UserError: the folder has something else in it, which stays as it is.
    """
    folder = epath.Path(folder)
    marker = folder / f"{kind}.json"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder")
    if not marker.exists():
        if folder.exists() and (others := sorted(path.name for path in folder.iterdir())):
            raise UserError(
                f"{folder} has {others[0]} in it, which is not of an {kind}: name a new folder"
            )
        rundir.write_json(marker, made_of)
        return False
    try:
        before = json.loads(marker.read_text())
    except ValueError:
        before = {}
    if before != json.loads(json.dumps(made_of)):
        raise UserError(
            f"{folder} holds an {kind} of {before.get('source', 'something else')}, or of the same "
            "with other settings or before it changed: name a new folder, or delete this one"
        )
    return (folder / last).exists()

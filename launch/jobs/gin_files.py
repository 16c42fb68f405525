"""The gin flags of a subcommand, and how they go to a machine that has this package alone.

Gin files of the package are there. Own files, and those that they include, travel in the command
itself, byte for byte, and are written into the folder in which the process runs; so what it reads
is what stands here when it is started, not what an earlier start has left there.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence

from humpback_jax.errors import UsageError
from launch import configuration

# One word of a command line takes 128 KiB on Linux, and all words of a remote command are one.
_CARRIED_BYTES = 64 << 10


@dataclasses.dataclass(frozen=True)
class GinFlags:
    """The flags by which a subcommand is configured.

    Attributes:
      files: of --gin_file, in order.
      bindings: NAME=VALUE of --gin.NAME=VALUE, in order.
      search: folders of --gin_search_paths.
    """

    files: tuple[str, ...]
    bindings: tuple[str, ...] = ()
    search: tuple[str, ...] = ()

    def arguments(self) -> tuple[str, ...]:
        """Returns the flags again, their values as they were given."""
        search = (f"--gin_search_paths={','.join(self.search)}",) if self.search else ()
        files = (f"--gin_file={name}" for name in self.files)
        return (*files, *search, *(f"--gin.{binding}" for binding in self.bindings))


def split(humpback: Sequence[str]) -> tuple[GinFlags, tuple[str, ...]]:
    """Returns the gin flags among a subcommand's arguments, and the other arguments."""
    bindings = [a.removeprefix("--gin.") for a in humpback if a.startswith("--gin.")]
    rest = [a for a in humpback if not a.startswith("--gin.")]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--gin_file", action="append", default=[])
    parser.add_argument("--gin_search_paths", default="")
    known, others = parser.parse_known_args(rest)
    search = [path for path in known.gin_search_paths.split(",") if path]
    return GinFlags(tuple(known.gin_file), tuple(bindings), tuple(search)), tuple(others)


@dataclasses.dataclass(frozen=True)
class Carried:
    """A subcommand that runs where there is this package and nothing else.

    Attributes:
      humpback: its arguments.
      files: contents of the gin files that must lie in its folder, by their names there.
    """

    humpback: tuple[str, ...]
    files: dict[str, str]


def carry(humpback: Sequence[str]) -> Carried:
    """Returns a subcommand with the gin files that it needs.

    Raises:
      UsageError: a file cannot be named in a folder of its own, or all are too large to travel.
    """
    flags, rest = split(humpback)
    own = configuration.own_files(flags.files, flags.search)
    for name in own:
        if name not in flags.files and _local_name(name) != name:
            raise UsageError(
                f"a gin file includes '{name}', which another machine has not at that place: "
                "include it by a name below a folder of --gin_search_paths"
            )
    files = {_local_name(name): path.read_bytes().decode() for name, path in own.items()}
    size = sum(len(text.encode()) for text in files.values())
    if size > _CARRIED_BYTES or len(files) < len(own):
        raise UsageError(
            f"{len(own)} gin files of {size} bytes would go with the command, which has room for "
            f"{_CARRIED_BYTES} bytes of files with different names: include less"
        )
    names = tuple(_local_name(name) if name in own else name for name in flags.files)
    there = GinFlags(names, flags.bindings).arguments()
    return Carried((rest[0], *there, *rest[1:]), files)


def _local_name(name: str) -> str:
    """Returns the name of a file in the process's folder: "/home/me/x.gin" is "home/me/x.gin"."""
    parts = pathlib.PurePosixPath(name).parts
    return "/".join(part for part in parts if part not in ("/", "..", "."))

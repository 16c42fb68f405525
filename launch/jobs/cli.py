"""`humpback launch`: a subcommand of humpback, run in a place by the gin files that it is given."""

import argparse
import sys
from collections.abc import Callable, Sequence

from humpback_jax.errors import UsageError
from launch.jobs import command
from launch.jobs.command import Command, Place
from launch.jobs.gin_files import GinFlags
from launch.jobs.places import PLACES, group_of

_TEXT = (
    "Run a subcommand of humpback on this machine, a TPU slice, GKE, Dataflow or Flink. What is "
    "paid for by the hour is printed and not run, unless --no-dry-run is given."
)
_USAGE = "humpback launch PLACE [ACTION] --gin_file FILE [--gin.NAME=VALUE] -- SUBCOMMAND [FLAGS]"


def add_parser(commands, gin_flags: argparse.ArgumentParser) -> None:
    """Adds the command to what `add_subparsers` gave."""
    text = "run a subcommand on a TPU slice, GKE, Dataflow, Flink, or in processes here"
    parser = commands.add_parser(
        "launch", help=text, description=_TEXT, usage=_USAGE, parents=[gin_flags]
    )
    parser.add_argument("place", choices=PLACES)
    known = (f"{name}: {', '.join(place.actions)}" for name, place in PLACES.items())
    parser.add_argument("action", nargs="?", default="run", help="; ".join(known))
    text = "print the commands and start nothing; the default for what costs money"
    parser.add_argument("--dry-run", action=argparse.BooleanOptionalAction, help=text)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns (the arguments of `launch`, those of the subcommand that stand after "--")."""
    arguments = list(arguments)
    if arguments[:1] != ["launch"] or "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def run(
    options: argparse.Namespace,
    bindings: Sequence[str],
    search: Sequence[str],
    launched: Sequence[str],
    stage_of: Callable[[Sequence[str]], str],
) -> int:
    """Prints or runs an action in a place and returns the exit code.

    Args:
      options: of `launch`.
      bindings: NAME=VALUE of gin.
      search: where gin files are looked for.
      launched: the subcommand and its own flags.
      stage_of: returns the stage that a subcommand runs, "run" for all; refuses what is none.
    """
    from launch import configuration
    from launch.jobs import checks
    from launch.recipe import Recipe

    configuration.parse(options.gin_file, bindings, search)
    humpback: tuple[str, ...] = ()
    stage = ""
    if launched:
        flags = GinFlags(tuple(options.gin_file), tuple(bindings), tuple(search))
        humpback = (launched[0], *flags.arguments(), *launched[1:])
        stage = stage_of(humpback)
    kind = PLACES[options.place]
    _check_action(options.place, options.action, humpback)
    place = configuration.build(kind, group_of(stage) if stage else "")
    recipe = configuration.build(Recipe)
    if stage:
        checks.check(place, stage, recipe)
    commands = place.action(options.action, humpback)
    costs = any(c.costs for c in commands)
    if costs if options.dry_run is None else options.dry_run:
        print(command.script(commands))
        return 0
    if costs:
        checks.check_writable(recipe.run_dir)
    performed = place.perform(options.action, humpback)
    if performed is not None:
        return performed
    return _run_all(place, options.action, humpback, commands)


def _run_all(
    place: Place, action: str, humpback: Sequence[str], commands: Sequence[Command]
) -> int:
    """Runs the commands of an action; told to end, it says what goes on elsewhere."""
    from launch.ending import EndWatch
    from launch.jobs import running

    with EndWatch("humpback launch") as watch, watch.waiting():
        code = running.run_all(commands, watch)
        remains = place.remains(humpback) if action in ("run", "create") else ""
        if watch.told and code and remains:
            print(f"humpback: told to end: {remains}", file=sys.stderr)
    return code


def _check_action(name: str, action: str, humpback: Sequence[str]) -> None:
    known = PLACES[name].actions
    if action not in known:
        raise UsageError(f"{name} has no action '{action}': choose one of {', '.join(known)}")
    if not humpback and action not in PLACES[name].of_machines:
        raise UsageError(
            f"`humpback launch {name} {action}` must know which subcommand: add it at the end, as "
            "in -- train --model=M1"
        )

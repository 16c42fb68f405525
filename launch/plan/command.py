"""`humpback plan`: compiles a run's programs for a TPU slice and says what they take."""

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from humpback_jax.errors import UserError
from launch import configuration
from launch.plan import hours, report, settings, slots, table, worker
from launch.plan.flags import PROGRAMS
from launch.plan.report import ProgramReport
from launch.plan.settings import Settings


def run(options: argparse.Namespace, bindings: Sequence[str], search: Sequence[str]) -> None:
    """Prints the plan of one configuration.

    Raises:
      UserError: a program does not fit; all of them have been printed before.
      UsageError: the configuration is refused, before anything is compiled.
    """
    configuration.parse(options.gin_file, bindings, search)
    plan = settings.read()
    print(table.heading(plan), flush=True)
    files = tuple(options.gin_file), tuple(bindings), tuple(search)
    reports = []
    for name in options.only or programs_of(plan):
        reports.append(_compile(worker.Request(*files, name), plan))
        print(table.program(reports[-1], plan), flush=True)
    room = _slots({r.name: r for r in reports}, plan, files if options.slots else None)
    if room is not None:
        print(table.slots(room), flush=True)
    loop = hours.of_reports({r.name: r for r in reports}, plan)
    if loop:
        print(table.loop(loop, plan), flush=True)
    if options.json:
        _write_json(options.json, report.as_json(reports, plan, room, loop))
    refusals = [report.refusal(r, plan) for r in reports if not r.fits]
    if refusals:
        raise UserError("; ".join(refusals))


def programs_of(plan: Settings) -> tuple[str, ...]:
    """Returns what is run on the slice: no training where its topology says so."""
    return PROGRAMS if plan.topology.trains else tuple(p for p in PROGRAMS if p != "train")


def _compile(request: worker.Request, plan: Settings) -> ProgramReport:
    if sys.stderr.isatty():
        print(f"\ncompiling {request.program}, a minute or two ...", file=sys.stderr)
    return report.evaluate(worker.compile_program(request), plan)


def _slots(done: dict[str, ProgramReport], plan: Settings, files: Any) -> slots.Slots | None:
    """Returns how many slots fit, if the decode step was compiled; with files, verified by them."""
    if "decode" not in done:
        return None
    estimated = slots.estimate(done["decode"], done.get("prefill"))
    if files is None:
        return estimated
    # Prompts that are read together are often no more, so prefill is compiled once.
    with tempfile.TemporaryDirectory() as cache:
        return slots.verify(estimated, lambda count: compile_slots(files, count, plan, cache))


def compile_slots(files: Any, count: int, plan: Settings, cache: str) -> dict[str, ProgramReport]:
    """Compiles decode and prefill for another number of slots.

    Args:
      files: gin files, bindings and search paths.
      count: of slots.
      plan: the settings.
      cache: as of worker.Request.
    """
    gin_files, bindings, search = files
    bound = (*bindings, f"augment/EngineConfig.slots = {count}")
    return {
        name: _compile(worker.Request(gin_files, bound, search, name, cache), plan)
        for name in slots.PROGRAMS
    }


def _write_json(path: str, content: dict[str, Any]) -> None:
    try:
        pathlib.Path(path).write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path} could not be written ({error}): correct --json") from error

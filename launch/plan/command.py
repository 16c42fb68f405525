"""`humpback plan`: compiles a run's programs for a TPU slice and says what they take."""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from humpback_jax.errors import UserError
from launch import configuration
from launch.plan import report, settings, table, worker
from launch.plan.flags import PROGRAMS


def run(options: argparse.Namespace, bindings: Sequence[str], search: Sequence[str]) -> None:
    """Prints the plan of one configuration.

    Raises:
      UserError: a program does not fit; all of them have been printed before.
      UsageError: the configuration is refused, before anything is compiled.
    """
    configuration.parse(options.gin_file, bindings, search)
    plan = settings.read()
    print(table.heading(plan), flush=True)
    reports = []
    for name in options.only or PROGRAMS:
        if sys.stderr.isatty():
            print(f"\ncompiling {name}, a minute or two ...", file=sys.stderr)
        request = worker.Request(tuple(options.gin_file), tuple(bindings), tuple(search), name)
        reports.append(report.evaluate(worker.compile_program(request), plan))
        print(table.program(reports[-1], plan), flush=True)
    if options.json:
        _write_json(options.json, report.as_json(reports, plan))
    refusals = [report.refusal(r, plan) for r in reports if not r.fits]
    if refusals:
        raise UserError("; ".join(refusals))


def _write_json(path: str, content: dict[str, Any]) -> None:
    try:
        pathlib.Path(path).write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path} could not be written ({error}): correct --json") from error

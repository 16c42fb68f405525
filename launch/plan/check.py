"""Every recipe with a topology, compiled: `make tpu-check` writes the tables of docs/plan.md.

    python -m launch.plan.check docs/plan.md            half an hour on two cores
    python -m launch.plan.check docs/plan.md --only 7b  recipes whose name has "7b", printed alone
    python -m launch.plan.check docs/plan.md --programs prefill decode    the table of inference
    python -m launch.plan.check docs/plan.md --hours    the table of whole runs, from the other two

A program that was compiled before, word for word, is taken from --cache.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from humpback_jax.errors import UserError
from launch import configuration
from launch.plan import command, hours, report, settings, slots, table, worker
from launch.plan.flags import PROGRAMS
from launch.plan.report import ProgramReport
from launch.plan.settings import Settings
from launch.plan.slots import Slots
from launch.plan.topology import Topology

# Slices too small for their model, which the compiler must refuse: (recipe, bindings).
TOO_SMALL: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("humpback_33b_v5e_64", ("Topology.shape='4x4'", "MeshConfig.fsdp=16", "MeshConfig.tensor=1")),
    ("humpback_65b_v5e_256", ("Topology.shape='8x8'", "MeshConfig.fsdp=32", "MeshConfig.tensor=2")),
    ("humpback_65b_v4_128", ("Topology.shape='2x4x4'", "MeshConfig.tensor=1")),
)
TRAINING = "Training: 32 rows of 2,048 tokens a step"
INFERENCE = "Inference: the longest bucket of augmenting"
LOOP = "The whole run: 502,133 segments, two rounds"
REFUSED = "Refused by the compiler, as they must be"
_HEADINGS = (TRAINING, INFERENCE, LOOP, REFUSED)
_MARKS = ("<!-- make tpu-check writes what follows -->", "<!-- until here -->")


def recipes() -> list[str]:
    """Returns the names of the recipes that name a topology."""
    folder = configuration.package_configs() / "recipes"
    return [p.stem for p in sorted(folder.glob("humpback_*.gin")) if "meshes/v" in p.read_text()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles everything, writes the tables, and returns 1 if anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, prog="launch.plan.check")
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--only", default="", help="part of a recipe's name")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(".cache/tpu-check"))
    parser.add_argument("--hours", action="store_true", help="compile nothing")
    options = parser.parse_args(arguments)
    if options.hours:
        _write(options.page, {})
        return 0
    chosen = [name for name in recipes() if options.only in name]
    fitting = [
        row for name in chosen for row in _compile_recipe(name, options.programs, options.cache)
    ]
    refused = [
        (name, *_compile(name, bindings, "train", options.cache))
        for name, bindings in TOO_SMALL
        if options.only in name and "train" in options.programs
    ]
    wrong = [f"{name}: {report.refusal(r, s)}" for name, r, s, _ in fitting if not r.fits]
    wrong += [f"{name} fits {s.topology.describe()}" for name, r, s in refused if r.fits]
    if not options.only:
        _write(options.page, _tables(fitting, refused))
    for sentence in wrong:
        print(f"humpback: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


def _compile_recipe(
    name: str, programs: Sequence[str], cache: pathlib.Path
) -> list[tuple[str, ProgramReport, Settings, Slots | None]]:
    """Returns (recipe, program, settings, of decode the slots that fit) of what a slice runs.

    How many slots fit is computed; where nothing is trained, it is compiled as well.
    """
    configuration.parse([f"recipes/{name}.gin"], ())
    run = [p for p in command.programs_of(settings.read()) if p in programs]
    done = {program: _compile(name, (), program, cache) for program in run}
    if not set(slots.PROGRAMS) <= set(done):
        return [(name, *pair, None) for pair in done.values()]
    plan = done["decode"][1]
    room = slots.estimate(done["decode"][0], done["prefill"][0])
    if not plan.topology.trains:
        files = ((f"recipes/{name}.gin",), (), ())
        room = slots.verify(room, lambda n: command.compile_slots(files, n, plan, str(cache)))
    print(f"{name}{table.slots(room)}\n", flush=True)
    return [
        (name, report, plan, room if report.name == "decode" else None)
        for report, plan in done.values()
    ]


def _compile(
    name: str, bindings: tuple[str, ...], program: str, cache: pathlib.Path
) -> tuple[ProgramReport, Settings]:
    request = worker.Request((f"recipes/{name}.gin",), bindings, (), program, str(cache))
    configuration.parse(request.gin_files, bindings)
    plan = settings.read()
    done = report.evaluate(worker.compile_program(request), plan)
    print(f"{name} on {plan.topology.describe()}{table.program(done, plan)}\n", flush=True)
    return done, plan


def _tables(fitting, refused) -> dict[str, str]:
    """Returns the page's sections, {heading: text}, of which there are rows."""
    versions = fitting[0][1].facts["versions"]
    compiled = f"Compiled with jax {versions['jax']} and libtpu {versions['libtpu']}.\n\n"
    train = [table.train_row(n, r, s) for n, r, s, _ in fitting if r.name == "train"]
    inference = [table.inference_row(*row) for row in fitting if row[1].name != "train"]
    sentences = "\n".join(
        f"- {s.llama.num_parameters:,} parameters: {report.refusal(r, s)}" for _, r, s in refused
    )
    sections = {
        TRAINING: train and compiled + table.markdown(table.TRAIN_COLUMNS, train),
        INFERENCE: inference and compiled + table.markdown(table.INFERENCE_COLUMNS, inference),
        REFUSED: sentences,
    }
    return {heading: text for heading, text in sections.items() if text}


def loop_table(training: str, inference: str) -> str:
    """Returns the table of whole runs from the rows of the other two, "" if there are none."""
    trained, speeds = _figures(training, "chip-hours"), _figures(inference, "tokens/s")
    rows = []
    for recipe in dict.fromkeys(recipe for recipe, _ in speeds):
        prefill, decode = (speeds.get((recipe, program)) for program in ("prefill", "decode"))
        if prefill is None or decode is None:
            continue
        configuration.parse([f"recipes/{recipe}.gin"], ())
        topology, training_hours = configuration.build(Topology), trained.get((recipe, "train"))
        spent = hours.stages(hours.works(), prefill, decode, topology.chips, training_hours)
        rows.append(table.loop_row(recipe, topology, spent))
    return table.markdown(table.LOOP_COLUMNS, rows) if rows else ""


def _figures(text: str, column: str) -> dict[tuple[str, str], float]:
    """Returns a column of a section's table by (recipe, program), without what does not fit."""
    return {
        (row["recipe"], row.get("program", "train")): float(row[column].replace(",", ""))
        for row in table.rows_of(text)
        if row[column] != "-"
    }


def _write(page: pathlib.Path, sections: dict[str, str]) -> None:
    """Puts the sections between the page's two marks; others that stand there are kept."""
    whole = page.read_text()
    if any(whole.count(mark) != 1 for mark in _MARKS):
        raise UserError(f"{page} has not one line each of {' and '.join(_MARKS)}: put them back")
    before, rest = whole.split(_MARKS[0])
    written, after = rest.split(_MARKS[1])
    there = (part.split("\n", 1) for part in written.split("\n## ")[1:])
    merged = {heading: text.strip() for heading, text in there} | sections
    if whole := loop_table(merged.get(TRAINING, ""), merged.get(INFERENCE, "")):
        merged[LOOP] = whole
    text = "\n\n".join(f"## {h}\n\n{merged[h]}" for h in _HEADINGS if h in merged)
    page.write_text(f"{before}{_MARKS[0]}\n\n{text}\n\n{_MARKS[1]}{after}")


if __name__ == "__main__":
    sys.exit(main())

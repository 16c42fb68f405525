"""Every recipe with a topology, compiled: `make tpu-check` writes the tables of docs/plan.md.

    python -m launch.plan.check docs/plan.md            half an hour on two cores
    python -m launch.plan.check docs/plan.md --only 7b  recipes whose name has "7b"

A program that was compiled before, word for word, is taken from --cache.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from humpback_jax.errors import UserError
from launch import configuration
from launch.plan import report, settings, table, worker
from launch.plan.flags import PROGRAMS
from launch.plan.report import ProgramReport
from launch.plan.settings import Settings

# Slices too small for their model, which the compiler must refuse: (recipe, bindings).
TOO_SMALL: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("humpback_33b_v5e_64", ("Topology.shape='4x4'", "MeshConfig.fsdp=16", "MeshConfig.tensor=1")),
    ("humpback_65b_v5e_256", ("Topology.shape='8x8'", "MeshConfig.fsdp=32", "MeshConfig.tensor=2")),
    ("humpback_65b_v4_128", ("Topology.shape='2x4x4'", "MeshConfig.tensor=1")),
)
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
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(".cache/tpu-check"))
    options = parser.parse_args(arguments)
    chosen = [name for name in recipes() if options.only in name]
    fitting = [
        (name, *_compile(name, (), program, options.cache))
        for name in chosen
        for program in PROGRAMS
    ]
    refused = [
        (name, *_compile(name, bindings, "train", options.cache))
        for name, bindings in TOO_SMALL
        if options.only in name
    ]
    wrong = [f"{name}: {report.refusal(r, s)}" for name, r, s in fitting if not r.fits]
    wrong += [f"{name} fits {s.topology.describe()}" for name, r, s in refused if r.fits]
    if not options.only:
        _write(options.page, _tables(fitting, refused))
    for sentence in wrong:
        print(f"humpback: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


def _compile(
    name: str, bindings: tuple[str, ...], program: str, cache: pathlib.Path
) -> tuple[ProgramReport, Settings]:
    request = worker.Request((f"recipes/{name}.gin",), bindings, (), program, str(cache))
    configuration.parse(request.gin_files, bindings)
    plan = settings.read()
    done = report.evaluate(worker.compile_program(request), plan)
    print(f"{name} on {plan.topology.describe()}{table.program(done, plan)}\n", flush=True)
    return done, plan


def _tables(fitting, refused) -> str:
    versions = fitting[0][1].facts["versions"]
    train = [table.train_row(n, r, s) for n, r, s in fitting if r.name == "train"]
    inference = [table.inference_row(n, r, s) for n, r, s in fitting if r.name != "train"]
    sentences = "\n".join(
        f"- {s.llama.num_parameters:,} parameters: {report.refusal(r, s)}" for _, r, s in refused
    )
    return "\n".join(
        (
            f"Compiled with jax {versions['jax']} and libtpu {versions['libtpu']}.",
            "\n## Training: 32 rows of 2,048 tokens a step\n",
            table.markdown(table.TRAIN_COLUMNS, train),
            "\n## Inference: the longest bucket of augmenting\n",
            table.markdown(table.INFERENCE_COLUMNS, inference),
            "\n## Refused by the compiler, as they must be\n",
            sentences,
        )
    )


def _write(page: pathlib.Path, text: str) -> None:
    """Puts the tables between the page's two marks."""
    whole = page.read_text()
    if any(whole.count(mark) != 1 for mark in _MARKS):
        raise UserError(f"{page} has not one line each of {' and '.join(_MARKS)}: put them back")
    before, rest = whole.split(_MARKS[0])
    after = rest.split(_MARKS[1])[1]
    page.write_text(f"{before}{_MARKS[0]}\n\n{text}\n\n{_MARKS[1]}{after}")


if __name__ == "__main__":
    sys.exit(main())

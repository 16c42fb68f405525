"""`humpback ckpt ls | show | stats | diff | verify`: checkpoints looked into without a device."""

import argparse
import dataclasses
import datetime
import fnmatch
import json
import sys
from collections.abc import Iterable, Sequence

from etils import epath

from humpback_jax.checkpoints import layout
from humpback_jax.checkpoints.layout import Leaf, Step
from humpback_jax.errors import UserError
from humpback_jax.train.log import METRICS_NAME, TRAIN, read_metrics

ACTIONS = {
    "ls": "list the checkpoints of a run, a model or a folder of any of Orbax's",
    "show": "the arrays of a checkpoint: shape, type, sharding, chunks; totals by subtree",
    "stats": "root mean square, largest magnitude, NaN and infinities of each array",
    "diff": "what differs between two checkpoints: structure and types, then values",
    "verify": "read every array and compare its checksum with the one at save; 1 if any is wrong",
}
_EVALUATION = "training_eval"


def add_parsers(actions) -> None:
    """Adds the subcommands to what `add_subparsers` gave."""
    for name, text in ACTIONS.items():
        parser = actions.add_parser(name, help=text, description=text)
        parser.add_argument("path", metavar="PATH")
        if name == "diff":
            parser.add_argument("other", metavar="OTHER")
        if name in ("show", "stats", "diff"):
            text = "only arrays whose names match, such as 'params/*'"
            parser.add_argument("--only", default="*", metavar="PATTERN", help=text)
        parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def run(options: argparse.Namespace) -> int:
    """Runs a subcommand; returns the exit code."""
    commands = {"ls": _list, "show": _show, "stats": _stats, "diff": _diff, "verify": _verify}
    return commands[options.action](options)


@dataclasses.dataclass(frozen=True)
class _Listed:
    """A line of `ls`: a checkpoint, and what the logs beside it say of its step."""

    model: str
    step: Step
    loss: float | None
    evaluation: float | None


def _list(options: argparse.Namespace) -> int:
    root = epath.Path(options.path)
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: give a run directory or a model's folder")
    is_step = layout.is_checkpoint(root) and not layout.steps(root)
    top = root.parent if is_step else root
    below = [] if is_step else sorted(path for path in top.iterdir() if path.is_dir())
    folders = [top, *below]
    rows = [row for folder in folders for row in _listed(folder)]
    best = _best(rows)
    rows = [row for row in rows if not is_step or row.step.path.name == root.name]
    if not rows:
        raise UserError(f"{root} holds no checkpoint: give a run directory or a model's folder")
    if options.json:
        _print_json(
            {
                "path": str(row.step.path),
                "step": row.step.step,
                "status": row.step.status,
                "committed": row.step.seconds,
                "bytes": row.step.nbytes,
                "loss": row.loss,
                "evaluation": row.evaluation,
                "best": best.get(row.model) == row.step.step,
            }
            for row in rows
        )
        return 0
    _print_table(
        ("model", "step", "status", "committed", "size", "loss", "held out", ""),
        [
            (
                row.model,
                str(row.step.step),
                row.step.status,
                _time(row.step.seconds),
                _size(row.step.nbytes),
                _number(row.loss),
                _number(row.evaluation),
                "best" if best.get(row.model) == row.step.step else "",
            )
            for row in rows
        ],
        right=(1, 4, 5, 6),
    )
    return 0


def _best(rows: Sequence[_Listed]) -> dict[str, int]:
    """Returns the step of the lowest held-out loss of each model that has one."""
    best: dict[str, tuple[float, int]] = {}
    for row in rows:
        if row.evaluation is not None:
            found = (row.evaluation, row.step.step)
            best[row.model] = min(best.get(row.model, found), found)
    return {model: step for model, (_, step) in best.items()}


def _listed(folder: epath.Path) -> Iterable[_Listed]:
    steps = layout.steps(folder)
    if not steps:
        return
    losses = _by_step(folder, TRAIN)
    tasks = sorted((folder / _EVALUATION).glob(f"*/{METRICS_NAME}"))
    evaluations = _by_step(folder, f"{_EVALUATION}/{tasks[0].parent.name}") if tasks else {}
    for step in steps:
        yield _Listed(folder.name, step, losses.get(step.step), evaluations.get(step.step))


def _by_step(folder: epath.Path, log: str) -> dict[int, float]:
    rows = read_metrics(folder, log)
    return {int(row["step"]): row["loss"] for row in rows if "loss" in row}


def _chosen(path: str, only: str) -> list[Leaf]:
    found = layout.leaves(layout.require_checkpoint(path))
    chosen = [leaf for leaf in found if fnmatch.fnmatchcase(leaf.name, only)]
    if not chosen:
        raise UserError(f"no array of {path} matches '{only}': `humpback ckpt show` lists them all")
    return chosen


def _show(options: argparse.Namespace) -> int:
    leaves = _chosen(options.path, options.only)
    if options.json:
        _print_json(_description(leaf) | {"bytes": leaf.nbytes} for leaf in leaves)
        return 0
    rows = [
        (leaf.name, str(list(leaf.shape)), leaf.dtype, leaf.sharding, str(list(leaf.chunk)),
         _size(leaf.nbytes))
        for leaf in leaves
    ]  # fmt: skip
    _print_table(("array", "shape", "type", "sharding", "chunks", "size"), rows, right=(5,))
    print()
    totals = [(name, f"{count:,}", _size(size)) for name, count, size in _totals(leaves)]
    _print_table(("subtree", "elements", "size"), totals, right=(1, 2))
    return 0


def _totals(leaves: Sequence[Leaf]) -> list[tuple[str, int, int]]:
    """Returns (subtree, elements, bytes) of all subtrees of one and two levels, and of all."""
    totals: dict[str, tuple[int, int]] = {}
    for leaf in leaves:
        parts = leaf.name.split("/")
        for name in ("(all)", *("/".join(parts[:depth]) for depth in (1, 2) if depth < len(parts))):
            count, size = totals.get(name, (0, 0))
            totals[name] = count + leaf.size, size + leaf.nbytes
    return [(name, *totals[name]) for name in sorted(totals)]


def _stats(options: argparse.Namespace) -> int:
    from humpback_jax.checkpoints.statistics import statistics

    rows = []
    for leaf in _chosen(options.path, options.only):
        found = statistics(leaf)
        rows.append((leaf, found))
    if options.json:
        _print_json({"name": leaf.name} | dataclasses.asdict(found) for leaf, found in rows)
    else:
        _print_table(
            ("array", "rms", "largest", "NaN", "infinite"),
            [
                (
                    leaf.name,
                    _number(found.rms),
                    _number(found.largest),
                    str(found.nan),
                    str(found.inf),
                )
                for leaf, found in rows
            ],
            right=(1, 2, 3, 4),
        )
    return 0


def _diff(options: argparse.Namespace) -> int:
    from humpback_jax.checkpoints.statistics import difference

    first = {leaf.name: leaf for leaf in _chosen(options.path, options.only)}
    second = {leaf.name: leaf for leaf in _chosen(options.other, options.only)}
    rows = []
    for name in sorted({*first, *second}):
        a, b = first.get(name), second.get(name)
        if a is None or b is None:
            rows.append((name, f"only in {options.path if b is None else options.other}", None))
        elif a.shape != b.shape:
            rows.append((name, f"{_kind(a)} against {_kind(b)}", None))
        else:
            note = "" if a.dtype == b.dtype else f"{a.dtype} against {b.dtype}"
            rows.append((name, note, difference(a, b)))
    equal = all(not note and found and not found.differing for _, note, found in rows)
    if options.json:
        _print_json(
            {"name": name, "note": note} | (dataclasses.asdict(found) if found else {})
            for name, note, found in rows
        )
    else:
        _print_table(
            ("array", "largest", "mean", "elements", ""),
            [
                (name, _number(f.largest), _number(f.mean), f"{f.differing:,}", note)
                if f
                else (name, "", "", "", note)
                for name, note, f in rows
                if note or (f and f.differing)
            ],
            right=(1, 2, 3),
        )
        print(f"{len(rows)} arrays, {'all equal' if equal else 'those above differ'}")
    return 0 if equal else 1


def _verify(options: argparse.Namespace) -> int:
    from humpback_jax.checkpoints.verification import verify

    path = epath.Path(options.path)
    if layout.status_of(path) != layout.UNCOMMITTED:
        path = layout.require_checkpoint(path)
    findings = list(verify(path))
    if options.json:
        _print_json(dataclasses.asdict(finding) for finding in findings)
    elif findings:
        for finding in findings:
            print(f"{finding.name or path}: {finding.problem}")
    else:
        leaves = layout.leaves(path)
        size = _size(sum(leaf.nbytes for leaf in leaves))
        print(f"{path}: {len(leaves)} arrays, {size}, all as they were saved")
    return 1 if findings else 0


def _description(leaf: Leaf) -> dict:
    fields = ("name", "shape", "dtype", "sharding", "chunk")
    return {field: getattr(leaf, field) for field in fields}


def _kind(leaf: Leaf) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{datetime.datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"


def _size(nbytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.3g} {unit}" if unit != "B" else f"{nbytes:.0f} B"
        nbytes /= 1024
    return f"{nbytes:.3g} TiB"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _print_json(rows: Iterable[dict]) -> None:
    json.dump(list(rows), sys.stdout, indent=1)
    print()


def _print_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> None:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())

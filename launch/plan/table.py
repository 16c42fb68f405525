"""How a plan is printed: aligned text for a terminal, a Markdown table for docs/plan.md."""

import collections
from collections.abc import Mapping, Sequence

from launch.plan.hlo import KINDS
from launch.plan.report import ProgramReport
from launch.plan.settings import Settings
from launch.plan.slots import Slots
from launch.plan.topology import Topology

_WHAT = {
    "train": "training step of {model}",
    "prefill": "prefill",
    "decode": "decode step",
}


def heading(settings: Settings) -> str:
    """Returns what is planned, on what, and how it is compiled."""
    topology = settings.topology
    lines = [
        f"model     {settings.llama.num_parameters:,} parameters",
        f"topology  {topology.describe()}, {topology.chip.hbm_gib:.2f} GiB usable a chip",
    ]
    if topology.compiler_options:
        flags = " ".join(f"--{k}={v}" for k, v in topology.compiler_options.items())
        lines.append(f'compiler  a run sets LIBTPU_INIT_ARGS="{flags}"')
    return "\n".join(lines)


def program(report: ProgramReport, settings: Settings) -> str:
    """Returns the lines about one program."""
    facts = report.facts
    what = _WHAT[report.name].format(model=settings.planned)
    lines = [f"\n{what}: {facts['rows']} rows of {facts['length']} tokens, mesh {_mesh(report)}"]
    verdict = "fits" if report.fits else "DOES NOT FIT"
    share = f"{report.gib:.2f} of {report.usable_gib:.2f} GiB a chip, {report.share:.0%}: {verdict}"
    lines.append(_line("memory", share))
    if report.prediction is None:
        return "\n".join(lines)
    for name, text in [*_traffic(report), *_speed(report)]:
        lines.append(_line(name, text))
    lines += _costs(report)
    return "\n".join(lines)


def slots(room: Slots) -> str:
    """Returns the lines about what a slot takes and how many fit."""
    taken = (
        f"one takes {room.gib_a_chip:.3f} GiB on each of {room.chips} chips, "
        f"{room.gib:.2f} GiB in all"
    )
    how = f"compiled; {room.most + room.step} do not" if room.verified else "computed"
    return "\n".join(
        ("", "slots", _line("memory", taken), _line("most", f"{room.most} fit ({how})"))
    )


def loop(chip_hours: Mapping[str, float], settings: Settings) -> str:
    """Returns the lines about a whole run, stage by stage."""
    price = settings.topology.price_per_chip_hour
    lines = ["", f"whole run, predicted{'chip-hours':>16}" + ("     money" if price else "")]
    for name, hours in [*chip_hours.items(), ("all", sum(chip_hours.values()))]:
        money = f"{hours * price:10,.0f}" if price else ""
        lines.append(f"  {name:18}{hours:16,.1f}{money}")
    return "\n".join(lines)


def _line(name: str, text: str) -> str:
    return f"  {name:12}{text}"


def traffic_by_kind(report: ProgramReport) -> dict[str, tuple[int, float]]:
    """Returns {kind: (count, bytes a chip)} of one run, for the kinds that occur."""
    counts: collections.Counter[str] = collections.Counter()
    sent: collections.Counter[str] = collections.Counter()
    for collective in report.facts.get("collectives", ()):
        counts[collective["kind"]] += collective["count"]
        sent[collective["kind"]] += collective["bytes"]
    return {kind: (counts[kind], sent[kind]) for kind in KINDS if counts[kind]}


def _traffic(report: ProgramReport) -> list[tuple[str, str]]:
    lines = [
        (f"{'' if i else 'traffic'}", f"{count:6,} {kind:19}{_bytes(sent):>9} a chip")
        for i, (kind, (count, sent)) in enumerate(traffic_by_kind(report).items())
    ]
    return lines or [("traffic", "none")]


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def _speed(report: ProgramReport) -> list[tuple[str, str]]:
    assert report.prediction is not None
    p = report.prediction
    parts = f"compute {_seconds(p.compute_seconds)} + links {_seconds(p.link_seconds)}"
    if p.kernel_seconds:
        parts = parts.replace(" +", f", of it kernels {_seconds(p.kernel_seconds)}, +")
    speed = f"{p.tokens_per_second:,.0f} tokens/s"
    lines = [("predicted", f"{_seconds(p.seconds)} ({parts})")]
    if report.name == "decode":
        lines.append(("", f"no less than {_seconds(p.memory_seconds)} to read weights and cache"))
        lines.append(("", f"{speed}, after {_seconds(p.once_seconds)} once a batch"))
    else:
        lines.append(("", f"{speed}, MFU {p.mfu:.0%}"))
    if unknown := report.facts["unknown_kernels"]:
        lines.append(("", f"without {unknown} Pallas kernels whose work is not known"))
    return lines


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.995 else f"{seconds * 1e3:.3g} ms"


def _costs(report: ProgramReport) -> list[str]:
    if not report.trainings:
        return []
    priced = any(t.money for t in report.trainings)
    lines = [
        _line("predicted", f"{'model':10}{'steps':>8}{'chip-hours':>12}" + "     money" * priced)
    ]
    for t in report.trainings:
        money = f"{t.money:10,.0f}" if priced else ""
        lines.append(_line("", f"{t.model:10}{t.steps:8,}{t.chip_hours:12,.1f}{money}"))
    hours, money = (sum(getattr(t, k) for t in report.trainings) for k in ("chip_hours", "money"))
    lines.append(_line("", f"{'all':18}{hours:12,.1f}" + (f"{money:10,.0f}" if priced else "")))
    return lines


TRAIN_COLUMNS = (
    "recipe", "slice", "chips", "mesh", "GiB a chip", "of usable", "all-gather", "reduce-scatter",
    "all-reduce", "compute", "links", "step", "tokens/s", "MFU", "chip-hours",
)  # fmt: skip
INFERENCE_COLUMNS = (
    "recipe", "slice", "program", "mesh", "rows x tokens", "GiB a chip", "of usable", "step",
    "of it kernel", "HBM bound", "times", "tokens/s", "GiB a slot", "most slots",
)  # fmt: skip

LOOP_COLUMNS = (
    "recipe", "slice", "chips", "train", "augment", "a round of curating", "whole run", "hours",
)  # fmt: skip


def loop_row(recipe: str, topology: Topology, chip_hours: Mapping[str, float]) -> list[str]:
    """Returns a recipe's cells of LOOP_COLUMNS; all but the last are chip-hours."""
    cells = [recipe, f"{topology.name} ({topology.shape})", str(topology.chips)]
    whole = sum(chip_hours.values())
    named = [chip_hours.get(name) for name in ("train", "augment", "curate1")]
    cells += ["" if hours is None else f"{hours:,.0f}" for hours in (*named, whole)]
    return [*cells, f"{whole / topology.chips:,.1f}"]


def rows_of(text: str) -> list[dict[str, str]]:
    """Returns the rows of a text's Markdown table, each by its columns; none without a table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    columns, rows = next(iter(cells), []), cells[2:]
    return [dict(zip(columns, row, strict=True)) for row in rows]


def train_row(recipe: str, report: ProgramReport, settings: Settings) -> list[str]:
    """Returns a recipe's cells of TRAIN_COLUMNS; the traffic is GB a chip and step."""
    topology, p = settings.topology, report.prediction
    cells = [recipe, f"{topology.name} ({topology.shape})", str(topology.chips), _mesh(report)]
    cells += _memory_cells(report)
    if p is None:
        return cells + ["-"] * (len(TRAIN_COLUMNS) - len(cells))
    traffic = traffic_by_kind(report)
    for kind in ("all-gather", "reduce-scatter", "all-reduce"):
        cells.append(f"{traffic.get(kind, (0, 0.0))[1] / 1e9:.1f}")
    hours = sum(t.chip_hours for t in report.trainings)
    cells += [f"{p.compute_seconds:.2f} s", f"{p.link_seconds:.2f} s", f"{p.seconds:.2f} s"]
    return [*cells, f"{p.tokens_per_second:,.0f}", f"{p.mfu:.0%}", f"{hours:,.0f}"]


def inference_row(
    recipe: str, report: ProgramReport, settings: Settings, room: Slots | None = None
) -> list[str]:
    """Returns a recipe's cells of INFERENCE_COLUMNS; a slot's are those of the decode step."""
    p, topology = report.prediction, settings.topology
    shape = f"{report.facts['rows']} x {report.facts['length']}"
    name = f"{topology.name} ({topology.shape})"
    cells = [recipe, name, report.name, _mesh(report), shape, *_memory_cells(report)]
    if p is None:
        return cells + ["-"] * (len(INFERENCE_COLUMNS) - len(cells))
    cells.append(_seconds(p.seconds))
    if report.name == "decode":
        cells += [_seconds(p.kernel_seconds), _seconds(p.memory_seconds)]
        cells.append(f"{p.seconds / p.memory_seconds:.2f}")
    else:
        cells += [""] * 3
    cells.append(f"{p.tokens_per_second:,.0f}")
    if room is None:
        return [*cells, "", ""]
    counted = f"{room.most}" if room.verified else f"about {room.most}"
    return [*cells, f"{room.gib_a_chip:.3f} x {room.chips}", counted]


def _memory_cells(report: ProgramReport) -> list[str]:
    share = f"{report.share:.0%}" + ("" if report.fits else ", does not fit")
    return [f"{report.gib:.1f} / {report.usable_gib:.2f}", share]


def _mesh(report: ProgramReport) -> str:
    """Returns "fsdp 32 x tensor 2": the axes that have more than one chip."""
    axes = (f"{name} {n}" for name, n in report.facts["mesh"].items() if n > 1)
    return " x ".join(axes) or "one chip"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table whose columns are aligned in the source as well."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    rule = ["-" * width for width in widths]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(columns), line(rule), *(line(row) for row in rows)])

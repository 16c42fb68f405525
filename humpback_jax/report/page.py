"""The report of a run: one HTML file that needs nothing else.

No font, script or picture is fetched from anywhere. Everything that comes from pages or models is
escaped by the template engine; the only markup let through is the style sheet of this package.
"""

import dataclasses
import datetime
import importlib.metadata
import importlib.resources
import platform
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe
from etils import epath

import humpback_jax
from humpback_jax.report import (
    corpus_profile,
    curves,
    drifts,
    evaluation,
    formats,
    funnel,
    grades,
    lengths,
    loop_picture,
)
from humpback_jax.report.charts import series_of
from humpback_jax.report.sources import RunFiles

_PACKAGES = {
    "jax": "JAX",
    "flax": "Flax",
    "orbax-checkpoint": "Orbax",
    "apache-beam": "Apache Beam",
    "optax": "Optax",
    "seqio": "seqio",
}
# The microworld's groups of questions.
_GROUPS = {
    "web": "what only the web pages say",
    "known": "what the base model knows already",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What a report is of.

    Attributes:
      root: the run directory.
      stages: names of the stages in order, without "report".
      models: the evaluated models.
      iterations: rounds of curating and training.
      config: the operative configuration as a gin file.
    """

    root: epath.Path
    stages: tuple[str, ...]
    models: tuple[str, ...]
    iterations: int
    config: str


@dataclasses.dataclass(frozen=True)
class StageRow:
    """A line of the table of stages; `share` is its part of the time in per cent."""

    name: str
    state: str
    records_in: int | None
    records_out: int | None
    rejected: str
    errors: int | None
    seconds: float | None
    share: float


def render(run: Run, table: Mapping[str, Any]) -> str:
    """Returns the report of a run as one HTML file.

    Args:
      run: what is reported.
      table: its numbers, from `metrics.gather`.

    What the run does not have (labels, questions, arms, stages that have not finished) is left out
    of the page, and the page says so.
    """
    files = RunFiles(run.root, run.stages)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("humpback_jax.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(formats.FILTERS)
    environment.globals.update(
        series_of=lambda model: series_of(model, run.models),
        split_text=formats.split_text,
        percent=formats.percent,
        percent_whole=lambda share: formats.percent(share, 0),
        points=formats.points,
        points_whole=lambda share: formats.signed(100 * share, 0),
        group_names=_GROUPS,
    )
    style = importlib.resources.files("humpback_jax.report").joinpath("templates/page.css")
    return environment.get_template("page.j2").render(
        run=run,
        table=table,
        name=run.root.name or str(run.root),
        style=markupsafe.Markup(style.read_text()),
        finished=_finished(files),
        missing=[(name, files.state(name)) for name in run.stages if not files.is_done(name)],
        stage_rows=_stage_rows(files),
        versions=versions(),
        parameters=_parameters(files),
        **_parts(run, files, table),
    )


def _parts(run: Run, files: RunFiles, table: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the sections of the page show."""
    accuracy = table.get("accuracy", {})
    return {
        "pictures": loop_picture.loop_pictures(files, run.models),
        "findings": evaluation.findings(table),
        "accuracy": evaluation.accuracy_charts(accuracy, run.models),
        "differences": evaluation.difference_charts(table.get("differences", {}), run.models),
        "curation": table.get("curation", {}),
        "backward": table.get("backward"),
        "funnel": funnel.corpus_funnel(files),
        "profile": corpus_profile.corpus_profile(files),
        "seed": files.counts("seed"),
        "augment": files.counts("augment"),
        "lengths": lengths.length_rows(files, run.models),
        "rounds": grades.rounds(files, table.get("curation", {})),
        "drifts": drifts.drifts(files),
        "moved": drifts.most_moved(files),
        "grades": grades.graded_examples(files),
        "curves": curves.curves(files, run.models),
        "samples": evaluation.samples(files, run.models),
    }


def versions() -> list[tuple[str, str]]:
    """Returns (name, version) of this package, Python and what the numbers hang on."""
    found = [("humpback-jax", humpback_jax.__version__), ("Python", platform.python_version())]
    for package, name in _PACKAGES.items():
        try:
            found.append((name, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            found.append((name, "not installed"))
    return found


def _finished(files: RunFiles) -> str:
    times = [s["finished"] for s in files.summaries.values() if "finished" in s]
    if not times:
        return ""
    moment = datetime.datetime.fromtimestamp(max(times), datetime.UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _parameters(files: RunFiles) -> int | None:
    found = (files.parameters(name) for name in files.stages)
    return next((number for number in found if number is not None), None)


def _stage_rows(files: RunFiles) -> list[StageRow]:
    whole = sum(summary["seconds"] for summary in files.summaries.values()) or 1.0
    rows = []
    for name in files.stages:
        counts, summary = files.counts(name), files.summaries.get(name)
        if counts is None or summary is None:
            rows.append(StageRow(name, files.state(name), None, None, "", None, None, 0.0))
            continue
        rejected = ", ".join(
            f"{reason} {formats.count(number)}"
            for reason, number in sorted(counts.rejects.items(), key=lambda item: -item[1])
            if number
        )
        share = round(100 * summary["seconds"] / whole, 2)
        rows.append(
            StageRow(
                name,
                "done",
                counts.records_in,
                counts.records_out,
                rejected,
                counts.errors,
                summary["seconds"],
                share,
            )
        )
    return rows

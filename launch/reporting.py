"""The stage that shows: metrics.json and the report page."""

import json

from humpback_jax import rundir
from humpback_jax.report import metrics, page
from humpback_jax.rundir import Counts, StageDir
from launch import configuration
from launch.context import Context, Outcome


def report(context: Context) -> None:
    """Writes RUN_DIR/metrics.json and RUN_DIR/report/index.html from what the stages left."""
    recipe = context.recipe
    before = [name for name in recipe.stages if name != "report"]

    def work(stage: StageDir) -> Outcome:
        table = metrics.gather(recipe.root, before)
        rundir.write_json(recipe.root / "metrics.json", table)
        run = page.Run(
            root=recipe.root,
            stages=tuple(before),
            models=recipe.evaluated,
            iterations=recipe.iterations,
            config=configuration.config_text(),
        )
        html = page.render(run, table)
        rundir.write_atomic(stage.path / "index.html", html)
        return Outcome(Counts(1, 1), rundir.fingerprint(json.dumps(table["counts"])))

    context.run("report", {}, context.digests(*before), work)

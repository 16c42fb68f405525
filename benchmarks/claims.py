"""The paper's claims, measured in the microworld over several draws: `make claims`.

Each draw has its own web pages, seed pairs and questions, on the packaged base model. Every claim
is a difference between two models on the same questions, pooled over the draws, with a 95 %
interval by the paired bootstrap. Ends with one line of JSON.
"""

import argparse
import json
import math
import pathlib
import sys

import jax
import numpy as np

from humpback_jax.evaluate.microworld import difference
from launch import main

CLAIMS = (
    ("joint over seed only", "M0", "M2"),
    ("joint over seed only, equal steps", "seed_only", "M2"),
    ("M1 over M0", "M0", "M1"),
    ("second iteration helps", "M1", "M2"),
    ("M1 over uncurated, equal size and steps", "uncurated", "M1"),
    ("M2 over uncurated, equal size and steps", "uncurated", "M2"),
    ("joint over augmented only", "augmented_only", "M2"),
    ("A5 over A4", "A4", "A5"),
    ("more curated data helps: 60 to 120", "size_60", "size_120"),
    ("more curated data helps: 120 to 250", "size_120", "M2"),
    ("more curated data helps: 250 to 500", "M2", "size_500"),
    ("more uncurated data helps: 250 to 500", "uncurated", "uncurated_500"),
)
SIZES = ("size_60", "size_120", "M2", "size_500")


def run_draw(draw: int, folder: pathlib.Path, extra: list[str]) -> pathlib.Path:
    """Runs the recipe on one draw and returns its run directory."""
    run_dir = folder / f"draw{draw}"
    flags = [
        "run",
        "--gin_file=recipes/claims.gin",
        f'--gin.RUN_DIR="{run_dir}"',
        f"--gin.WorldConfig.draw={draw}",
        f"--gin.RANDOM_SEED={draw}",
        *extra,
    ]
    if main.main(flags) != 0:
        sys.exit(1)
    return run_dir


def pooled_scores(runs: list[pathlib.Path], group: str) -> dict[str, dict[str, float]]:
    """Returns {model: {draw and question: score}} for the questions of a group ("all" for all)."""
    table: dict[str, dict[str, float]] = {}
    for run_dir in runs:
        lines = (run_dir / "world" / "questions.jsonl").read_text().splitlines()
        groups = {row["question_id"]: row["group"] for row in map(json.loads, lines)}
        results = json.loads((run_dir / "evaluate" / "results.json").read_text())
        for model, accuracy in results["accuracy"].items():
            for key, score in accuracy["scores"].items():
                if group in ("all", groups[key]):
                    table.setdefault(model, {})[f"{run_dir.name} {key}"] = score
    return table


def fit_alpha(scores: dict[str, dict[str, float]], counts: dict[str, float]) -> tuple[float, ...]:
    """Returns alpha of accuracy = alpha ln N + C, with a 95 % interval over questions."""
    keys = sorted(scores[SIZES[0]])
    values = np.asarray([[scores[model][key] for key in keys] for model in SIZES])
    logs = np.log([counts[model] for model in SIZES])
    rng = np.random.default_rng(0)
    draws = [values[:, rng.integers(0, len(keys), len(keys))].mean(axis=1) for _ in range(2000)]
    slopes = [np.polyfit(logs, means, 1)[0] for means in draws]
    return (np.polyfit(logs, values.mean(axis=1), 1)[0], *np.percentile(slopes, (2.5, 97.5)))


def show(runs: list[pathlib.Path]) -> dict:
    """Prints the tables and returns what the last line says."""
    rows = []
    for group in ("all", "web", "known"):
        scores = pooled_scores(runs, group)
        print(f"\nAccuracy, questions: {group}")
        for model, by_key in scores.items():
            mean, low, high = difference(dict.fromkeys(by_key, 0.0), by_key)
            print(f"  {model:16} {mean:.3f}  [{low:.3f}, {high:.3f}]")
        print(f"\nClaims, questions: {group}")
        for claim, before, after in CLAIMS:
            mean, low, high = difference(scores[before], scores[after])
            verdict = "holds" if low > 0 else "reversed" if high < 0 else "not shown"
            print(f"  {claim:42} {mean:+.3f}  [{low:+.3f}, {high:+.3f}]  {verdict}")
            rows.append({"case": f"{claim} ({group})", "difference": mean, "interval": [low, high]})
    counts = {
        model: float(
            np.mean([json.loads((r / model / "stage.json").read_text())["augmented"] for r in runs])
        )
        for model in SIZES
    }
    alpha, low, high = fit_alpha(pooled_scores(runs, "all"), counts)
    print(f"\nScaling: accuracy = alpha ln N + C, alpha = {alpha:.4f}  [{low:.4f}, {high:.4f}]")
    rows.append({"case": "alpha", "value": alpha, "interval": [low, high]})
    return {"bench": "claims", "rows": rows + show_curation(runs), "draws": len(runs)}


def show_curation(runs: list[pathlib.Path]) -> list[dict]:
    """Prints precision, recall and AUC of each iteration over the draws, and returns them."""
    rows = []
    print("\nCuration, mean over draws [lowest, highest]")
    tables = [json.loads((r / "metrics.json").read_text())["curation"] for r in runs]
    for t in tables[0]:
        for field in ("precision", "recall", "base_rate", "auc", "right_instruction"):
            values = [table[t][field] for table in tables if table[t][field] is not None]
            mean = math.fsum(values) / len(values)
            print(f"  iteration {t} {field:18} {mean:.3f}  [{min(values):.3f}, {max(values):.3f}]")
            rows.append({"case": f"curation {t} {field}", "value": mean, "draws": values})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/claims"))
    options, others = parser.parse_known_args()
    finished = [run_draw(draw, options.folder, others) for draw in range(options.draws)]
    summary = show(finished)
    versions = {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    print(json.dumps({**summary, "versions": versions}))

"""The same bytes from every runner: one process, worker processes, and a job service of its own."""

import functools
import pathlib
import subprocess
import sys

import pytest

from beam_pipelines.config import BeamConfig
from beam_pipelines.segment import run_segment
from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.microworld.files import write_world
from humpback_jax.microworld.world import WorldConfig
from humpback_jax.rundir import StageDir

DRIVER = pathlib.Path(__file__).parent / "logged_inference.py"
pytestmark = pytest.mark.slow


def _digest(worker_environment, run_dir, model, engine, *options):
    """Runs the stage and returns the lines that sha256sum would print of its files."""
    command = [sys.executable, str(DRIVER), str(run_dir), str(model), str(run_dir / "log"), engine]
    done = subprocess.run(
        [*command, *options], env=worker_environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stage = run_dir / "augment"
    files = {p.relative_to(stage): p.read_bytes() for p in stage.glob("*/part-*")}
    workers = {line.split()[0] for line in (run_dir / "log").read_text().splitlines()}
    (run_dir / "log").unlink()
    stage.rename(run_dir / f"augment-{engine}")
    return files, workers


def test_every_runner_gives_the_same_bytes(
    run_dir, model_folder, portable_options, worker_environment
):
    digest = functools.partial(_digest, worker_environment)
    expected, _ = digest(run_dir, model_folder, "in_memory")
    assert len([name for name in expected if name.suffix == ".parquet"]) == 6  # with the rejects
    assert digest(run_dir, model_folder, "pod")[0] == expected
    found, models = digest(run_dir, model_folder, "multi_processing")
    assert found == expected
    assert len(models) == 1  # the two workers share one
    found, models = digest(run_dir, model_folder, "PortableRunner", *portable_options)
    assert found == expected
    assert len(models) == 1


def test_segments_are_the_same_bytes_from_every_runner(tmp_path, portable_options):
    """The worker pool is a process that has nothing of the submitter's but its job."""
    config = WorldConfig(segments=60, web_topics=6, known_topics=3, seed_pairs=12, files=3)
    write_world(tmp_path, config)
    filters = SegmentFilters(min_length=100, max_per_site=20, max_segments=40)
    ways = {
        "in_memory": BeamConfig(),
        "multi_processing": BeamConfig(direct_running_mode="multi_processing", num_workers=2),
        "portable": BeamConfig(runner="PortableRunner", options=portable_options),
    }
    found = {}
    for name, beam_config in ways.items():
        run_dir = tmp_path / name
        run_segment(run_dir, f"{tmp_path}/corpus/*.warc.gz", filters, beam_config, 2)
        paths = sorted((run_dir / "segment").glob("*/part-*"))
        found[name] = {str(p.relative_to(run_dir)): p.read_bytes() for p in paths}
        assert 0 < StageDir(run_dir, "segment").counts().records_out <= 40
    assert len(found["in_memory"]) > 10
    assert found["multi_processing"] == found["in_memory"]
    assert found["portable"] == found["in_memory"]

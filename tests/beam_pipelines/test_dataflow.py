"""Both jobs of the segment stage as Dataflow would get them; nothing leaves this machine."""

import pathlib

import pytest

from beam_pipelines.config import BeamConfig
from beam_pipelines.segment import run_segment
from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.microworld.pages import make_warc

pytest.importorskip("apache_beam.io.gcp.gcsfilesystem", reason="needs apache-beam[gcp]")
pytest.importorskip("google.cloud.storage", reason="needs apache-beam[gcp]")

OPTIONS = (
    *("--project=a-project", "--region=us-central1", "--no_auth", "--dry_run=True"),
    *("--temp_location=gs://a-bucket/tmp", "--staging_location=gs://a-bucket/staging"),
    *("--sdk_location=container", "--job_name=segment"),
)


def test_dataflow_takes_the_jobs_and_nothing_is_written(tmp_path, monkeypatch):
    from apache_beam.runners.dataflow import dataflow_runner

    jobs = []
    run = dataflow_runner.DataflowRunner.run_pipeline

    def noted(self, *arguments, **named):
        result = run(self, *arguments, **named)
        jobs.append(result.job)
        return result

    monkeypatch.setattr(dataflow_runner.DataflowRunner, "run_pipeline", noted)
    page = "<h1>Bread</h1><p>Flour and water.</p>"
    (tmp_path / "web.warc.gz").write_bytes(make_warc("web", [("http://a.org/", page)]))
    beam_config = BeamConfig(runner="DataflowRunner", options=OPTIONS)
    filters = SegmentFilters(max_per_site=3, max_segments=10)
    run_segment(tmp_path / "run", str(tmp_path / "web.warc.gz"), filters, beam_config, 2)
    assert not (tmp_path / "run").exists()
    assert [path.name for path in pathlib.Path(tmp_path).iterdir()] == ["web.warc.gz"]
    steps = [str(job.proto_pipeline) for job in jobs]
    assert len(steps) == 2
    assert "Extract" in steps[0]
    assert "Write" in steps[1]
    assert sum(map(len, steps)) < 10 << 20  # a larger graph is refused

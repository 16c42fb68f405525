"""Dataflow's jobs as flags of Beam, and the images of its workers."""

import json
import pathlib
import re

import pytest

from humpback_jax.microworld.pages import make_warc
from launch import configuration
from launch.jobs import images
from launch.jobs.dataflow import Dataflow
from launch.plan.topology import Topology

ROOT = pathlib.Path(__file__).resolve().parents[3]
GIVEN = {
    "name": "hb",
    "project": "a-project",
    "region": "us-central1",
    "temp_location": "gs://a-bucket/tmp",
}
STAGE = ("--gin_file=recipes/quickstart.gin",)


@pytest.fixture(autouse=True)
def _repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def _options(place, command):
    """Returns Beam's flags as the launched subcommand reads them from its gin bindings."""
    from beam_pipelines.config import BeamConfig
    from beam_pipelines.execution import pipeline_options

    (submitted,) = place.commands([command, *STAGE, "--gin.RUN_DIR='gs://b/it''s'"])
    bindings = [a.removeprefix("--gin.") for a in submitted.argv if a.startswith("--gin.")]
    configuration.parse(["recipes/quickstart.gin"], bindings)
    config = configuration.build(BeamConfig)
    assert config.runner == "DataflowRunner"
    assert pipeline_options(config).get_all_options(drop_default=True)["runner"] == config.runner
    return config.options


def test_segmenting_is_a_job_of_cpus():
    options = _options(Dataflow(**GIVEN, machine_type="n2-standard-8", topology=None), "segment")
    assert "--setup_file=./setup.py" in options
    assert "--worker_machine_type=n2-standard-8" in options
    assert "--max_num_workers=10" in options
    assert not any("accelerator" in flag for flag in options)


@pytest.mark.parametrize(
    ("kind", "shape", "accelerator", "machine"),
    [
        ("v5e", "1x1", "tpu-v5-lite-podslice", "ct5lp-hightpu-1t"),
        ("v5e", "2x4", "tpu-v5-lite-podslice", "ct5lp-hightpu-8t"),
        ("v6e", "1x1", "tpu-v6e-slice", "ct6e-standard-1t"),
    ],
)
@pytest.mark.parametrize("command", ["augment", "curate"])
def test_inference_is_a_job_of_tpus(kind, shape, accelerator, machine, command):
    place = Dataflow(**GIVEN, image="image", zone="zone", topology=Topology(kind, shape))
    options = _options(place, command)
    wanted = f"worker_accelerator=type:{accelerator};topology:{shape}"
    assert f"--dataflow_service_options={wanted}" in options
    assert f"--worker_machine_type={machine}" in options
    assert "--sdk_container_image=image" in options
    assert "--number_of_worker_harness_threads=1" in options
    assert not any("setup_file" in flag for flag in options)


def test_dataflow_takes_the_job_of_the_launched_command(tmp_path, monkeypatch, capsys):
    """The launched command itself, with Dataflow's own --dry_run in place of the service."""
    pytest.importorskip("apache_beam.io.gcp.gcsfilesystem", reason="needs apache-beam[gcp]")
    pytest.importorskip("google.cloud.storage", reason="needs apache-beam[gcp]")
    from apache_beam.runners.dataflow import dataflow_runner

    from launch import main

    jobs = []
    run = dataflow_runner.DataflowRunner.run_pipeline

    def noted(self, pipeline, options, *more, **named):
        result = run(self, pipeline, options, *more, **named)
        jobs.append((options.get_all_options(drop_default=True), result.job))
        return result

    monkeypatch.setattr(dataflow_runner.DataflowRunner, "run_pipeline", noted)
    page = "<h1>Bread</h1><p>Flour and water.</p>"
    (tmp_path / "web.warc.gz").write_bytes(make_warc("web", [("http://a.org/", page)]))
    offline = ("--no_auth", "--dry_run=True", "--sdk_location=container")
    place = Dataflow(**GIVEN, image="image", topology=None, options=offline)
    values = {"RUN_DIR": tmp_path / "run", "CORPUS": tmp_path / "web.warc.gz", "SEED": "s"}
    given = [f'--gin.{name}="{value}"' for name, value in values.items()]
    recipe = ("--gin_file=recipes/humpback_7b.gin", *given, '--gin.BASE="b"')
    (command,) = place.commands(["segment", *recipe])
    assert main.main(command.argv[3:]) == 0, capsys.readouterr().err
    assert len(jobs) == 2
    assert all(options["job_name"] == "hb-segment" for options, _ in jobs)
    assert "image" in json.dumps(str(jobs[0][1].proto_pipeline))
    assert "checked, not run" in capsys.readouterr().out


# The images.


def _dockerfile():
    return (ROOT / images.DOCKERFILE).read_text()


def test_every_image_is_a_stage_of_the_dockerfile():
    stages = re.findall(r"^FROM \S+ AS (\w+)$", _dockerfile(), re.MULTILINE)
    for stage in ("gke", "dataflow"):
        (build, push) = images.image_commands("image", stage)
        assert f"--target={stage}" in build.argv
        assert push.argv == ("docker", "push", "image")
        assert stage in stages
    bases = re.findall(r"^FROM (\S+)", _dockerfile(), re.MULTILINE)
    assert all("/" in base or ":" in base or base in stages for base in bases)


def test_the_dockerfile_copies_what_is_there():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", _dockerfile(), re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert all((ROOT / name).exists() for name in names)
    packages = {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()} - {"tests"}
    assert packages - {"benchmarks"} <= set(names)


def test_dataflow_s_image_starts_beam_of_our_version():
    from apache_beam.version import __version__

    text = _dockerfile()
    assert 'ENTRYPOINT ["/opt/apache/beam/boot"]' in text
    assert f"ARG BEAM={__version__}\n" in text

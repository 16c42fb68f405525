"""The JobSet that xpk makes of our command, without a cluster.

goldens/jobset.yaml is what xpk 1.16 writes. Where there is an xpk ($XPK, or one on PATH) it is made
again and compared; REMAKE_GOLDENS=1 writes it anew.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from launch.jobs.xpk import Xpk
from launch.plan.topology import Topology

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "jobset.yaml"
XPK = os.environ.get("XPK") or shutil.which("xpk")
KUBERNETES = "1.33"
STAGE = (
    "train",
    "--gin_file=recipes/humpback_7b_v5e_16.gin",
    '--gin.RUN_DIR="gs://bucket/it\'s $run"',
    "--gin.SegmentFilters.evaluation=['a\\n', \"{b}\"]",
    "--gin.NOTE='two\nlines: größe'",
    "--model=M1",
)
# xpk's own: trailing blanks, keys without a value, long lines, and an indentation of its own.
LINT = """
extends: default
rules:
  braces: disable
  brackets: disable
  comments: disable
  commas: disable
  document-start: disable
  empty-lines: disable
  indentation: disable
  line-length: disable
  trailing-spaces: disable
"""


def _place():
    topology = Topology("v5e", "4x4", slices=2)
    return Xpk("hb", "pod", "project", "us-west4-a", "registry/humpback:1", topology=topology)


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load(GOLDEN.read_text())


@pytest.fixture(scope="module")
def template(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]


@pytest.mark.skipif(not XPK, reason="needs xpk: XPK=.../bin/xpk")
def test_xpk_makes_the_golden_of_our_command(tmp_path):
    (command,) = _place().action("create", STAGE)
    made = tmp_path / "jobset.yaml"
    argv = [XPK, *command.argv[1:], "--dry-run", "--skip-validation"]
    done = subprocess.run(
        [*argv, f"--output-manifest-file={made}"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    if os.environ.get("REMAKE_GOLDENS"):
        GOLDEN.write_text(made.read_text())
    assert made.read_text() == GOLDEN.read_text()


def test_the_jobset_is_that_of_two_slices(jobset, template):
    assert jobset["kind"] == "JobSet"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 100
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 2
    assert template["spec"]["parallelism"] == 4
    pod = template["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 600
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert pod["containers"][0]["image"] == "registry/humpback:1"


def test_a_preemption_restarts_it_and_a_failure_ends_it(template):
    (rule,) = template["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["operator"] == "NotIn"
    assert 42 in rule["onExitCodes"]["values"]
    assert not {1, 2} & set(rule["onExitCodes"]["values"])


def _without_none(value):
    """Returns a manifest as the API server takes it, which drops keys without a value."""
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value


def _job(template):
    head = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice-job"}}
    return _without_none({**head, "spec": template["spec"]})


def test_its_pods_follow_the_schema_of_kubernetes(template):
    validate = pytest.importorskip("kubernetes_validate", reason="comes with the extra dev")
    job = _job(template)
    validate.validate(job, KUBERNETES, strict=True)
    job["spec"]["template"]["spec"]["terminationGrace"] = 1
    with pytest.raises(validate.ValidationError):
        validate.validate(job, KUBERNETES, strict=True)


def test_yamllint_finds_nothing():
    pytest.importorskip("yamllint", reason="comes with the extra dev")
    from yamllint import linter
    from yamllint.config import YamlLintConfig

    config = YamlLintConfig(LINT)
    assert [str(problem) for problem in linter.run(GOLDEN.read_text(), config)] == []
    assert list(linter.run("a: 1\na: 2\n", config))


HUMPBACK = f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
(here / "given.json").write_text(json.dumps([sys.argv[1:], os.environ["LIBTPU_INIT_ARGS"]]))
(here / "ready").touch()
time.sleep(30)
"""


def test_its_container_gives_humpback_our_words_and_the_signal(template, tmp_path):
    """The container's own command, with a humpback that saves and ends with 42."""
    program = tmp_path / "humpback"
    program.write_text(HUMPBACK)
    program.chmod(0o755)
    command = template["spec"]["template"]["spec"]["containers"][0]["command"]
    command[-1] = command[-1].replace("sleep 5", "sleep 0.1")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    container = subprocess.Popen(
        command, env={**os.environ, "PATH": path}, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    container.send_signal(signal.SIGTERM)
    out = container.communicate(timeout=20)[0]
    assert "EXIT_CODE=42" in out
    assert container.returncode == 42
    given, flags = json.loads((tmp_path / "given.json").read_text())
    assert given == [*STAGE, "--distributed"]
    assert "--xla_tpu_enable_async_collective_fusion=true" in flags.split()

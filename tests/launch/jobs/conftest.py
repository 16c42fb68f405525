import os
import shutil
import subprocess
import sys

import pytest

from launch import main

# A run whose files are all in a bucket, and what each place must know besides.
RUN = (
    '--gin.RUN_DIR="gs://bucket/run"',
    '--gin.CORPUS="gs://bucket/web/*.warc.gz"',
    '--gin.SEED="gs://bucket/seed.jsonl"',
    '--gin.BASE="gs://bucket/llama"',
)
BOUND = {
    "local": (),
    "tpu-vm": (
        "--gin.TpuVm.name='hb'",
        "--gin.TpuVm.project='project'",
        "--gin.TpuVm.zone='us-west4-a'",
        "--gin.TpuVm.package='git+https://github.com/me/humpback-jax@v1'",
    ),
    "xpk": (
        "--gin.Xpk.name='hb'",
        "--gin.Xpk.cluster='pod'",
        "--gin.Xpk.project='project'",
        "--gin.Xpk.zone='us-west4-a'",
        "--gin.Xpk.image='us-docker.pkg.dev/project/humpback/gke:1'",
    ),
    "dataflow": (
        "--gin.Dataflow.name='hb'",
        "--gin.Dataflow.project='project'",
        "--gin.Dataflow.region='us-central1'",
        "--gin.Dataflow.temp_location='gs://bucket/tmp'",
    ),
    "flink": ("--gin.Flink.master='flink.example:8081'",),
}
RECIPE = "--gin_file=recipes/humpback_7b_v5e_16.gin"


@pytest.fixture(scope="session")
def arguments():
    """Returns a function that gives the arguments of `humpback launch`, with all a place wants."""

    def given(place, *more, action=(), recipe=RECIPE, stage=("train", "--model=M1")):
        after = ("--", *stage) if stage else ()
        return ["launch", place, *action, recipe, *RUN, *BOUND[place], *more, *after]

    return given


@pytest.fixture(autouse=True)
def _nobody_s_home(tmp_path, monkeypatch):
    """No login, cluster or setting of whoever runs the tests is seen."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "home" / "kubeconfig"))
    monkeypatch.delenv("XLA_FLAGS", raising=False)


@pytest.fixture
def humpback(capsys):
    """Returns a function that runs a command line and returns (exit code, stdout, stderr)."""

    def run(*words):
        try:
            code = main.main(list(words))
        except SystemExit as exit_:  # argparse
            code = exit_.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that is all of PATH, but for the programs of every POSIX machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "sh", "env", "cat", "mkdir", "dirname", "rm", "mv", "sleep", "tail"):
        (folder / name).symlink_to(shutil.which(name))
    for name in ("pkill", "kill"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))

    def add(name, text):
        """Puts a program of Python there."""
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)

    return add


@pytest.fixture(scope="session")
def shellcheck():
    """Returns a function that gives what shellcheck has to say about a script."""
    beside = os.path.dirname(sys.executable)
    path = os.pathsep.join([beside, os.environ.get("PATH", "")])
    program = shutil.which("shellcheck", path=path)
    if program is None:
        pytest.skip("needs shellcheck, which comes with the extra dev")

    def check(text):
        done = subprocess.run(
            [program, "--shell=bash", "-"],
            input=text, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    return check

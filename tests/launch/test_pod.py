"""`humpback augment --engine=pod`: what Beam writes, written by one process or by two."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import pytest

from humpback_jax.records import Candidate, Rating
from humpback_jax.rundir import StageDir
from launch.main import main

DRIVER = pathlib.Path(__file__).parent / "signalled_shards.py"
SHARDS = 16
AUGMENT, CURATE = ["augment"], ["curate", "--iteration=1"]
# More devices than a process of four has, and little to do: these devices share two cores.
SPANNING = ["--gin.MeshConfig.fsdp=8", "--gin.augment/SamplingConfig.max_new_tokens=4"]


def _flags(recipe, run_dir, *more):
    shards = f"--gin.NUM_SHARDS={SHARDS}"
    return [f"--gin_file={recipe}", f'--gin.RUN_DIR="{run_dir}"', shards, *more]


@pytest.fixture(scope="module")
def prepared(tiny_recipe, tmp_path_factory):
    """A run directory whose segments are there, and models that are the base, in Orbax."""
    run_dir = tmp_path_factory.mktemp("prepared") / "run"
    for stage in ("world", "segment", "base"):
        assert main([stage, *_flags(tiny_recipe, run_dir)]) == 0
    for model in ("Myx", "M0"):
        shutil.copytree(run_dir / "base", run_dir / model)
    return run_dir


@pytest.fixture
def copy(prepared, tmp_path):
    """Returns a function that gives a copy of the prepared run directory."""

    def make(name):
        return shutil.copytree(prepared, tmp_path / name)

    return make


def _outputs(run_dir, stage):
    paths = (run_dir / stage).glob("*/part-*")
    files = {str(p.relative_to(run_dir)): p.read_bytes() for p in paths}
    assert len([name for name in files if name.endswith(".done.json")]) == SHARDS
    summary = json.loads((run_dir / stage / "stage.json").read_text())
    return files, summary["counts"], summary["digest"]


@pytest.mark.slow
def test_without_beam_the_bytes_are_the_same(tiny_recipe, copy):
    with_beam, without = copy("beam"), copy("pod")
    for command, stage in ((AUGMENT, "augment"), (CURATE, "curate1")):
        assert main([*command, *_flags(tiny_recipe, with_beam)]) == 0
        assert main([*command, *_flags(tiny_recipe, without, "--engine=pod")]) == 0
        assert _outputs(without, stage) == _outputs(with_beam, stage)


@pytest.mark.slow
def test_either_engine_goes_on_where_the_other_ended(tiny_recipe, copy):
    run_dir = copy("run")
    assert main([*AUGMENT, *_flags(tiny_recipe, run_dir)]) == 0
    expected = _outputs(run_dir, "augment")
    (run_dir / "augment" / "stage.json").unlink()
    for index in (1, 4):
        StageDir(run_dir, "augment").marker(index).unlink()
    assert main([*AUGMENT, *_flags(tiny_recipe, run_dir, "--engine=pod")]) == 0
    assert _outputs(run_dir, "augment") == expected


@pytest.mark.parametrize("command", [["seed"], ["train", "--model=M0"]])
def test_only_inference_has_engines(tiny_recipe, tmp_path, command):
    with pytest.raises(SystemExit) as caught:
        main([*command, *_flags(tiny_recipe, tmp_path, "--engine=pod")])
    assert caught.value.code == 2


def test_an_unknown_engine_is_refused(tiny_recipe, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main([*AUGMENT, *_flags(tiny_recipe, tmp_path, "--engine=spark")])
    assert caught.value.code == 2


# Processes of their own.


def _run(arguments, processes=1, devices=4, signalled=(0, 0), seconds=0.0):
    """Runs `humpback` in one process or several; returns their exit codes and what they said."""
    together = []
    if processes > 1:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{found.getsockname()[1]}"
        together = [f"--coordinator_address={address}", f"--process_count={processes}"]
    flags = f"--xla_force_host_platform_device_count={devices}"
    started = []
    for index in range(processes):
        own = [*together, f"--process_index={index}"] if together else []
        started.append(
            subprocess.Popen(
                [
                    sys.executable, str(DRIVER), str(signalled[index]), str(seconds),
                    *arguments, *own,
                ],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "XLA_FLAGS": flags},
            )
        )  # fmt: skip
    said = []
    try:
        said = [process.communicate(timeout=200) for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], said


@pytest.mark.slow
def test_after_sigterm_the_same_command_does_the_rest(tiny_recipe, copy):
    run_dir, left_alone = copy("run"), copy("alone")
    flags = _flags(tiny_recipe, run_dir, "--engine=pod")
    (code,), ((_, error),) = _run([*AUGMENT, *flags], signalled=[3])
    assert code == 42, error
    assert f"was told to end, 3 of its {SHARDS} shards are done" in error
    assert error.splitlines()[-1].startswith("humpback: stage augment")
    assert StageDir(run_dir, "augment").num_done() == 3
    codes, said = _run([*AUGMENT, *flags])
    assert codes == [0], said
    assert _run([*AUGMENT, *_flags(tiny_recipe, left_alone)])[0] == [0]
    assert _outputs(run_dir, "augment") == _outputs(left_alone, "augment")


@pytest.fixture(scope="module")
def alone(tiny_recipe, prepared):
    """Both stages as Beam does them, in one process of four devices."""
    run_dir = shutil.copytree(prepared, prepared.parent / "alone")
    for command in (AUGMENT, CURATE):
        codes, said = _run([*command, *_flags(tiny_recipe, run_dir)])
        assert codes == [0], said
    return run_dir


@pytest.mark.slow
def test_two_processes_share_out_the_shards(tiny_recipe, copy, alone):
    run_dir = copy("run")
    flags = _flags(tiny_recipe, run_dir, "--engine=pod")
    for command, stage in ((AUGMENT, "augment"), (CURATE, "curate1")):
        codes, said = _run([*command, *flags], processes=2)
        assert codes == [0, 0], said
        assert _outputs(run_dir, stage) == _outputs(alone, stage)
        assert [f"{stage}: " in out for out, _ in said] == [True, False]
    codes, said = _run([*AUGMENT, *flags], processes=2)
    assert codes == [0, 0], said
    assert "done already" in said[0][0]


@pytest.mark.slow
def test_sigterm_of_one_of_two_processes_ends_both(tiny_recipe, copy, alone):
    run_dir = copy("run")
    arguments = [*AUGMENT, *_flags(tiny_recipe, run_dir, "--engine=pod")]
    codes, said = _run(arguments, processes=2, signalled=[0, 1], seconds=0.5)
    assert codes == [42, 42], said
    assert 0 < StageDir(run_dir, "augment").num_done() < SHARDS
    assert not (run_dir / "augment" / "stage.json").exists()
    codes, said = _run(arguments, processes=2)
    assert codes == [0, 0], said
    assert _outputs(run_dir, "augment") == _outputs(alone, "augment")


@pytest.mark.slow
@pytest.mark.parametrize(("failing", "spanning"), [(0, []), (1, []), (1, SPANNING)])
def test_the_others_end_soon_after_one_that_fails(tiny_recipe, copy, failing, spanning):
    """The second waits for the first in a barrier or, with a model on both, in a collective."""
    run_dir = copy("run")
    arguments = [*AUGMENT, *_flags(tiny_recipe, run_dir, "--engine=pod", *spanning)]
    signalled = (-3, 0) if failing == 0 else (0, -3)
    began = time.monotonic()
    codes, said = _run(arguments, processes=2, signalled=signalled)
    assert time.monotonic() - began < 90  # JAX alone waits 100 seconds for a heartbeat
    assert codes == [1, 1], said
    reason = "the disk of this host is broken: mend it"
    ends = [error.strip().splitlines()[-1] for _, error in said]
    assert ends[failing] == f"humpback: {reason}"
    with_it = f"humpback: process {failing} of 2 failed, and this one ended with it: {reason}"
    assert ends[1 - failing] == with_it
    done = StageDir(run_dir, "augment").num_done()
    assert 2 <= done < SHARDS
    if not spanning:
        codes, said = _run(arguments, processes=2)
        assert codes == [0, 0], said
        _outputs(run_dir, "augment")


@pytest.mark.slow
def test_a_model_that_needs_two_processes_works_on_every_shard_in_both(tiny_recipe, copy):
    """What one process with as many devices does; its sums may be added in another order."""
    run_dir, reference = copy("run"), copy("reference")
    for command, stage in ((AUGMENT, "augment"), (CURATE, "curate1")):
        flags = _flags(tiny_recipe, reference, *SPANNING)
        codes, said = _run([*command, *flags], devices=8)
        assert codes == [0], said
        flags = _flags(tiny_recipe, run_dir, "--engine=pod", *SPANNING)
        codes, said = _run([*command, *flags], processes=2)
        assert codes == [0, 0], said
        assert _outputs(run_dir, stage)[1] == _outputs(reference, stage)[1]
    texts, scores = [], []
    for folder in (run_dir, reference):
        texts.append([c.instruction for c in StageDir(folder, "augment").read(Candidate)])
        scores.append([r.score for r in StageDir(folder, "curate1").read(Rating)])
    assert texts[0] == texts[1]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)

"""The same bytes from every runner: one process, worker processes, and a job service of its own."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

DRIVER = pathlib.Path(__file__).parent / "logged_inference.py"
pytestmark = pytest.mark.slow


def _environment():
    """Returns an environment in which the worker pool finds `python`, and workers the driver."""
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join([str(DRIVER.parent), str(DRIVER.parents[2])])
    return {**os.environ, "XLA_FLAGS": "", "PATH": path, "PYTHONPATH": modules}


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    except OSError as error:
        pytest.skip(f"no port can be opened on the loopback interface: {error}")
    finally:
        for each in sockets:
            each.close()


def _wait_for(port, process, log):
    """Returns once something listens on a port; skips where gRPC may not."""
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            said = log.read_text()
            if "bind" in said:
                pytest.skip(f"gRPC cannot open port {port}")
            pytest.fail(said)
        time.sleep(0.1)
    pytest.fail(f"nothing listens on port {port}: {log.read_text()}")


@pytest.fixture
def portable_options(tmp_path):
    """Starts a job service and a worker pool; returns the flags that lead to them."""
    job_port, pool_port = _free_ports(2)
    commands = {
        "jobs": ["portability.local_job_service_main", "--port", str(job_port)],
        "pool": ["worker.worker_pool_main", f"--service_port={pool_port}"],
    }
    processes = []
    try:
        for (name, (module, *flags)), port in zip(
            commands.items(), (job_port, pool_port), strict=True
        ):
            log = tmp_path / name
            with log.open("w") as said:
                command = [sys.executable, "-m", f"apache_beam.runners.{module}", *flags]
                processes.append(
                    subprocess.Popen(command, env=_environment(), stdout=said, stderr=said)
                )
            _wait_for(port, processes[-1], log)
        yield [
            f"--job_endpoint=localhost:{job_port}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool_port}",
        ]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _digest(run_dir, model, engine, *options):
    """Runs the stage and returns the lines that sha256sum would print of its files."""
    command = [sys.executable, str(DRIVER), str(run_dir), str(model), str(run_dir / "log"), engine]
    done = subprocess.run(
        [*command, *options], env=_environment(), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stage = run_dir / "augment"
    files = {p.relative_to(stage): p.read_bytes() for p in stage.glob("*/part-*")}
    workers = {line.split()[0] for line in (run_dir / "log").read_text().splitlines()}
    (run_dir / "log").unlink()
    stage.rename(run_dir / f"augment-{engine}")
    return files, workers


def test_every_runner_gives_the_same_bytes(run_dir, model_folder, portable_options):
    expected, _ = _digest(run_dir, model_folder, "in_memory")
    assert len([name for name in expected if name.suffix == ".parquet"]) == 6  # with the rejects
    assert _digest(run_dir, model_folder, "pod")[0] == expected
    found, models = _digest(run_dir, model_folder, "multi_processing")
    assert found == expected
    assert len(models) == 1  # the two workers share one
    found, models = _digest(run_dir, model_folder, "PortableRunner", *portable_options)
    assert found == expected
    assert len(models) == 1

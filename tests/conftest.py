"""Eight CPU devices, hasty compilation and its cache for all tests; runs before JAX is imported."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEVICES = 8

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Most programs are run a few times: to compile them well takes twice as long as all the rest.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for _folder in ("goldens", "corpora", "fuzz"):
    sys.path.insert(0, str(pathlib.Path(__file__).parent / _folder))

import gin  # noqa: E402
import jax  # noqa: E402


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: of several workers none has a long one left in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _fresh_gin():
    """Gin's configuration is global: no test leaves bindings behind."""
    yield
    gin.clear_config()


@pytest.fixture(scope="module", autouse=True)
def _no_programs_of_before():
    """A compiled program takes up to hundreds of the 65,530 memory maps that a process may have."""
    yield
    jax.clear_caches()


@pytest.fixture
def optimised():
    """Programs are compiled as users have them: for what is claimed of their last bits."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.fixture
def bucket(monkeypatch):
    """Lets gs:// be a store in memory, empty at first, and returns it."""
    from etils.epath import backend, gpath
    from memory_bucket import Bucket

    Bucket.store.clear()
    store = Bucket()
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: store)
    return store


@pytest.fixture
def shared() -> pathlib.Path:
    """Returns the folder of real development data beside the checkout, or skips."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared with real data beside this checkout")
    return folder


# Beam's portable job service.


@pytest.fixture(scope="session")
def worker_environment():
    """Returns an environment in which the worker pool finds `python`, and workers the driver."""
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join([str(ROOT / "tests" / "beam_pipelines"), str(ROOT)])
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


@pytest.fixture(scope="session")
def free_ports():
    return _free_ports


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
def portable_options(tmp_path, worker_environment):
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
                    subprocess.Popen(command, env=worker_environment, stdout=said, stderr=said)
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

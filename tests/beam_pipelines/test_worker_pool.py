import pathlib
import subprocess
import sys
import threading
import time
from concurrent import futures

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

pytestmark = pytest.mark.slow


class TaskManager(beam_fn_api_pb2_grpc.BeamFnControlServicer):
    """The side of a TaskManager that a worker connects to; it gives no work."""

    def __init__(self):
        self.connected, self._left = threading.Event(), threading.Event()
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(self, self.server)
        self.url = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Control(self, request_iterator, context):  # noqa: N802
        self.connected.set()
        self._left.wait()
        return iter(())

    def leave(self):
        self._left.set()
        self.server.stop(0)


@pytest.fixture
def pool(worker_environment, free_ports):
    """A pool as a process of its own; yields (the process, its address)."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "beam_pipelines.worker_pool", f"--port={port}"]
    process = subprocess.Popen(command, env=worker_environment, stderr=subprocess.DEVNULL)
    try:
        yield process, f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _children(pid):
    """Returns the children of all threads of a process."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sorted(child for task in tasks for child in (task / "children").read_text().split())


def _until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_workers_of_one_name_are_several_and_each_ends_with_its_task_manager(pool):
    process, address = pool
    managers = [TaskManager(), TaskManager()]
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(60)
        stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
        for manager in managers:
            request = beam_fn_api_pb2.StartWorkerRequest(worker_id="1-1")
            request.control_endpoint.url = manager.url
            assert stub.StartWorker(request).error == ""
        for manager in managers:
            assert manager.connected.wait(60)
        both = _children(process.pid)
        assert len(both) == 2
        stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"))
        managers[0].leave()
        _until(lambda: len(_children(process.pid)) == 1)
        time.sleep(0.5)
        assert len(_children(process.pid)) == 1  # the other one works on
    left = _children(process.pid)
    process.terminate()  # and a pool that ends takes its workers with it
    assert process.wait(30) == 0
    assert not pathlib.Path(f"/proc/{left[0]}").exists()
    managers[1].leave()


def test_a_port_that_is_taken_is_one_sentence(pool, worker_environment):
    _, address = pool
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(60)
    command = [sys.executable, "-m", "beam_pipelines.worker_pool", f"--port={address[10:]}"]
    done = subprocess.run(
        command, env=worker_environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"worker_pool: the worker pool cannot listen on {address} (")

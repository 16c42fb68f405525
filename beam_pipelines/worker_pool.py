"""The worker pool beside TaskManagers: it starts a Python worker for each that asks for one.

    python -m beam_pipelines.worker_pool --host=127.0.0.1 --port=50001

Beam's own (2.77, apache_beam.runners.worker.worker_pool_main) is for one TaskManager: Flink's all
call their worker "1-1", so that the first to finish has another's worker ended. It also listens on
every network, starts whatever `python` is on PATH, and keeps what workers print in a pipe that
nobody reads, so that one that prints 64 KiB stands still.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent import futures

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.worker import sdk_worker

from humpback_jax.errors import UserError

_THREADS = 8  # that answer TaskManagers, each at once
_PATIENCE = 10.0  # seconds that a worker has to end
_log = logging.getLogger(__name__)


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts workers with this process's own Python; what they print goes where its output goes."""

    def __init__(self):
        self._lock = threading.Lock()
        self._workers: list[subprocess.Popen] = []

    def StartWorker(  # noqa: N802
        self, request: beam_fn_api_pb2.StartWorkerRequest, context: object
    ) -> beam_fn_api_pb2.StartWorkerResponse:
        endpoint = request.control_endpoint.url
        command = [sys.executable, "-m", "beam_pipelines.worker_pool", f"--worker_of={endpoint}"]
        command.append(f"--worker_id={request.worker_id}")
        try:
            worker = subprocess.Popen(command)
        except OSError as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=str(error))
        _log.info("worker %s of %s is process %d", request.worker_id, endpoint, worker.pid)
        with self._lock:
            self._workers.append(worker)
        threading.Thread(target=self._watch, args=(worker,), daemon=True).start()
        return beam_fn_api_pb2.StartWorkerResponse()

    def _watch(self, worker: subprocess.Popen) -> None:
        worker.wait()
        with self._lock:
            self._workers.remove(worker)

    def StopWorker(  # noqa: N802
        self, request: beam_fn_api_pb2.StopWorkerRequest, context: object
    ) -> beam_fn_api_pb2.StopWorkerResponse:
        """Does nothing: the id may be another's, and a worker ends when its TaskManager leaves."""
        return beam_fn_api_pb2.StopWorkerResponse()

    def stop(self) -> None:
        """Ends all workers."""
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.terminate()
        for worker in workers:
            try:
                worker.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def work(endpoint: str, worker_id: str) -> None:
    """Is a worker until the TaskManager at an endpoint ends or leaves it, then ends at once.

    A shard that it works on then is lost; the next run does it again.
    """
    try:
        sdk_worker.SdkHarness(endpoint, worker_id=worker_id).run()
    except grpc.RpcError as error:
        _log.warning("worker %s of %s was left: %s", worker_id, endpoint, error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def serve(host: str, port: int) -> None:
    """Starts workers until this process is told to end (SIGTERM or SIGINT).

    Raises:
      UserError: the port is taken.
    """
    # Without the option two pools would share a port, and nobody would know it.
    server = grpc.server(futures.ThreadPoolExecutor(_THREADS), options=[("grpc.so_reuseport", 0)])
    pool = WorkerPool()
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    try:
        server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise UserError(
            f"the worker pool cannot listen on {host}:{port} ({error}): give another --port"
        ) from error
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server.start()
    _log.info("worker pool at %s:%d, workers are %s", host, port, sys.executable)
    ended.wait()
    server.stop(0)
    pool.stop()


def main() -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="beam_pipelines.worker_pool")
    parser.add_argument("--host", default="127.0.0.1", help="the address that is listened on")
    parser.add_argument("--port", type=int, default=50001)
    parser.add_argument("--worker_of", default="", help=argparse.SUPPRESS)
    parser.add_argument("--worker_id", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    if options.worker_of:
        work(options.worker_of, options.worker_id)
    try:
        serve(options.host, options.port)
    except UserError as error:
        print(f"worker_pool: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

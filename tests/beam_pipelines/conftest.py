import dataclasses
import gzip
import io
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import pytest
import sentencepiece
from flax import linen as nn

from humpback_jax import prompts, records, rundir
from humpback_jax.checkpoints import huggingface
from humpback_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from humpback_jax.models.config import LlamaConfig
from humpback_jax.models.init import init_params
from humpback_jax.records import Segment, Signals, Source
from humpback_jax.rundir import Counts, StageDir

CONFIG = LlamaConfig(
    vocab_size=420, embed_dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    mlp_dim=64, max_length=256, rope_theta=10000.0, norm_eps=1e-5, tie_embeddings=False,
    initializer_range=0.1,
)  # fmt: skip


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> pathlib.Path:
    """A Hugging Face folder with a random model; any of 60 tokens ends what it writes."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((prompts.RATING + prompts.BACKWARD).splitlines()),
        model_writer=tokenizer,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    params = jax.device_get(nn.unbox(init_params(CONFIG, jax.random.key(0))))
    stops = (2, *range(300, 360))
    pieces = SentencePieceTokenizer(tokenizer.getvalue())
    huggingface.write_model(folder, CONFIG, params, stops, pieces)
    return folder


def segment(name: str, text: str) -> Segment:
    source = Source("a.warc.gz", 17, "<urn:uuid:1>")
    signals = Signals(len(text), 0.0, 0.0, 0.0)
    return Segment(name, source, "http://a", "en", ("A", name), name, text, "a", signals)


TEXTS = ("Red cars.", "Tea is a drink made of leaves, and so it is.", "word " * 300, "So?")


@pytest.fixture
def run_dir(tmp_path) -> pathlib.Path:
    """A run directory with a finished stage "segment" of three shards, one text too long each."""
    stage = StageDir(tmp_path, "segment")
    fingerprint = stage.begin({}, {})
    for shard in range(3):
        rows = [segment(f"s{shard}{i}", text) for i, text in enumerate(TEXTS)]
        stage.write_shard(shard, Segment, rows, Counts(len(rows), len(rows)), fingerprint)
    stage.finish(stage.counts(), stage.shards_digest(), 0.0)
    return tmp_path


def outputs(run_dir: pathlib.Path, stage: str) -> dict[str, bytes]:
    """Returns the bytes of a stage's shards and rejects by name."""
    return {
        p.name + p.parent.name: p.read_bytes() for p in run_dir.glob(f"{stage}/*/part-*.parquet")
    }


def add_candidates(run_dir: pathlib.Path) -> None:
    """Writes a finished stage "augment" into a run directory, with one leak in each shard."""
    stage = StageDir(run_dir, "augment")
    fingerprint = stage.begin({}, {})
    for shard in range(3):
        segments = records.read_parquet(Segment, StageDir(run_dir, "segment").shard_path(shard))
        rows = [
            records.Candidate(s.segment_id, "Say it.", s.text, "myx", "greedy", "ok")
            for s in segments
        ]
        rows[0] = dataclasses.replace(rows[0], status="leaked")
        counts = rundir.Counts(4, 3, {"leaked": 1})
        stage.write_shard(shard, records.Candidate, rows, counts, fingerprint)
    stage.finish(stage.counts(), stage.shards_digest(), 0.0)


@pytest.fixture
def rated_run_dir(run_dir) -> pathlib.Path:
    add_candidates(run_dir)
    return run_dir


@pytest.fixture
def read_outputs():
    return outputs


@pytest.fixture(scope="session")
def make_segment():
    return segment


def write_archive(path: pathlib.Path, pages: list[tuple[str, str]]) -> None:
    """Writes a WARC file of (url, html) pages, one gzip member each."""
    members = []
    for number, (url, html) in enumerate(pages):
        block = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{html}".encode()
        head = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\n"
            f"WARC-Record-ID: <urn:{path.name}:{number}>\r\nContent-Length: {len(block)}\r\n\r\n"
        )
        members.append(gzip.compress(head.encode() + block + b"\r\n\r\n", mtime=0))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(members))


@pytest.fixture(scope="session")
def archive():
    return write_archive


@pytest.fixture(scope="session")
def worker_environment():
    """Returns an environment in which the worker pool finds `python`, and workers the driver."""
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    here = pathlib.Path(__file__).parent
    modules = os.pathsep.join([str(here), str(here.parents[1])])
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

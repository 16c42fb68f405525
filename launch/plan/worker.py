"""The child process that compiles one program: settings on stdin, what was measured on stdout.

It is a process of its own since the TPU compiler wants an environment that must stand before JAX
is imported, keeps gigabytes, and may end the process that it runs in.
"""

import dataclasses
import gzip
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from humpback_jax.errors import UsageError, UserError

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    # A program from the cache would leave no text behind.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}
_DUMP = {"xla_dump_hlo_as_text": True, "xla_dump_hlo_pass_re": "spmd-partitioning"}
_HEAP = re.compile(r"^Memory Space: default.*\nTotal bytes: (\d+)", re.MULTILINE)
_OUT_OF_MEMORY = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Request:
    """What to compile: the same gin arguments as the command's, and a program's name.

    `cache` is a folder where what was compiled is kept and found again; "" keeps nothing.
    """

    gin_files: tuple[str, ...]
    bindings: tuple[str, ...]
    search_paths: tuple[str, ...]
    program: str
    cache: str = ""


def compile_program(request: Request) -> dict[str, Any]:
    """Compiles one program in a child process and returns `measure`'s dictionary.

    Raises:
      UserError: libtpu is missing, the configuration is refused, or the compiler fails.
    """
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise UserError(
            "the TPU compiler libtpu is not installed, which compiles the programs of a plan: "
            "pip install 'humpback-jax[tpu-plan]'"
        )
    done = subprocess.run(
        [sys.executable, "-m", "launch.plan.worker"],
        input=json.dumps(dataclasses.asdict(request)),
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise UserError(
            f"compiling {request.program} ended with code {done.returncode} ({said}): see that "
            "libtpu goes with this JAX, as humpback-jax[tpu-plan] asks for it"
        )
    answer = json.loads(lines[-1])
    if "refused" in answer:
        raise UsageError(answer["refused"])
    return answer


def measure(request: Request) -> dict[str, Any]:
    """Returns what compiling shows; it must run in ENVIRONMENT.

    Keys: program, mesh, rows, length, tokens, flops, resident_bytes, slot_bytes, held_bytes,
    versions; then either needed_gib alone, where the program does not fit, or compile_seconds,
    peak_gib, memory (bytes by kind), cycles, once_cycles (what decode does before its loop),
    kernel_flops, unknown_kernels, stated_bytes and stated_flops (of other kernels) and collectives
    (kind, count, bytes, extent).
    """
    import jax

    from launch import configuration
    from launch.plan import programs, settings

    configuration.parse(request.gin_files, request.bindings, request.search_paths)
    plan = settings.read()
    program = programs.lower(request.program, plan)
    facts = {
        "program": request.program,
        "mesh": dict(program.mesh.shape),
        "rows": program.rows,
        "length": program.length,
        "tokens": program.tokens,
        "flops": program.flops,
        "resident_bytes": program.resident_bytes,
        "slot_bytes": program.slot_bytes,
        "held_bytes": program.held_bytes,
        "versions": {"jax": jax.__version__, "libtpu": _libtpu_version()},
    }
    kept = [str(facts["versions"]), plan.topology.describe(), program.lowered.as_text()]
    found = _compile_once(program.lowered, plan.topology.compiler_options, request.cache, kept)
    if "needed_gib" in found:
        return {**facts, "needed_gib": found["needed_gib"]}
    return {**facts, **_counted(found, request.program, list(program.mesh.devices.flat))}


def _counted(found: Mapping[str, Any], name: str, devices: list[Any]) -> dict[str, Any]:
    """Returns what the compiler's texts say of one run, or of one turn of the decode loop."""
    from launch.plan import hlo

    memory = found["memory"]
    partitioned, optimised = hlo.Module(found["partitioned"]), hlo.Module(found["optimised"])
    before, after = (m.open_loop() if name == "decode" else "" for m in (partitioned, optimised))
    cycles, kernels = hlo.estimated_cycles(optimised, after), hlo.kernels(optimised, after)
    return {
        "compile_seconds": found["compile_seconds"],
        # The heap is what the compiler holds against the chip's memory: arguments, outputs that
        # are not arguments, temporaries and what lies unused between them. The code lies beside it.
        "peak_gib": ((found["heap"] or memory["peak"]) + memory["code"]) / 2**30,
        "memory": memory,
        "cycles": cycles,
        "once_cycles": hlo.estimated_cycles(optimised) - cycles,
        "kernel_flops": kernels.flops,
        "unknown_kernels": kernels.unknown,
        "stated_bytes": kernels.stated_bytes,
        "stated_flops": kernels.stated_flops,
        "collectives": [
            {"kind": c.kind, "count": c.count, "bytes": c.bytes, "extent": _extent(c, devices)}
            for c in hlo.collectives(partitioned, before)
        ],
    }


def _compile_once(
    lowered: Any, options: Mapping[str, str], cache: str, key: Sequence[str]
) -> dict[str, Any]:
    """Returns `_compile`'s texts, from the cache folder if the same was compiled before."""
    if not cache:
        return _compile(lowered, options)
    digest = hashlib.sha256("\n".join((*key, repr(sorted(options.items())))).encode()).hexdigest()
    path = pathlib.Path(cache, f"{digest[:16]}.json.gz")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(_compile(lowered, options)).encode()
        path.write_bytes(gzip.compress(content))
    return json.loads(gzip.decompress(path.read_bytes()))


def _compile(lowered: Any, options: Mapping[str, str]) -> dict[str, Any]:
    """Returns {needed_gib}, or {partitioned, optimised, memory, heap, compile_seconds}."""
    import jax

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            compiled = lowered.compile(compiler_options={**options, **_DUMP, "xla_dump_to": folder})
        except jax.errors.JaxRuntimeError as error:
            return {"needed_gib": _needed_gib(error)}
        heap = _HEAP.search(_dumped(folder, "*-memory-usage-report.txt"))
        return {
            "partitioned": _dumped(folder, "*.after_tpu-spmd-partitioning*.txt"),
            "optimised": compiled.as_text(),
            "memory": _memory(compiled.memory_analysis()),
            "heap": int(heap[1]) if heap else 0,
            "compile_seconds": round(time.monotonic() - started, 1),
        }


def _dumped(folder: str, pattern: str) -> str:
    """Returns the text of the largest dumped file of a name: the program's, not a helper's."""
    files = sorted(pathlib.Path(folder).glob(pattern), key=lambda path: path.stat().st_size)
    return files[-1].read_text() if files else ""


def _needed_gib(error: Exception) -> float:
    """Returns the GiB that the compiler says a program needs; re-raises any other failure."""
    found = _OUT_OF_MEMORY.search(str(error))
    if not found:
        raise error
    return float(found[1]) * _UNITS[found[2]] / 2**30


def _memory(analysis: Any) -> dict[str, int]:
    return {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
        "peak": analysis.peak_memory_in_bytes,
        "host": analysis.host_temp_size_in_bytes + analysis.host_argument_size_in_bytes,
    }


def _extent(collective: Any, devices: list[Any]) -> list[int]:
    """Returns over how many coordinates of each torus axis, and slices (last), a group lies."""
    members = [devices[i] for i in collective.group]
    coordinates = [(*d.coords, getattr(d, "slice_index", None) or 0) for d in members]
    return [len(set(along)) for along in zip(*coordinates, strict=True)]


def _libtpu_version() -> str:
    from importlib import metadata

    try:
        return metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return "of TPU_LIBRARY_PATH"


def _main() -> None:
    given = json.load(sys.stdin)
    try:
        answer = measure(Request(**given))
    except UserError as error:
        answer = {"refused": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()

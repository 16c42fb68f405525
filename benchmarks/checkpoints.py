"""What it takes to look into a checkpoint of LLaMA 7B: `make bench-ckpt`.

Makes a checkpoint of a model's size out of zeros, a block at a time: a tree of the same names is
saved by our own code, then each array is written over in its full shape, in the format it has. Each
subcommand of `humpback ckpt` runs in a process of its own; reported are its seconds and the most
memory it held. Whatever the values are, all of it has to be unpacked and summed; but zeros take
next to nothing on the disk, so the disk's own speed is left out. Ends with one line of JSON.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from etils import epath

from humpback_jax.checkpoints import layout, seal
from humpback_jax.checkpoints.orbax import save_params, step_path
from humpback_jax.models.init import abstract_params, flatten
from launch import configuration
from launch.inspection import ACTIONS

CHUNK_BYTES = 64 << 20
DTYPE = np.dtype("bfloat16")


def make_checkpoint(folder: str, abstract: Any) -> epath.Path:
    """Writes a checkpoint of zeros of these shapes; returns its folder."""
    save_params(folder, 0, jax.tree.map(lambda leaf: jnp.zeros(leaf.ndim * (1,), DTYPE), abstract))
    path = step_path(folder, 0)
    shapes = {f"params/{name}": leaf.shape for name, leaf in flatten(abstract).items()}
    for leaf in layout.leaves(path):
        write_zeros(leaf.store, shapes[leaf.name])
    seal.write_seal(path)
    return path


def write_zeros(store: Any, shape: tuple[int, ...]) -> None:
    """Writes an array over by zeros of a shape, chunk by chunk, as a file with chunks in it."""
    chunk = list(shape)
    for axis in range(len(shape)):
        while chunk[axis] > 1 and math.prod(chunk) * DTYPE.itemsize > CHUNK_BYTES:
            chunk[axis] = -(-chunk[axis] // 2)
    metadata = ts.open(store).result().spec().to_json()["metadata"]
    metadata["shape"] = shape
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = chunk
    metadata["codecs"][0]["configuration"]["chunk_shape"] = chunk
    array = ts.open(
        {**store, "metadata": metadata, "store_data_equal_to_fill_value": True},
        create=True,
        delete_existing=True,
    ).result()
    starts = [range(0, size, step) for size, step in zip(shape, chunk, strict=True)]
    for corner in np.ndindex(*map(len, starts)):
        block = tuple(
            slice(r[i], r[i] + step) for r, i, step in zip(starts, corner, chunk, strict=True)
        )
        array[block] = np.zeros((), DTYPE)


# The high-water mark of the process itself; what getrusage says begins with its parent's.
_CHILD = """
import pathlib, re, sys
from launch.main import main
code = main(sys.argv[1:])
status = pathlib.Path("/proc/self/status").read_text()
print(re.search(r"VmHWM:\\s+(\\d+)", status)[1], file=sys.stderr)
sys.exit(code)
"""


def measure(arguments: list[str]) -> dict[str, Any]:
    """Runs `humpback ckpt ARGUMENTS`; returns its seconds and the most MiB it held."""
    command = [sys.executable, "-c", _CHILD, "ckpt", *arguments]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"humpback ckpt {' '.join(arguments)} failed: {done.stdout}{done.stderr}")
    return {"seconds": round(seconds, 2), "mib": int(done.stderr.split()[-1]) // 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="models/llama_7b.gin")
    options = parser.parse_args()
    configuration.parse([options.model], [])
    abstract = abstract_params(configuration.build_llama())
    gib = sum(leaf.size for leaf in jax.tree.leaves(abstract)) * DTYPE.itemsize / 2**30
    with tempfile.TemporaryDirectory() as folder:
        path = str(make_checkpoint(folder, abstract))
        arguments = {name: [name, path] for name in ACTIONS}
        arguments["ls"], arguments["diff"] = ["ls", folder], ["diff", path, path]
        print(f"{options.model}, {gib:.1f} GiB in bfloat16", flush=True)
        rows = {}
        for name in ACTIONS:
            rows[name] = row = measure(arguments[name])
            print(f"{name:8}{row['seconds']:8.2f} s{row['mib']:8} MiB", flush=True)
    print(json.dumps({"model": options.model, "gib": gib, **rows}))


if __name__ == "__main__":
    main()

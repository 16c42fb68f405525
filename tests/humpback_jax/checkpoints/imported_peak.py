"""A process of its own for test_importing.py: imports a folder and prints its peak memory.

The figure is in bytes, beyond what the same process needed for a tiny model before: the libraries,
compiled programs and Orbax's own threads.
"""

import resource
import sys

from humpback_jax.checkpoints import importing
from humpback_jax.partitioning import MeshConfig, make_mesh


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _import(source: str, destination: str) -> None:
    model, tokenizer = importing.open_folder(source)
    importing.import_model(model, tokenizer, destination, make_mesh(MeshConfig(1, -1)))


tiny, source, destination = sys.argv[1:]
_import(tiny, destination + "-tiny")
before = _peak()
_import(source, destination)
print("PEAK", _peak() - before)

"""The name by which a launched subcommand goes on other machines."""

import itertools
import re
from collections.abc import Sequence

from launch.jobs import gin_files


def job_name(humpback: Sequence[str]) -> str:
    """Returns a name of small letters, digits and hyphens: "train-m1", "curate-2"."""
    _, (command, *flags) = gin_files.split(humpback)
    words = [word for flag in flags for word in flag.split("=", 1)]
    values = [b for a, b in itertools.pairwise(words) if a in ("--model", "--iteration")]
    return re.sub("[^a-z0-9]+", "-", "-".join((command, *values)).lower())

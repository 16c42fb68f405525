"""The flags of `humpback plan`, apart from what carries it out: that imports JAX."""

import argparse

PROGRAMS = ("train", "prefill", "decode")
DESCRIPTION = (
    "Compile the training step, prefill and decode ahead of time for the TPU slice that Topology "
    "names, and print memory, traffic, predicted time and cost. No TPU is needed."
)


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own flags to those of gin."""
    parser.add_argument("--only", choices=PROGRAMS, action="append", help="compile this one alone")
    parser.add_argument(
        "--slots",
        action="store_true",
        help="compile decode and prefill for the largest number of slots that fits as well, and "
        "for the next, which does not",
    )
    parser.add_argument("--json", metavar="FILE", default="", help="write the figures here too")

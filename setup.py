"""What Dataflow workers install (--setup_file); the metadata is in pyproject.toml."""

from setuptools import setup

setup()

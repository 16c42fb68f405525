"""The files that the filters of the segment stage read besides the corpus."""

import dataclasses
from collections.abc import Sequence

from beam_pipelines.corpus_files import find_files
from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.errors import UserError


def locate(filters: SegmentFilters) -> SegmentFilters:
    """Returns the filters with the files that their patterns match.

    Raises:
      UserError: a pattern matches no file.
    """
    return dataclasses.replace(
        filters,
        evaluation=_files("evaluation", filters.evaluation),
        blocklist=_files("blocklist", filters.blocklist),
    )


def _files(name: str, patterns: Sequence[str]) -> list[str]:
    try:
        return [file for pattern in patterns for file in find_files(pattern)]
    except UserError as error:
        raise UserError(f"SegmentFilters.{name}: {error}") from error

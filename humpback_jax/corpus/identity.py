"""The keys by which choices over a whole corpus are made: all hang on records alone."""

import functools
import urllib.parse

from humpback_jax import records
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.segments import HeaderNode


def node_id(page: Page, node: HeaderNode) -> str:
    """Returns the id of a header node: the same wherever the archive lies and whoever reads it.

    It hangs on the record's own id, or on the file's name and the offset where there is none; the
    ordinal tells apart equal headers of a page.
    """
    origin = page.source.record_id or f"{page.source.file.rpartition('/')[2]}@{page.source.offset}"
    return records.stable_id(origin, page.url, node.ordinal, *node.path)


@functools.lru_cache(maxsize=64)  # asked for every segment of a page
def site_of(url: str) -> str:
    """Returns the host of a URL without "www.", "" if there is none."""
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return ""
    return host.removeprefix("www.")


def sample_key(seed: int, segment_id: str) -> str:
    """Returns a uniform key: the k segments of the smallest keys are a sample of the corpus."""
    return records.stable_id("sample", seed, segment_id)

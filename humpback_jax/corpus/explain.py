"""What became of a page: its header tree with the fate of each node, for a person to read."""

from collections.abc import Callable, Iterator

from humpback_jax.corpus.filters import SegmentFilters, select_page
from humpback_jax.corpus.html import PageError
from humpback_jax.corpus.language import page_language
from humpback_jax.corpus.page import Page

KEPT = "kept"
_HEADER_CHARS = 80


def undecided(segment_id: str) -> str:
    """Returns the fate of a segment before anything was decided over the whole corpus."""
    del segment_id
    return KEPT


def explain(
    page: Page, filters: SegmentFilters, later: Callable[[str], str] = undecided
) -> Iterator[str]:
    """Yields lines: what the page is, then one for each header with its fate.

    Args:
      page: as it stands in the corpus.
      filters: those of the stage.
      later: segment id -> what the whole corpus decided on a segment that passed the filters of
        its own page ("kept", "duplicate", "site_cap").
    """
    yield page.url
    status = f"HTTP {page.status}, " if page.status else ""
    kind = page.content_type or "no content type"
    yield f"  {_place(page)}: {status}{kind}, {len(page.payload):,} bytes"
    try:
        nodes, (segments, rejected, _) = select_page(page, filters)
    except PageError as rejection:
        yield f"  rejected: {rejection}"
        return
    fates = {node.ordinal: reason for node, reason in rejected}
    kept = iter(segments)
    yield f"  language {page_language(page, nodes)}, {len(nodes)} headers, {len(segments)} kept"
    yield ""
    names = []
    for node in nodes:
        fate = fates.get(node.ordinal)
        if fate is None:
            fate = later(next(kept).segment_id)
        names.append(fate)
    width = max(map(len, names))
    for node, fate in zip(nodes, names, strict=True):
        header = " ".join(node.header.split())[:_HEADER_CHARS] or "(empty)"
        indent = "  " * len(list(node.ancestors()))
        level = f"h{node.level}" if node.level else "page"
        yield f"  {fate:{width}}  {indent}{level} {header} ({node.length:,} characters)"


def _place(page: Page) -> str:
    return f"{page.source.file}@{page.source.offset}"

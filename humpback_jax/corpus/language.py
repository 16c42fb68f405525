"""The language of a page: as the archive declares it, else as detected in its text."""

import unicodedata
from collections.abc import Sequence

from resiliparse.parse.lang import detect_fast

from humpback_jax.corpus.page import Page
from humpback_jax.corpus.segments import HeaderNode

# Enough for the detector, and long pages would otherwise cost more here than in the parser.
_CHARACTERS = 20_000


def page_language(page: Page, nodes: Sequence[HeaderNode]) -> str:
    """Returns the language the archive declares, else the one detected in the page's text."""
    if page.language:
        return page.language.partition("_")[0].partition("-")[0].lower()
    texts, total = [], 0
    for node in nodes:
        own = [part for part in node.parts if isinstance(part, str)]
        texts += own
        total += sum(map(len, own))
        if total > _CHARACTERS:
            break
    text = unicodedata.normalize("NFC", "\n".join(texts)[:_CHARACTERS])
    return detect_fast(text)[0] if text else "unknown"

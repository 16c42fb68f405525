"""The language of a page: as the archive declares it, else as detected in its text.

The detector errs on short texts full of code and names (3 % of English segments), so it is asked
for pages. A segment is looked at for letters of another script alone.
"""

import re
import unicodedata
from collections.abc import Sequence

from resiliparse.parse.lang import detect_fast

from humpback_jax.corpus.page import Page
from humpback_jax.corpus.segments import HeaderNode

# Enough for the detector: with 20,000 one page fewer of 1,752 is taken for another language.
_CHARACTERS = 5_000

# Languages that are written in Latin letters, of those of ClueWeb22 and its like.
LATIN = frozenset(
    ("de", "en", "es", "fr", "it", "nl", "pl", "po", "pt", "sv", "da", "no", "fi", "cs")
)
_LETTER = re.compile(r"[^\W\d_]")
_OTHER_LETTER = re.compile(r"[^\W\d_\u0000-\u024f\u1e00-\u1eff]")


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
    text = "\n".join(texts)[:_CHARACTERS]
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return detect_fast(text)[0] if text else "unknown"


def other_script(text: str) -> float:
    """Returns the share of letters that are not Latin: "Rust: \u30c1\u30e3" -> 2 / 6."""
    others = 0 if text.isascii() else len(_OTHER_LETTER.findall(text))
    return others / len(_LETTER.findall(text)) if others else 0.0

"""Which segments of a corpus are kept: the paper's filters, each with a named reason.

`judge` looks at one header node; `select` applies it to a page and leaves out what stands inside a
kept segment. Duplicates, the cap for each site and sampling need the whole corpus: here are the
keys by which `beam_pipelines.segment` decides them, all of which depend on records alone.
"""

import dataclasses
import hashlib
import re
import unicodedata
import urllib.parse
from collections import Counter
from collections.abc import Sequence

from resiliparse.parse.lang import detect_fast

from humpback_jax import records
from humpback_jax.configurable import configurable
from humpback_jax.corpus.page import MAX_PAGE_BYTES, Page
from humpback_jax.corpus.repetition import repetition
from humpback_jax.corpus.segments import HeaderNode
from humpback_jax.errors import UsageError

# The steps of the funnel in the order in which they are applied, with the reasons of each.
FUNNEL: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("length", ("too_short", "too_long")),
    ("language", ("language",)),
    ("header", ("header_empty", "header_upper", "header_capitals", "header_navigation")),
    ("link density", ("links",)),
    ("repetition", ("repetitive",)),
    ("overlap", ("inside_kept",)),
    ("duplicates", ("duplicate",)),
    ("site cap", ("site_cap",)),
    ("sample", ("not_sampled",)),
)

# Found anywhere in a header, as whole words.
NAVIGATION_WORDS = (
    *("advertisement", "advertisements", "advertising", "sponsored", "forum", "forums"),
    *("quick link", "quick links", "free newsletter", "newsletter", "newsletters", "site map"),
    *("sitemap", "breadcrumb", "breadcrumbs", "sign up", "sign in", "log in", "my account"),
    *("shopping cart", "privacy policy", "cookie policy", "terms of use", "terms of service"),
    *("all rights reserved", "follow us", "contact us", "share this", "leave a reply"),
    *("leave a comment", "post a comment", "recent posts", "recent comments", "related posts"),
    *("related articles", "popular posts", "you may also like", "table of contents"),
    *("download our", "join our", "subscribe"),
)
# Only if they are the whole header, since they are good words inside one ("Binary search").
NAVIGATION_HEADERS = (
    *("about", "about us", "archive", "archives", "blog", "categories", "comments", "contact"),
    *("contents", "copyright", "external links", "further reading", "help", "home"),
    *("index", "links", "login", "menu", "navigation", "news", "pages", "references"),
    *("register", "related", "search", "see also", "share", "tags", "topics"),
)

_WORD = re.compile(r"\w+")
# Enough for the detector, and long pages would otherwise cost more here than in the parser.
_LANGUAGE_CHARS = 20_000


@configurable
@dataclasses.dataclass(frozen=True)
class SegmentFilters:
    """The filters of the segment stage; the paper's section 3.1 where it gives a figure.

    Attributes:
      min_length: fewest characters of a segment (the paper: 600).
      max_length: most characters of a segment (the paper: 3,000).
      language: two-letter code the page must be in, as the archive declares it or as detected
        from its text; "" switches the filter off.
      max_header_length: most characters of a header; longer ones are paragraphs in disguise.
      max_capital_share: most capitals among a header's letters; a header of capitals only is
        always rejected.
      navigation_words: a header with one of these in it, as whole words, is rejected.
      navigation_headers: a header that is one of these is rejected.
      max_link_density: most characters inside links, as a share of the text.
      max_repetition: largest Jaccard similarity of the n-grams of two sentences.
      repetition_ngram: words of an n-gram.
      repetition_min_words: sentences with fewer words are not compared; lists and tables repeat
        short ones with good reason.
      max_per_site: most segments of a site, 0 for no limit.
      max_segments: most segments of the corpus, 0 for no limit; drawn uniformly (the paper:
        502,133).
      seed: another seed draws other segments.
      max_page_bytes: longer pages are not parsed.
    """

    min_length: int = 600
    max_length: int = 3000
    language: str = "en"
    max_header_length: int = 200
    max_capital_share: float = 0.6
    navigation_words: Sequence[str] = NAVIGATION_WORDS
    navigation_headers: Sequence[str] = NAVIGATION_HEADERS
    max_link_density: float = 0.3
    max_repetition: float = 0.7
    repetition_ngram: int = 3
    repetition_min_words: int = 8
    max_per_site: int = 0
    max_segments: int = 0
    seed: int = 0
    max_page_bytes: int = MAX_PAGE_BYTES

    def __post_init__(self):
        for name in ("navigation_words", "navigation_headers"):
            words = getattr(self, name)
            if isinstance(words, str):
                raise UsageError(f"SegmentFilters.{name} is {words!r}: give a list of words")
            # gin binds lists; a tuple keeps the configuration hashable and its fingerprint stable.
            object.__setattr__(self, name, tuple(words))
        for name in ("max_capital_share", "max_link_density", "max_repetition"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"SegmentFilters.{name} is {getattr(self, name)}: give a share between 0 and 1"
                )
        for name in ("min_length", "max_per_site", "max_segments", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"SegmentFilters.{name} is {getattr(self, name)}: give 0 or more")
        if self.max_length < max(self.min_length, 1):
            raise UsageError(
                f"SegmentFilters.max_length is {self.max_length}, below min_length "
                f"{self.min_length}: no segment can pass"
            )
        if self.repetition_ngram < 1 or self.max_page_bytes < 1:
            raise UsageError("SegmentFilters.repetition_ngram and max_page_bytes must be 1 or more")

    def judge_header(self, header: str) -> str:
        """Returns the reason for which a header is rejected, "" if it is not."""
        if not any(c.isalnum() for c in header):
            return "header_empty"
        if sum(map(str.isalpha, header)) > 1:
            if header.isupper():
                return "header_upper"
            if capital_share(header) > self.max_capital_share:
                return "header_capitals"
        words = " ".join(_WORD.findall(header.casefold()))
        if words in self.navigation_headers or len(header) > self.max_header_length:
            return "header_navigation"
        if any(f" {w} " in f" {words} " for w in self.navigation_words):
            return "header_navigation"
        return ""

    def judge(self, node: HeaderNode, language: str) -> tuple[str, records.Signals | None]:
        """Returns (reason, None) for a node that is rejected, ("", signals) for one that is kept.

        The cheap filters come first: the text of a node is put together only for the last.
        """
        if node.length < self.min_length or not node.length:
            return "too_short", None
        if node.length > self.max_length:
            return "too_long", None
        if self.language and language != self.language:
            return "language", None
        if reason := self.judge_header(node.header):
            return reason, None
        link_density = min(1.0, node.link_chars / node.length)
        if link_density > self.max_link_density:
            return "links", None
        similarity = repetition(
            node.text(), self.repetition_ngram, self.repetition_min_words, self.max_repetition
        )
        if similarity > self.max_repetition:
            return "repetitive", None
        share = capital_share(node.header)
        return "", records.Signals(node.length, link_density, share, similarity)


def select(
    page: Page, nodes: Sequence[HeaderNode], filters: SegmentFilters
) -> tuple[list[records.Segment], list[tuple[HeaderNode, str]]]:
    """Returns the kept segments of a page and the rejected nodes with their reasons.

    No text is kept twice: a node that passes the filters is left out ("inside_kept") when a node
    above it passes too.
    """
    language = page_language(page, nodes)
    segments, rejected, kept = [], [], set()
    for node in nodes:  # parents come before their children
        reason, signals = filters.judge(node, language)
        if not reason and any(ancestor in kept for ancestor in node.ancestors()):
            reason = "inside_kept"
        if signals is None or reason:
            rejected.append((node, reason))
        else:
            kept.add(node)
            segments.append(_segment(page, node, language, signals))
    return segments, rejected


def _segment(
    page: Page, node: HeaderNode, language: str, signals: records.Signals
) -> records.Segment:
    return records.Segment(
        segment_id=node_id(page, node),
        source=page.source,
        url=page.url,
        language=language,
        header_path=node.path,
        header=node.header,
        text=node.text(),
        site=site_of(page.url),
        signals=signals,
    )


def node_id(page: Page, node: HeaderNode) -> str:
    """Returns the id of a header node: the same wherever the archive lies and whoever reads it.

    It hangs on the record's own id, or on the file's name and the offset where there is none; the
    ordinal tells apart equal headers of a page.
    """
    origin = page.source.record_id or f"{page.source.file.rpartition('/')[2]}@{page.source.offset}"
    return records.stable_id(origin, page.url, node.ordinal, *node.path)


def page_language(page: Page, nodes: Sequence[HeaderNode]) -> str:
    """Returns the language the archive declares, else the one detected in the page's text."""
    if page.language:
        return page.language.partition("_")[0].partition("-")[0].lower()
    texts, total = [], 0
    for node in nodes:
        own = [part for part in node.parts if isinstance(part, str)]
        texts += own
        total += sum(map(len, own))
        if total > _LANGUAGE_CHARS:
            break
    text = unicodedata.normalize("NFC", "\n".join(texts)[:_LANGUAGE_CHARS])
    return detect_fast(text)[0] if text else "unknown"


def capital_share(header: str) -> float:
    """Returns the share of capitals among the letters: "The SQL way" -> 4 / 9."""
    letters = [c for c in header if c.isalpha()]
    return sum(map(str.isupper, letters)) / len(letters) if letters else 0.0


def site_of(url: str) -> str:
    """Returns the host of a URL without "www.", "" if there is none."""
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return ""
    return host.removeprefix("www.")


def text_digest(text: str) -> str:
    """Returns equal digests for texts that differ in case, white space and punctuation only."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:32]


def sample_key(seed: int, segment_id: str) -> str:
    """Returns a uniform key: the k segments of the smallest keys are a sample of the corpus."""
    return records.stable_id("sample", seed, segment_id)


def funnel(considered: int, rejects: Counter[str]) -> list[tuple[str, int]]:
    """Returns the segments left after each step: [("header nodes", n), ("length", m), ...]."""
    remaining = considered
    steps = [("header nodes", considered)]
    for step, reasons in FUNNEL:
        remaining -= sum(rejects[reason] for reason in reasons)
        steps.append((step, remaining))
    return steps

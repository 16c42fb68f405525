"""Which segments of a corpus are kept: the paper's filters and ours, each with a named reason.

`judge` looks at one header node; `select` applies it to a page and leaves out what stands inside a
kept segment. Duplicates, the cap for each site and sampling need the whole corpus: they are decided
in `beam_pipelines.segment_decide`. docs/corpus.md says why each default is what it is.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from humpback_jax import records
from humpback_jax.configurable import configurable
from humpback_jax.corpus import header_filter
from humpback_jax.corpus.blocklist import Blocklist, load_blocklist
from humpback_jax.corpus.contamination import EvaluationGrams, load_evaluation
from humpback_jax.corpus.header_filter import NAVIGATION_HEADERS, NAVIGATION_WORDS, capital_share
from humpback_jax.corpus.html import PageError
from humpback_jax.corpus.identity import node_id, site_of
from humpback_jax.corpus.language import LATIN, other_script, page_language
from humpback_jax.corpus.near_duplicates import MinHash
from humpback_jax.corpus.page import MAX_PAGE_BYTES, Page
from humpback_jax.corpus.personal_data import DETECTORS
from humpback_jax.corpus.repetition import repetition
from humpback_jax.corpus.segments import HeaderNode, page_headers
from humpback_jax.corpus.words import words
from humpback_jax.errors import UsageError

# The steps of the funnel in the order in which they are applied, with the reasons of each.
FUNNEL: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("length", ("too_short", "too_long")),
    ("language", ("language",)),
    ("header", ("header_empty", "header_upper", "header_capitals", "header_navigation")),
    ("link density", ("links",)),
    ("repetition", ("repetitive",)),
    ("personal data", ("email", "phone", "address")),
    ("contamination", ("contaminated",)),
    ("overlap", ("inside_kept",)),
    ("duplicates", ("duplicate",)),
    ("near duplicates", ("near_duplicate",)),
    ("site cap", ("site_cap",)),
    ("sample", ("not_sampled",)),
)
_SHARES = (
    *("max_capital_share", "max_link_density", "max_repetition", "repetition_similarity"),
    *("max_other_script", "near_threshold"),
)
# Reasons for which `select` rejects a whole page.
PAGE_REASONS = ("blocked",)


@configurable
@dataclasses.dataclass(frozen=True)
class SegmentFilters:
    """The filters of the segment stage; the paper's section 3.1 where it gives a figure.

    Attributes:
      min_length: fewest characters of a segment (the paper: 600).
      max_length: most characters of a segment (the paper: 3,000).
      language: two-letter code the page must be in, as the archive declares it or as detected
        from its text; "" switches the filter off.
      max_other_script: most letters that are not Latin, as a share of a segment's letters, where
        `language` is written in Latin letters: pages in two languages, translations half done.
      reject_upper: reject headers in capitals only, as the paper does.
      max_header_length: most characters of a header; longer ones are paragraphs in disguise.
      max_capital_share: most capitals among a header's letters.
      navigation_words: a header with one of these in it, as whole words, is rejected.
      navigation_headers: a header that is one of these is rejected.
      max_link_density: most characters inside links, as a share of the text.
      max_repetition: most characters in sentences that repeat an earlier one, as a share of the
        text; 0 is the paper's rule, that no sentence does.
      repetition_similarity: a sentence repeats another if the Jaccard similarity of their n-grams
        is larger.
      repetition_ngram: words of an n-gram.
      repetition_min_words: sentences with fewer words are not compared.
      email: "reject" segments with an e-mail address, or "off".
      phone: "reject" segments with a phone number, or "off".
      address: "reject" segments with a postal address, or "off".
      evaluation: files or patterns of evaluation prompts and their references (JSONL, JSON, CSV);
        segments that share an n-gram with them are contaminated.
      evaluation_ngram: words of that n-gram.
      evaluation_min_words: shorter evaluation texts are not looked for; those between this and
        `evaluation_ngram` words are looked for as a whole.
      blocklist: files or patterns of lists of domains and URLs whose pages are not read.
      near_permutations: hash functions by which near duplicates are found, 0 for none.
      near_shingle: words of a shingle, of which near duplicates have most in common.
      near_threshold: least Jaccard similarity of near duplicates.
      max_per_site: most segments of a site, 0 for no limit.
      max_segments: most segments of the corpus, 0 for no limit; drawn uniformly (the paper:
        502,133).
      seed: another seed draws other segments.
      max_page_bytes: longer pages are not parsed.
    """

    min_length: int = 600
    max_length: int = 3000
    language: str = "en"
    max_other_script: float = 0.1
    reject_upper: bool = True
    max_header_length: int = 200
    max_capital_share: float = 0.6
    navigation_words: Sequence[str] = NAVIGATION_WORDS
    navigation_headers: Sequence[str] = NAVIGATION_HEADERS
    max_link_density: float = 0.3
    max_repetition: float = 0.4
    repetition_similarity: float = 0.7
    repetition_ngram: int = 3
    repetition_min_words: int = 3
    email: str = "off"
    phone: str = "off"
    address: str = "off"
    evaluation: Sequence[str] = ()
    evaluation_ngram: int = 13
    evaluation_min_words: int = 8
    blocklist: Sequence[str] = ()
    near_permutations: int = 128
    near_shingle: int = 5
    near_threshold: float = 0.8
    max_per_site: int = 0
    max_segments: int = 0
    seed: int = 0
    max_page_bytes: int = MAX_PAGE_BYTES

    def __post_init__(self):
        for name in ("navigation_words", "navigation_headers", "evaluation", "blocklist"):
            listed = getattr(self, name)
            if isinstance(listed, str):
                raise UsageError(f"SegmentFilters.{name} is {listed!r}: give a list")
            # gin binds lists; a tuple keeps the configuration hashable and its fingerprint stable.
            object.__setattr__(self, name, tuple(listed))
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"SegmentFilters.{name} is {getattr(self, name)}: give a share between 0 and 1"
                )
        for name in ("min_length", "max_per_site", "max_segments", "seed", "near_permutations"):
            if getattr(self, name) < 0:
                raise UsageError(f"SegmentFilters.{name} is {getattr(self, name)}: give 0 or more")
        for name in ("repetition_ngram", "max_page_bytes", "near_shingle", "evaluation_min_words"):
            if getattr(self, name) < 1:
                raise UsageError(f"SegmentFilters.{name} is {getattr(self, name)}: give 1 or more")
        for name in DETECTORS:
            if getattr(self, name) not in ("reject", "off"):
                raise UsageError(
                    f"SegmentFilters.{name} is {getattr(self, name)!r}: give 'reject' or 'off'"
                )
        if self.max_length < max(self.min_length, 1):
            raise UsageError(
                f"SegmentFilters.max_length is {self.max_length}, below min_length "
                f"{self.min_length}: no segment can pass"
            )
        if self.evaluation_ngram < self.evaluation_min_words:
            raise UsageError(
                f"SegmentFilters.evaluation_ngram is {self.evaluation_ngram}, below "
                f"evaluation_min_words {self.evaluation_min_words}: give at least as many"
            )

    @property
    def min_hash(self) -> MinHash | None:
        """How near duplicates are found, None if they are not looked for."""
        if not self.near_permutations:
            return None
        return MinHash(self.near_permutations, self.near_shingle, self.near_threshold)

    def settings(self) -> dict[str, Any]:
        """Returns what decides which segments are kept, but for the contents of the files."""
        plain = dataclasses.asdict(self)
        return {k: v for k, v in plain.items() if k not in ("evaluation", "blocklist")}

    def file_digests(self) -> dict[str, str]:
        """Returns a digest of the contents of the files that are given, and loads them anew."""
        load_evaluation.cache_clear()
        load_blocklist.cache_clear()
        found = {"evaluation": self._evaluation_grams(), "blocklist": self._blocked()}
        return {name: content.digest for name, content in found.items() if content is not None}

    def judge_header(self, header: str) -> str:
        """Returns the reason for which a header is rejected, "" if it is not."""
        return header_filter.judge_header(
            header,
            self.max_header_length,
            self.max_capital_share,
            self.reject_upper,
            self.navigation_words,
            self.navigation_headers,
        )

    def judge(self, node: HeaderNode, language: str) -> tuple[str, records.Signals | None]:
        """Returns (reason, None) for a node that is rejected, ("", signals) for one that is kept.

        The cheap filters come first: the text of a node is put together only for the last.
        """
        if not self.is_length(node.length):
            return "too_short" if node.length <= self.max_length else "too_long", None
        if self.language and language != self.language:
            return "language", None
        # Level 0 is a whole document, which has no header.
        if node.level and (reason := self.judge_header(node.header)):
            return reason, None
        link_density = min(1.0, node.link_chars / node.length)
        if link_density > self.max_link_density:
            return "links", None
        text = node.text()
        if self.language in LATIN and other_script(text) > self.max_other_script:
            return "language", None
        repeated = repetition(
            text, self.repetition_ngram, self.repetition_min_words, self.repetition_similarity
        )
        if repeated > self.max_repetition:
            return "repetitive", None
        if reason := self._judge_text(text):
            return reason, None
        share = capital_share(node.header)
        return "", records.Signals(node.length, link_density, share, repeated)

    def is_length(self, length: int) -> bool:
        """Returns whether a segment of so many characters is neither too short nor too long."""
        return max(self.min_length, 1) <= length <= self.max_length

    def _judge_text(self, text: str) -> str:
        for name, is_in in DETECTORS.items():
            if getattr(self, name) == "reject" and is_in(text):
                return name
        grams = self._evaluation_grams()
        return "contaminated" if grams is not None and grams.is_in(words(text)) else ""

    def _evaluation_grams(self) -> EvaluationGrams | None:
        if not self.evaluation:
            return None
        files = tuple(self.evaluation)
        return load_evaluation(files, self.evaluation_ngram, self.evaluation_min_words)

    def _blocked(self) -> Blocklist | None:
        return load_blocklist(tuple(self.blocklist)) if self.blocklist else None

    def check_url(self, url: str) -> None:
        """Raises PageError if the page's URL or its domain is blocked."""
        blocked = self._blocked()
        if blocked is not None and url in blocked:
            raise PageError("blocked", "the URL or its domain is in the blocklist")


def select_page(page: Page, filters: SegmentFilters) -> "tuple[list[HeaderNode], Selection]":
    """Returns a page's headers and what the filters made of them.

    Raises:
      PageError: the page is blocked, cannot be parsed or has no header.
    """
    filters.check_url(page.url)
    nodes = page_headers(page, filters.max_page_bytes)
    return nodes, select(page, nodes, filters)


class Selection(NamedTuple):
    """What the filters made of a page.

    Attributes:
      segments: the kept ones.
      rejected: the other nodes with their reasons.
      language: of the page, "" if no node has the right length, so that it was not looked for.
    """

    segments: list[records.Segment]
    rejected: list[tuple[HeaderNode, str]]
    language: str


def select(page: Page, nodes: Sequence[HeaderNode], filters: SegmentFilters) -> Selection:
    """Returns the kept segments of a page and the rejected nodes with their reasons.

    No text is kept twice: a node that passes the filters is left out ("inside_kept") when a node
    above it passes too.

    """
    # Most pages have no node of the right length, and their language need not be known.
    judged = any(filters.is_length(node.length) for node in nodes)
    language = page_language(page, nodes) if judged else ""
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
    return Selection(segments, rejected, language)


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


def funnel(considered: int, rejects: Counter[str]) -> list[tuple[str, int]]:
    """Returns the segments left after each step: [("header nodes", n), ("length", m), ...]."""
    remaining = considered
    steps = [("header nodes", considered)]
    for step, reasons in FUNNEL:
        remaining -= sum(rejects[reason] for reason in reasons)
        steps.append((step, remaining))
    return steps

"""Headers that promise no text worth an instruction: empty, shouted, navigation."""

import functools
import re
from collections.abc import Sequence

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


def judge_header(
    header: str,
    max_length: int,
    max_capital_share: float,
    reject_upper: bool,
    navigation_words: Sequence[str],
    navigation_headers: Sequence[str],
) -> str:
    """Returns the reason for which a header is rejected, "" if it is not.

    Args:
      header: on one line.
      max_length: most characters; longer ones are paragraphs in disguise.
      max_capital_share: most capitals among its letters, if it has others too.
      reject_upper: it is not to be in capitals only.
      navigation_words: none of these is to be in it, as whole words.
      navigation_headers: it is to be none of these.
    """
    if not any(map(str.isalnum, header)):
        return "header_empty"
    if sum(map(str.isalpha, header)) > 1:
        share = capital_share(header)
        if share == 1 and reject_upper:
            return "header_upper"
        if max_capital_share < share < 1:
            return "header_capitals"
    words = " ".join(_WORD.findall(header.casefold()))
    if words in navigation_headers or len(header) > max_length:
        return "header_navigation"
    return "header_navigation" if _any_of(tuple(navigation_words)).search(words) else ""


@functools.lru_cache(maxsize=4)
def _any_of(phrases: tuple[str, ...]) -> re.Pattern:
    """Returns what finds one of the phrases between spaces; of none it finds nothing."""
    return re.compile(
        rf"(?<!\S)(?:{'|'.join(map(re.escape, phrases))})(?!\S)" if phrases else "(?!)"
    )


def capital_share(header: str) -> float:
    """Returns the share of capitals among the letters: "The SQL way" -> 4 / 9."""
    letters = [c for c in header if c.isalpha()]
    return sum(map(str.isupper, letters)) / len(letters) if letters else 0.0

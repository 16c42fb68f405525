"""Texts whose prompt the engine has no room for: rejected, or on request cut at their end."""

import dataclasses
from collections.abc import Callable

from humpback_jax.configurable import configurable

_FIRST = 1024  # characters that are tried first, so that no long page is tokenized as a whole


@configurable
@dataclasses.dataclass(frozen=True)
class LongTextConfig:
    """What becomes of a text whose prompt is too long.

    Attributes:
      truncate: cut the text to its beginning, so that its prompt has room; else its record is
        rejected as "too_long". The template stays whole, and so does the text in the record.
    """

    truncate: bool = False


def beginning(text: str, fits: Callable[[str], bool]) -> str:
    """Returns about the longest beginning of a text that fits, "" if none does.

    It ends with a word where one ends in its last tenth.

    Args:
      text: to be cut.
      fits: says of a beginning whether its prompt has room; shorter ones do where longer ones do.
    """
    low, high = 0, _FIRST
    while high < len(text) and fits(text[:high]):
        low, high = high, 2 * high
    high = min(high, len(text) + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(text[:middle]) else (low, middle)
    if low == len(text):
        return text
    cut = text[:low]
    words = cut.rstrip() if text[low : low + 1].isspace() else cut.rpartition(" ")[0].rstrip()
    return words if len(words) >= 0.9 * low and fits(words) else cut


def too_long(tokens: int, most: int) -> str:
    """Returns what the record of a prompt says for which there is no room."""
    return f"its prompt of {tokens} tokens is longer than the {most} there is room for"

"""Narrows a page's markup to the main content that ClueWeb22 names (VDOM-Primary).

ClueWeb22 numbers the elements of a page as its browser laid them out (`data-dcnode-id`) and lists
those whose own text is the main content. Text that stands beside elements is in a span of its own.
"""

import re

from humpback_jax.corpus.elements import HEADERS, KINDS, VOID_NAMES, Kind, UnescapedError

_TAG = re.compile(r"(<(?:!--(?:[^>]*+>(?<!-->))*+)?[^>]*+>)")
_NUMBER = re.compile(r" data-dcnode-id=\"(\d{1,9})\"")
_ROLE = ' role="heading"'


def narrow(markup: str, primary: frozenset[int]) -> str:
    """Returns the markup without the text of elements that are not primary.

    Tags stay, so that headers keep their place, and so does the text of headers.

    Args:
      markup: as `html.body_markup` returns it.
      primary: numbers of the elements whose own text is kept.

    Raises:
      UnescapedError: the markup cannot be read.
    """
    parts = _TAG.split(markup)
    kept = [False]  # for each open element: whether its own text is kept
    headers = [False]  # and whether it is in a header
    for place, tag in enumerate(parts):
        if place % 2 == 0:
            if tag and not (kept[-1] or headers[-1]):
                parts[place] = " "
        elif tag.startswith("</"):
            kept.pop()
            headers.pop()
        elif tag[1] not in "!?":
            name = tag[1:-1].partition(" ")[0]
            if KINDS.get(name) == Kind.UNESCAPED:
                raise UnescapedError
            if name not in VOID_NAMES:
                number = _NUMBER.search(tag)
                kept.append(number is not None and int(number[1]) in primary)
                headers.append(headers[-1] or name in HEADERS or _ROLE in tag)
    return "".join(parts)

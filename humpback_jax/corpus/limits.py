"""What a page may hold if parsing it is to end soon.

The parser takes time that grows with the square of the depth of nested blocks and of the attributes
of a tag, and its tree may be far larger than the page where formatting elements stay open. Pages
that would hold it up are found by counting in their bytes, which costs next to nothing.
"""

import re

import numpy as np

# 100,000 nested div take 9 seconds, 10,000 take 0.1; real pages stay below 100.
MAX_DEPTH = 5000
# A second of work; articles have 11 in 1,000 bytes, documentation has 30.
MAX_TAGS = 200_000
# 40,000 take 2.7 seconds, 5,000 take 0.04.
MAX_ATTRIBUTES = 10_000
# Elements that the parser opens again in every block that follows, times the tags of the page.
MAX_REOPENED = 1_000_000

_DEEP_TAGS = (
    *(b"div", b"ul", b"ol", b"dl", b"section", b"article", b"blockquote", b"main", b"center"),
    *(b"details", b"figure", b"fieldset", b"menu", b"pre", b"form", b"address", b"summary"),
)
# Without attributes, at most three of a kind are opened again.
_FORMATTING = re.compile(
    rb"<(/?)(b|big|code|em|font|i|s|small|strike|strong|tt|u)(?=([\s/])|>)", re.IGNORECASE
)
_LONG_TAG = 1 << 16
_QUOTED = re.compile(rb"\"[^\"]*\"|'[^']*'")


def excess(payload: bytes, max_depth: int) -> tuple[str, str] | None:
    """Returns (reason, detail) for which a page must not be parsed, None if it may be."""
    tags, closing = _tags(payload)
    unclosed = tags - 2 * closing
    if unclosed > max_depth:
        depth = _unclosed_blocks(payload)
        if depth > max_depth:
            return "too_deep", f"about {depth} nested elements, more than {max_depth}"
    if tags > MAX_TAGS:
        return "too_large", f"about {tags} tags, more than {MAX_TAGS}"
    if unclosed * tags > MAX_REOPENED:
        reopened = _unclosed_formatting(payload) * tags
        if reopened > MAX_REOPENED:
            return "too_deep", f"up to {reopened} elements that are opened again"
    attributes = _most_attributes(payload)
    if attributes > MAX_ATTRIBUTES:
        return "too_large", f"a tag of {attributes} attributes, more than {MAX_ATTRIBUTES}"
    return None


def _tags(payload: bytes) -> tuple[int, int]:
    """Returns how many "<" there are, and how many of them in "</"."""
    # Six times as fast as bytes.count, which goes from hit to hit.
    octets = np.frombuffer(payload, np.uint8)
    starts = octets == ord("<")
    closing = starts[:-1] & (octets[1:] == ord("/"))
    return int(np.count_nonzero(starts)), int(np.count_nonzero(closing))


def _unclosed_blocks(payload: bytes) -> int:
    payload = payload.lower()
    opened = sum(payload.count(b"<" + tag) for tag in _DEEP_TAGS)
    return opened - sum(payload.count(b"</" + tag) for tag in _DEEP_TAGS)


def _unclosed_formatting(payload: bytes) -> int:
    unclosed: dict[bytes, int] = {}
    for closing, name, attributes in _FORMATTING.findall(payload):
        if closing or attributes:
            name = name.lower()
            unclosed[name] = max(unclosed.get(name, 0) + (-1 if closing else 1), 0)
    return sum(unclosed.values())


def _most_attributes(payload: bytes) -> int:
    """Returns about how many attributes the tag with the most has; 0 if no tag is long."""
    # A long tag has a whole step without its end in it.
    step = _LONG_TAG // 2
    places = range(0, len(payload) - step, step)
    if all(payload.find(b">", place, place + step) >= 0 for place in places):
        return 0
    most = 0
    for tag in re.findall(rb"<[a-zA-Z][^>]{%d,}+" % step, payload):
        most = max(most, len(_QUOTED.sub(b"", tag).replace(b"/", b" ").split()))
    return most

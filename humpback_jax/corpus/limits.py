"""What a page may hold if parsing it is to end soon.

The parser takes time that grows with the square of the depth of nested blocks and of the attributes
of a tag, and its tree may be far larger than the page where formatting elements stay open. Pages
that would hold it up are found by counting in their bytes, which costs next to nothing; the few
that have very many tags, or leave many open, are followed tag by tag.
"""

import re
from collections import Counter

import numpy as np

# 100,000 nested div take 9 seconds, 10,000 take 0.1; real pages stay below 100.
MAX_DEPTH = 5000
# A second of work; articles have 11 in 1,000 bytes, documentation has 30.
MAX_TAGS = 200_000
# 40,000 take 2.7 seconds, 5,000 take 0.04.
MAX_ATTRIBUTES = 10_000
# Elements that the parser opens again in every block that follows them, over the whole page.
MAX_REOPENED = 500_000

# A page of fewer tags, or of fewer left open, is parsed soon whatever they are.
_FEW_TAGS, _FEW_OPEN = 20_000, 1000
_TAG = re.compile(rb"<(/?)([a-zA-Z][a-zA-Z0-9]{0,15})(?=([\s/])|>)")
_VOID = frozenset(
    b"area base basefont bgsound br col embed frame hr img input keygen link meta param source"
    b" track wbr".split()
)
# A start tag of these closes the one before, so a list of them is not deep; each is taken to be
# closed by the next of its group.
_CLOSES_ITSELF = {
    **dict.fromkeys((b"p", b"li", b"option", b"tr", b"a", b"nobr"), b""),
    **dict.fromkeys((b"dt", b"dd"), b"dt"),
    **dict.fromkeys((b"td", b"th"), b"td"),
    **dict.fromkeys((b"tbody", b"thead", b"tfoot"), b"tbody"),
    **dict.fromkeys((b"rp", b"rt"), b"rt"),
}
_FORMATTING = frozenset(b"a b big code em font i nobr s small strike strong tt u".split())
# Without attributes, at most three of a kind are opened again.
_MOST_ALIKE = 3
_FAR = 64  # how many open elements are looked at for one that a start tag closes
_LONG_TAG = 1 << 16
_QUOTED = re.compile(rb"\"[^\"]*\"|'[^']*'")


def excess(payload: bytes) -> tuple[str, str] | None:
    """Returns (reason, detail) for which a page must not be parsed, None if it may be."""
    tags, closing = _tags(payload)
    attributes = _most_attributes(payload)
    if attributes > MAX_ATTRIBUTES:
        return "too_large", f"a tag of {attributes} attributes, more than {MAX_ATTRIBUTES}"
    if tags <= _FEW_OPEN or (tags <= _FEW_TAGS and tags - 2 * closing <= _FEW_OPEN):
        return None
    if found := _scan(payload):
        return found
    if tags > MAX_TAGS:
        return "too_large", f"about {tags} tags, more than {MAX_TAGS}"
    return None


def _tags(payload: bytes) -> tuple[int, int]:
    """Returns how many "<" there are, and how many of them in "</"."""
    # Six times as fast as bytes.count, which goes from hit to hit.
    octets = np.frombuffer(payload, np.uint8)
    starts = octets == ord("<")
    closing = starts[:-1] & (octets[1:] == ord("/"))
    return int(np.count_nonzero(starts)), int(np.count_nonzero(closing))


def _scan(payload: bytes) -> tuple[str, str] | None:
    """Follows the tags roughly as a parser does: an end tag closes what is open, or nothing."""
    stack: list[bytes] = []
    open_now: Counter[bytes] = Counter()
    active: Counter[bytes] = Counter()  # formatting elements without an end tag
    formatting = reopened = 0
    for match in _TAG.finditer(payload):
        name = match[2].lower()
        if name in _VOID:
            continue
        name = _CLOSES_ITSELF.get(name) or name
        is_formatting = name in _FORMATTING
        if match[1]:
            if is_formatting and active[name]:
                active[name] -= 1
                formatting -= 1
            if open_now[name]:
                _pop(stack, open_now, name)
            continue
        if name in _CLOSES_ITSELF and open_now[name] and _is_near(stack, name):
            _pop(stack, open_now, name)
        if not is_formatting:
            reopened += formatting
            if reopened > MAX_REOPENED:
                return "too_deep", f"more than {MAX_REOPENED} elements that are opened again"
        elif match[3] or active[name] < _MOST_ALIKE:
            active[name] += 1
            formatting += 1
        stack.append(name)
        open_now[name] += 1
        if len(stack) > MAX_DEPTH:
            return "too_deep", f"more than {MAX_DEPTH} elements open at once"
    return None


def _pop(stack: list[bytes], open_now: Counter[bytes], name: bytes) -> None:
    """Closes the innermost element of a name, and all in it."""
    while (found := stack.pop()) != name:
        open_now[found] -= 1
    open_now[name] -= 1


def _is_near(stack: list[bytes], name: bytes) -> bool:
    """Returns whether an element of a name is open, and nothing in it that would keep it so."""
    for found in stack[: -_FAR - 1 : -1]:
        if found == name:
            return True
        if found not in _FORMATTING and found not in _CLOSES_ITSELF:
            return False
    return False


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

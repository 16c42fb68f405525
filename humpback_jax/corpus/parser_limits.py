"""Pages that would hold an HTML parser up for seconds: found before they are parsed.

The parser (lexbor) is quadratic in three things that no honest page has much of: nested elements
(100,000 take 9 s), attributes of one element (50,000 take 2.5 s), and formatting elements left
open, which every block after them opens anew, as the HTML standard wants it. A page of few tags
can do no harm, so nearly all are let through by counting "<" and "</"; the others are scanned.
"""

import re
from collections import Counter

# Elements open at once. 10,000 take 0.1 s; real pages stay below 100.
MAX_DEPTH = 5000
MAX_ATTRIBUTES = 10_000
# Formatting elements opened anew, over the whole page; the parser makes some 5 million a second.
_MAX_REOPENED = 1_000_000

# Fewer tags than the first, fewer left open than the second, and nothing takes long.
_FEW_TAGS, _FEW_OPEN = 20_000, 1000
_LONG_TAG = 50_000
_TAG = re.compile(rb"<(/?)([a-zA-Z][a-zA-Z0-9]{0,15})")
_LONG = re.compile(rb"<[a-zA-Z][^>]{%d}[^>]*" % _LONG_TAG)
_ATTRIBUTE = re.compile(
    rb"[^\s\"'=<>/]+(?:\s{0,99}=\s{0,99}(?:\"[^\"]*\"|'[^']*'|[^\s\"'>]+))?", re.DOTALL
)
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


def excess(payload: bytes) -> tuple[str, str] | None:
    """Returns what a page has too much of, None for nearly all pages.

    Args:
      payload: HTML in an encoding that has ASCII in it.

    Returns:
      (reason, detail): "too_deep" or "too_many_attributes", and what there is to see.
    """
    if len(payload) > 2 * _LONG_TAG:
        for match in _LONG.finditer(payload):
            count = sum(1 for _ in _ATTRIBUTE.finditer(match[0]))
            if count > MAX_ATTRIBUTES:
                return "too_many_attributes", f"{count} attributes of one element"
    tags = payload.count(b"<")
    if tags <= _FEW_OPEN or (tags <= _FEW_TAGS and tags - 2 * payload.count(b"</") <= _FEW_OPEN):
        return None
    return _scan(payload)


def _scan(payload: bytes) -> tuple[str, str] | None:
    """Follows the tags as a parser would, roughly: which elements are open, and how many."""
    open_now: Counter[bytes] = Counter()
    depth = formatting = reopened = 0
    for match in _TAG.finditer(payload):
        name = match[2].lower()
        if name in _VOID:
            continue
        name = _CLOSES_ITSELF.get(name) or name
        if match[1]:
            if open_now[name]:
                open_now[name] -= 1
                depth -= 1
                formatting -= name in _FORMATTING
            continue
        if name not in _FORMATTING:
            reopened += formatting
        if open_now[name] and name in _CLOSES_ITSELF:
            continue
        formatting += name in _FORMATTING
        open_now[name] += 1
        depth += 1
        if depth > MAX_DEPTH:
            return "too_deep", f"more than {MAX_DEPTH} elements open at once"
        if reopened > _MAX_REOPENED:
            return "too_deep", f"{formatting} formatting elements open before many blocks"
    return None

"""The header tree of a page: every header, with the text under it in document order.

On real pages 43 % of the headers have no text among their following siblings, so the page is
walked in document order and a header collects whatever comes until the next header of its level:

    <h1>Bread</h1> <p>One.</p> <h3>Flour</h3> <p>Two.</p> <h2>Yeast</h2> <p>Three.</p>

gives Bread ["One.", Flour ["Two."], Yeast ["Three."]]: a skipped level is just a child. Leaving an
<article>, <section>, table cell and their like restores the header that was open on entry; a <div>
never closes anything. Text before the first header belongs to no segment.
"""

import dataclasses
import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from humpback_jax.corpus.html import PageError, parse_page
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.text_layout import (
    BREAK,
    CELL,
    ITEM,
    JOINT,
    PARAGRAPH,
    ROW,
    TABLE,
    VERBATIM_SPACE,
    lay_out,
    lay_out_line,
    verbatim,
)

_EMPTY_LINES = re.compile(r"\n\s*\n")

# aria-level may be any number; the bound keeps the tree shallow.
_MAX_LEVEL = 9

_SKIPPED, _PLAIN, _INLINE, _LINK, _CODE, _PRE, _LINE, _BREAK, _BLOCK = range(9)
_SCOPE, _HEADER, _LIST, _ITEM, _TABLE, _ROW, _CELL = range(9, 16)

_KINDS: dict[str | None, int] = {
    **dict.fromkeys(("div", "dt", "dd", "legend", "option", "caption", "thead", "tbody"), _LINE),
    **dict.fromkeys(("header", "hgroup", "form", "fieldset", "address", "figcaption"), _LINE),
    **dict.fromkeys(("summary", "center", "body", "search"), _LINE),
    **dict.fromkeys(("p", "dl", "hr"), _BLOCK),
    **dict.fromkeys(("article", "section", "main", "details", "figure", "blockquote"), _SCOPE),
    **dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6"), _HEADER),
    **dict.fromkeys(("ul", "ol", "menu"), _LIST),
    **dict.fromkeys(("td", "th"), _CELL),
    **dict.fromkeys(("span", "label", "time", "small"), _INLINE),
    **dict.fromkeys(("code", "kbd", "samp", "tt"), _CODE),
    **{"li": _ITEM, "tr": _ROW, "a": _LINK, "pre": _PRE, "br": _BREAK},
    **{"table": _TABLE, None: _SKIPPED},  # no name: a processing instruction such as <?php ?>
    **dict.fromkeys(("-comment", "!doctype", "head", "script", "style", "noscript"), _SKIPPED),
    **dict.fromkeys(("template", "svg", "math", "iframe", "object", "canvas"), _SKIPPED),
    **dict.fromkeys(("audio", "video", "button", "input", "select", "textarea"), _SKIPPED),
    **dict.fromkeys(("dialog", "nav", "aside", "footer"), _SKIPPED),
}


@dataclasses.dataclass(eq=False)
class HeaderNode:
    """A header and what stands under it, in document order.

    Attributes:
      level: 1 to 6, up to 9 for role=heading; 0 for a whole document without headers.
      ordinal: its place among the headers of the page, from 0.
      header: the header's own text, on one line.
      parts: blocks of text and child headers, in document order.
      length: characters of `text()`.
      link_chars: how many of them are the text of links.
    """

    level: int
    ordinal: int
    parent: "HeaderNode | None"
    header: str = ""
    parts: "list[str | HeaderNode]" = dataclasses.field(default_factory=list)
    length: int = 0
    link_chars: int = 0

    def text(self) -> str:
        """Returns the segment's text: its body, and the headers and bodies of its children."""
        return "\n\n".join(self._blocks())

    def _blocks(self) -> Iterator[str]:
        for part in self.parts:
            if isinstance(part, str):
                yield part
            else:
                if part.header:
                    yield part.header
                yield from part._blocks()

    def ancestors(self) -> "Iterator[HeaderNode]":
        """Yields the parent, its parent, and so on."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    @property
    def path(self) -> tuple[str, ...]:
        """The headers from the outermost one down to this one."""
        return (*reversed([node.header for node in self.ancestors()]), self.header)


def page_headers(page: Page, max_bytes: int) -> list[HeaderNode]:
    """Returns the headers of a page in document order, at least one.

    Raises:
      PageError: the page has no header outside navigation, or cannot be parsed.
    """
    if page.is_text:
        return [_whole_document(page, max_bytes)]
    nodes = header_nodes(parse_page(page, max_bytes))
    if not nodes:
        raise PageError("no_header", "no header outside navigation and hidden parts")
    return nodes


def _whole_document(page: Page, max_bytes: int) -> HeaderNode:
    """Returns one node of level 0 with the paragraphs of a page that is text."""
    if len(page.payload) > max_bytes:
        raise PageError("too_large", f"more than {max_bytes} bytes")
    text = page.payload.decode("utf-8", "replace").replace("\r\n", "\n")
    blocks = [block.strip() for block in _EMPTY_LINES.split(text) if block.strip()]
    if not blocks:
        raise PageError("empty", "the page holds no text")
    length = sum(map(len, blocks)) + 2 * (len(blocks) - 1)
    return HeaderNode(0, 0, None, parts=[*blocks], length=length)


def header_nodes(tree: LexborHTMLParser) -> list[HeaderNode]:
    """Returns the header tree of a parsed, pruned page as a list in document order."""
    body = tree.body
    if body is None or tree.css_first("h1,h2,h3,h4,h5,h6,[role=heading]") is None:
        return []
    nodes = _Walk(tree).run(body)
    for node in reversed(nodes):  # children before parents
        blocks = 0
        for part in node.parts:
            if isinstance(part, str):
                node.length += len(part)
                blocks += 1
            else:
                node.length += part.length + len(part.header)
                node.link_chars += part.link_chars
                blocks += bool(part.header) + bool(part.length)
        node.length += 2 * max(blocks - 1, 0)
    return nodes


class _Walk:
    """One pass over a page, entering and leaving elements without recursion.

    Asking an element for its attributes is what costs most, so only lists are asked, and the
    elements with role=heading are looked up beforehand.
    """

    def __init__(self, tree: LexborHTMLParser):
        self.nodes: list[HeaderNode] = []
        self._open: HeaderNode | None = None
        self._pieces: list[str] = []
        self._in_header = False
        self._links = 0
        self._verbatim = 0  # inside <pre>
        self._code = 0
        self._special_text = 0  # depth of links and <pre>, where text is not taken as it is
        self._scopes: list[HeaderNode | None] = []
        self._lists: list[int | None] = []  # the next number, None for bullets
        self._row_is_empty = True
        self._roles = {n.mem_id: _aria_level(n) for n in tree.css("[role=heading]")}
        plain = tree.css("h1[role],h2[role],h3[role],h4[role],h5[role],h6[role]")
        self._no_headers = {n.mem_id for n in plain if n.attributes.get("role") != "heading"}

    def run(self, body: LexborNode) -> list[HeaderNode]:
        """Walks the page and returns its headers in document order."""
        # Text, plain elements and <span> are most of a page, so they are handled here; all else
        # goes to _enter and _leave.
        kinds, roles, pieces = _KINDS, self._roles, self._pieces
        stack: list[tuple[LexborNode, int]] = [(body, _LINE)]
        after_inline = False
        node = body.first_child
        while True:
            while node is not None:
                tag = node.tag
                if tag == "-text":
                    after_inline = False
                    if self._special_text:
                        self._text(node.text_content or "")
                    else:
                        pieces.append(node.text_content or "")
                    node = node.next
                    continue
                kind = kinds.get(tag, _PLAIN)
                if kind == _SKIPPED:
                    node = node.next
                    continue
                if roles and node.mem_id in roles:
                    kind = _HEADER
                if after_inline and kind in (_INLINE, _LINK) and not self._code:
                    pieces.append(JOINT)
                if kind > _INLINE:
                    kind = self._enter(node, tag, kind)
                stack.append((node, kind))
                node = node.first_child
            node, kind = stack.pop()
            if not stack:
                self._flush()
                return self.nodes
            after_inline = kind in (_INLINE, _LINK)
            if kind > _INLINE:
                self._leave(kind)
            node = node.next

    def _text(self, text: str) -> None:
        """Notes text inside a link or <pre>."""
        self._pieces.append(verbatim(text) if self._verbatim else text)
        if self._links and not self._in_header and self._open is not None:
            self._open.link_chars += len(text.strip())

    def _enter(self, node: LexborNode, tag: str | None, kind: int) -> int:
        """Notes the start of an element; returns the kind to leave it as."""
        pieces = self._pieces
        if kind == _LINK:
            self._links += 1
            self._special_text += 1
        elif kind == _HEADER:
            return self._enter_header(node, tag)
        elif kind in (_LINE, _BREAK):
            pieces.append(BREAK)
        elif kind == _BLOCK:
            pieces.append(PARAGRAPH)
        elif kind == _TABLE:
            pieces.append(TABLE)
        elif kind in (_PRE, _CODE):
            self._code += 1
            if kind == _PRE:
                self._verbatim += 1
                self._special_text += 1
                pieces.append(PARAGRAPH)
        elif kind in (_LIST, _ITEM):
            self._enter_list(node, tag, kind)
        elif kind == _ROW:
            pieces.append(BREAK)
            self._row_is_empty = True
        elif kind in (_SCOPE, _CELL):
            self._scopes.append(self._open)
            is_first = kind == _CELL and self._row_is_empty
            pieces.append(PARAGRAPH if kind == _SCOPE else BREAK if is_first else CELL)
            self._row_is_empty = False
        return kind

    def _leave(self, kind: int) -> None:
        pieces = self._pieces
        if kind == _LINK:
            self._links -= 1
            self._special_text -= 1
        elif kind == _HEADER:
            assert self._open is not None
            self._open.header = lay_out_line(pieces)
            pieces.clear()
            self._in_header = False
        elif kind == _LINE:
            pieces.append(BREAK)
        elif kind == _BLOCK:
            pieces.append(PARAGRAPH)
        elif kind == _TABLE:
            pieces.append(TABLE)
        elif kind == _ROW:
            pieces.append(ROW)
        elif kind in (_PRE, _CODE):
            self._code -= 1
            if kind == _PRE:
                self._verbatim -= 1
                self._special_text -= 1
                pieces[-1] = pieces[-1].rstrip(VERBATIM_SPACE)
                pieces.append(PARAGRAPH)
        elif kind == _ITEM:
            if pieces and pieces[-1] == ITEM:  # an empty item leaves no marker
                del pieces[-2:]
            pieces.append(BREAK)
        elif kind == _LIST:
            self._lists.pop()
            pieces.append(BREAK if self._lists else PARAGRAPH)
        elif kind in (_SCOPE, _CELL):
            pieces.append(PARAGRAPH if kind == _SCOPE else BREAK)
            self._restore(self._scopes.pop())
            self._row_is_empty = False

    def _enter_header(self, node: LexborNode, tag: str | None) -> int:
        if self._in_header or (self._no_headers and node.mem_id in self._no_headers):
            self._pieces.append(BREAK)
            return _LINE
        level = self._roles.get(node.mem_id) or int((tag or "h2")[1:])
        self._flush()
        parent = self._open
        while parent is not None and parent.level >= level:
            parent = parent.parent
        self._open = HeaderNode(level, len(self.nodes), parent)
        if parent is not None:
            parent.parts.append(self._open)
        self.nodes.append(self._open)
        self._in_header = True
        return _HEADER

    def _enter_list(self, node: LexborNode, tag: str | None, kind: int) -> None:
        if kind == _LIST:
            self._pieces.append(BREAK if self._lists else PARAGRAPH)
            self._lists.append(_first_number(node) if tag == "ol" else None)
            return
        number = self._lists[-1] if self._lists else None
        if number is not None:
            self._lists[-1] = number + 1
        indent = "  " * (len(self._lists) - 1)
        marker = "-" if number is None else f"{number}."
        self._pieces.extend((BREAK, verbatim(indent + marker), ITEM))

    def _restore(self, node: HeaderNode | None) -> None:
        if node is not self._open and not self._in_header:
            self._flush()
            self._open = node

    def _flush(self) -> None:
        if self._open is not None and self._pieces:
            text = lay_out(self._pieces)
            if text:
                self._open.parts.append(text)
        self._pieces.clear()


def _aria_level(node: LexborNode) -> int:
    tag = node.tag or ""
    if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
        return int(tag[1])
    level = node.attributes.get("aria-level") or "2"
    return min(max(int(level), 1), _MAX_LEVEL) if level.strip().isdecimal() else 2


def _first_number(node: LexborNode) -> int:
    start = (node.attributes.get("start") or "1").strip()
    return int(start) if start.isdecimal() and len(start) < 7 else 1

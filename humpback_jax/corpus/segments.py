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

from humpback_jax.corpus.elements import (
    HEADERS,
    KINDS,
    Attributes,
    Kind,
    Token,
    UnescapedError,
    skip_element,
    tokens,
    unescape,
)
from humpback_jax.corpus.html import PageError, body_markup
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.primary import narrow
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
# Of list items; without a bound a page of nested lists would take a thousand times its size.
_MAX_INDENT = 20
# The mark that an element leaves where it begins, and but for void ones where it ends.
_MARKS = {
    **dict.fromkeys((Kind.LINE, Kind.VOID_LINE), BREAK),
    **dict.fromkeys((Kind.BLOCK, Kind.VOID_BLOCK), PARAGRAPH),
    Kind.TABLE: TABLE,
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
    try:
        nodes = _narrowed_nodes(page, body_markup(page, max_bytes))
    except UnescapedError:
        nodes = _narrowed_nodes(page, body_markup(page, max_bytes, escape_all=True))
    if not nodes:
        raise PageError("no_header", "no header outside navigation and hidden parts")
    return nodes


def _narrowed_nodes(page: Page, markup: str) -> list[HeaderNode]:
    if page.primary is None:
        return header_nodes(markup)
    return header_nodes(narrow(markup, page.primary), leave_out_empty=True)


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


def header_nodes(markup: str, leave_out_empty: bool = False) -> list[HeaderNode]:
    """Returns the header tree of a page's markup as a list in document order.

    Args:
      markup: as `html.body_markup` returns it.
      leave_out_empty: headers without any text under them are no part of the header above them,
        as where a page was narrowed; they are in the list all the same.

    Raises:
      UnescapedError: the markup cannot be read.
    """
    nodes = _Walk().run(markup)
    for node in reversed(nodes):  # children before parents
        if leave_out_empty:
            node.parts = [part for part in node.parts if isinstance(part, str) or part.length]
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
    """One pass over a page's tags, without recursion."""

    def __init__(self):
        self.nodes: list[HeaderNode] = []
        self._open: HeaderNode | None = None
        self._pieces: list[str] = []  # marks, and text as it stands in the markup
        self._in_header = False
        self._verbatim = 0  # depth of <pre>
        self._verbatim_from = 0  # the outermost one's first piece
        self._scopes: list[HeaderNode | None] = []
        self._lists: list[int | None] = []  # the next number, None for bullets
        self._row_is_empty = True
        self._attributes: dict[str, Attributes] = {}  # those read so far

    def run(self, markup: str) -> list[HeaderNode]:
        """Walks the page and returns its headers in document order."""
        # Text, links, and elements that leave marks or nothing are most of a page, so they are
        # handled here; all else goes to _enter and _leave.
        link, plain, code, pre = Kind.LINK, Kind.PLAIN, Kind.CODE, Kind.PRE
        pieces, kinds, marks = self._pieces, KINDS, _MARKS
        stack: list[int] = []
        links = codes = 0
        after_inline = False
        following = tokens(markup)
        next(following, None)  # <body>
        for text, name, attributes in following:
            if text:
                after_inline = False
                pieces.append(text)
                if links and not self._in_header and self._open is not None:
                    self._open.link_chars += len(unescape(text).strip())
            if name is None:
                if attributes is not None:  # a comment
                    continue
                if not stack:  # </body>
                    break
                kind = stack.pop()
                after_inline = kind < plain
                if kind > code:
                    codes -= kind == pre
                    self._leave(kind)
                elif kind > plain:
                    if kind == code:
                        codes -= 1
                    else:
                        pieces.append(marks[kind])
                elif kind == link:
                    links -= 1
                continue
            kind = self._read(attributes).kind(name) if attributes else kinds.get(name, plain)
            if kind < plain:
                if after_inline and not codes:
                    pieces.append(JOINT)
                links += kind == link
            elif kind < code:
                if kind > plain:
                    pieces.append(marks[kind])
            elif kind == code:
                codes += 1
            elif kind < Kind.SKIPPED:
                codes += kind == pre
                kind = self._enter(name, attributes or "", kind)
            else:
                after_inline = self._pass_over(kind, following) and after_inline
                continue
            stack.append(kind)
        self._flush()
        return self.nodes

    def _read(self, attributes: str) -> Attributes:
        known = self._attributes.get(attributes)
        if known is None:
            known = self._attributes[attributes] = Attributes(attributes)
        return known

    def _pass_over(self, kind: int, following: Iterator[Token]) -> bool:
        """Takes an element that is skipped or void; returns whether it counts for nothing."""
        if kind == Kind.UNESCAPED:
            raise UnescapedError
        if kind == Kind.SKIPPED:
            skip_element(following)
        elif kind in _MARKS:
            self._pieces.append(_MARKS[kind])
        return kind in (Kind.SKIPPED, Kind.VOID_SKIPPED)

    def _enter(self, name: str, attributes: str, kind: int) -> int:
        """Notes the start of an element; returns the kind to leave it as."""
        pieces = self._pieces
        if kind == Kind.HEADER:
            return self._enter_header(name, attributes)
        if kind == Kind.PRE:
            pieces.append(PARAGRAPH)
            if not self._verbatim:
                self._verbatim_from = len(pieces)
            self._verbatim += 1
        elif kind == Kind.LIST:
            pieces.append(BREAK if self._lists else PARAGRAPH)
            self._lists.append(self._read(attributes).start if name == "ol" else None)
        elif kind == Kind.ITEM:
            self._enter_item()
        elif kind == Kind.ROW:
            pieces.append(BREAK)
            self._row_is_empty = True
        else:
            self._scopes.append(self._open)
            is_first = kind == Kind.CELL and self._row_is_empty
            pieces.append(PARAGRAPH if kind == Kind.SCOPE else BREAK if is_first else CELL)
            self._row_is_empty = False
        return kind

    def _leave(self, kind: int) -> None:
        pieces = self._pieces
        if kind == Kind.PRE:
            self._keep_spaces()
            self._verbatim -= 1
            pieces.append(PARAGRAPH)
        elif kind == Kind.HEADER:
            assert self._open is not None
            self._open.header = lay_out_line(pieces)
            pieces.clear()
            self._verbatim_from = 0
            self._in_header = False
        elif kind == Kind.ROW:
            pieces.append(ROW)
        elif kind == Kind.ITEM:
            if pieces and pieces[-1] == ITEM:  # an empty item leaves no marker
                del pieces[-2:]
            pieces.append(BREAK)
        elif kind == Kind.LIST:
            self._lists.pop()
            pieces.append(BREAK if self._lists else PARAGRAPH)
        else:
            pieces.append(PARAGRAPH if kind == Kind.SCOPE else BREAK)
            self._restore(self._scopes.pop())
            self._row_is_empty = False

    def _enter_header(self, name: str, attributes: str) -> int:
        if self._in_header:
            self._pieces.append(BREAK)
            return Kind.LINE
        level = int(name[1]) if name in HEADERS else self._read(attributes).level
        self._flush()
        parent = self._open
        while parent is not None and parent.level >= level:
            parent = parent.parent
        self._open = HeaderNode(level, len(self.nodes), parent)
        if parent is not None:
            parent.parts.append(self._open)
        self.nodes.append(self._open)
        self._in_header = True
        return Kind.HEADER

    def _keep_spaces(self) -> None:
        """Keeps the white space since <pre> as it is, but for what is at the end."""
        text = "".join(self._pieces[self._verbatim_from :])
        self._pieces[self._verbatim_from :] = [verbatim(text).rstrip(VERBATIM_SPACE)]
        self._verbatim_from = len(self._pieces)

    def _enter_item(self) -> None:
        number = self._lists[-1] if self._lists else None
        if number is not None:
            self._lists[-1] = number + 1
        indent = "  " * min(len(self._lists) - 1, _MAX_INDENT)
        marker = "-" if number is None else f"{number}."
        self._pieces.extend((BREAK, verbatim(indent + marker), ITEM))

    def _restore(self, node: HeaderNode | None) -> None:
        if node is not self._open and not self._in_header:
            self._flush()
            self._open = node

    def _flush(self) -> None:
        if self._open is not None and self._pieces:
            if self._verbatim:
                self._keep_spaces()
            text = lay_out(self._pieces)
            if text:
                self._open.parts.append(text)
        self._pieces.clear()
        self._verbatim_from = 0

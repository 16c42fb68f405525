r"""What the elements of a page are to its text, read off the page's markup.

Markup here is what the parser writes down of a page it has read (`html.body_markup`), so it has one
shape only: every element but the void ones has its end tag, attributes stand in double quotes, and
`<` and `>` occur in tags alone:

    <div class="a &quot;b&quot;"><p>1 &lt; 2<br>x</p></div>

A tree of objects would cost a call for every step from node to node; a string is cut into its tags
by one call.
"""

import re
from collections.abc import Iterator


class Kind:
    """What an element is to the text; plain numbers, since the walk compares them at every tag.

    Where one of the first two follows another, a space may be missing between them. The kinds from
    LINE to TABLE leave a mark where they begin and end; those from VOID on have no end tag.
    What is UNESCAPED cannot be read, see `UnescapedError`.
    """

    INLINE, LINK, PLAIN, LINE, BLOCK, TABLE, CODE = range(7)
    PRE, SCOPE, HEADER, LIST, ITEM, ROW, CELL, SKIPPED = range(7, 15)
    VOID, VOID_LINE, VOID_BLOCK, VOID_SKIPPED = range(15, 19)
    UNESCAPED = 19


VOID_NAMES = frozenset(
    {"area", "base", "basefont", "bgsound", "br", "col", "embed", "hr", "img", "input", "keygen"}
    | {"link", "meta", "param", "source", "track", "wbr"}
)
HEADERS = ("h1", "h2", "h3", "h4", "h5", "h6")

# An element with another name is plain.
KINDS: dict[str, int] = {
    **dict.fromkeys(VOID_NAMES, Kind.VOID),
    **dict.fromkeys(("div", "dt", "dd", "legend", "caption", "thead", "tbody"), Kind.LINE),
    **dict.fromkeys(("header", "hgroup", "form", "fieldset", "address", "figcaption"), Kind.LINE),
    **dict.fromkeys(("summary", "center", "search", "option"), Kind.LINE),
    **dict.fromkeys(("p", "dl"), Kind.BLOCK),
    **dict.fromkeys(("article", "section", "main", "details", "figure", "blockquote"), Kind.SCOPE),
    **dict.fromkeys(HEADERS, Kind.HEADER),
    **dict.fromkeys(("ul", "ol", "menu"), Kind.LIST),
    **dict.fromkeys(("td", "th"), Kind.CELL),
    **dict.fromkeys(("span", "label", "time", "small"), Kind.INLINE),
    **dict.fromkeys(("code", "kbd", "samp", "tt"), Kind.CODE),
    **dict.fromkeys(("pre", "listing"), Kind.PRE),
    **dict.fromkeys(("xmp", "plaintext", "noembed", "noframes"), Kind.UNESCAPED),
    **{"a": Kind.LINK, "li": Kind.ITEM, "table": Kind.TABLE, "tr": Kind.ROW},
    **{"br": Kind.VOID_LINE, "hr": Kind.VOID_BLOCK, "input": Kind.VOID_SKIPPED},
    **dict.fromkeys(("object", "canvas", "audio", "video", "button", "noscript"), Kind.SKIPPED),
    **dict.fromkeys(("select", "textarea", "dialog", "nav", "aside", "footer"), Kind.SKIPPED),
}

_PRUNED_ROLES = frozenset(
    {"navigation", "complementary", "contentinfo", "search", "menu", "menubar", "toolbar"}
    | {"dialog", "alertdialog"}
)
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
# Edit links and permalinks of wikis and documentation.
_PRUNED_CLASSES = frozenset(("mw-editsection", "headerlink", "anchorjs-link"))

# aria-level may be any number; the bound keeps the tree shallow.
_MAX_LEVEL = 9


class UnescapedError(Exception):
    """The markup holds an element whose text the parser writes down unescaped.

    They are so rare that nobody looks for them beforehand; `html.body_markup` can take them out.
    """


# The attributes that say something, as an expression that may match more than those.
_TELLING = (
    'hidden|aria-hidden|role|style|start|rel="[^"]*tag'
    f'|class="[^"]*(?:{"|".join(sorted(_PRUNED_CLASSES))})'
)
# `[^ >]` takes in what browsers take for names: <a<b>, <x"y>. ClueWeb22's browser put spans around
# text that stands beside elements, which get a name of their own and are plain. No part can match
# what the one after it matches, so nothing is tried twice.
_TAG = re.compile(
    r"<(?:/[^>]*+"
    r"|([a-zA-Z][^ >]*+(?: instrument_node=\"\")?+)?"
    rf"(?: (?!{_TELLING})[^=>]*+=\"[^\"]*+\")*+"
    r"(?:!--(?:[^>]*+>(?<!-->))*+)?+([^>]*+))>"
)
_ATTRIBUTE = re.compile(r" ([^ =>]+)=\"([^\"]*)\"")

Token = tuple[str, str | None, str | None]


def tokens(markup: str) -> Iterator[Token]:
    """Yields each tag of the markup with the text before it, up to the last tag.

    Yields:
      (text, name, attributes): the text is escaped; the name is None for an end tag; attributes
      are None for an end tag, and else run from the first one on that may say something, so that
      they are "" for most tags. A processing instruction has attributes and no name.
    """
    parts = iter(_TAG.split(markup))
    return zip(parts, parts, parts, strict=False)


def skip_element(following: Iterator[Token]) -> None:
    """Takes tokens up to the end tag of an element whose start tag has just been taken.

    Raises:
      UnescapedError: the end cannot be found.
    """
    depth = 1
    for _, name, attributes in following:
        if name is None:
            if attributes is None:
                depth -= 1
                if not depth:
                    return
        elif name not in VOID_NAMES:
            if KINDS.get(name) == Kind.UNESCAPED:
                raise UnescapedError
            depth += 1


class Attributes:
    """What an element's attributes say of it: `Attributes(' role="heading"').kind("p")`.

    Attributes:
      role: its ARIA role, None without one.
    """

    def __init__(self, text: str):
        self._values = dict(_ATTRIBUTE.findall(text))
        self._is_hidden = _is_hidden(self._values)
        self.role: str | None = self._values.get("role")

    @property
    def level(self) -> int:
        """The level of a header by its role, 1 to 9."""
        return min(max(_number(self._values.get("aria-level", ""), 2), 1), _MAX_LEVEL)

    @property
    def start(self) -> int:
        """The first number of a list."""
        return _number(self._values.get("start", ""), 1)

    def kind(self, name: str) -> int:
        """Returns what an element of this name with these attributes is."""
        kind = KINDS.get(name, Kind.PLAIN)
        if self._is_hidden and kind != Kind.UNESCAPED:
            return Kind.SKIPPED if kind < Kind.VOID else Kind.VOID_SKIPPED
        if self.role == "heading" and kind < Kind.SKIPPED:
            return Kind.HEADER
        return Kind.LINE if kind == Kind.HEADER and self.role is not None else kind


def _is_hidden(attributes: dict[str, str]) -> bool:
    # Hidden, no content by its role, or one of the tags under an article.
    return (
        "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or ("role" in attributes and attributes["role"].strip().lower() in _PRUNED_ROLES)
        or ("style" in attributes and _HIDDEN_STYLE.search(attributes["style"]) is not None)
        or ("rel" in attributes and "tag" in attributes["rel"].split())
        or ("class" in attributes and not _PRUNED_CLASSES.isdisjoint(attributes["class"].split()))
    )


def _number(value: str, otherwise: int) -> int:
    value = value.strip()
    return int(value) if value.isdecimal() and len(value) < 7 else otherwise


def unescape(text: str) -> str:
    """Returns the text of markup: the parser escapes these four characters and no others."""
    if "&" not in text:
        return text
    text = text.replace("&nbsp;", "\xa0").replace("&lt;", "<").replace("&gt;", ">")
    return text.replace("&amp;", "&")

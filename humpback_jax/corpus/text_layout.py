r"""Pieces of text and layout marks -> readable plain text.

The walk over a page writes down raw text, whose white space means nothing, with marks between:

    ["One ", " two", PARAGRAPH, BREAK, "- ", ITEM, PARAGRAPH, "three"]  ->  "One two\n\n- three"

A run of marks becomes one separator. A mark is a control character, which no text should hold,
and a letter; where a page smuggles one in, it gets a line break too many or loses the character.
"""

import functools
import re
from collections.abc import Iterable

from humpback_jax.corpus.elements import unescape

BREAK = "\x01b"  # a new line
PARAGRAPH = "\x01p"  # a blank line
CELL = "\x01c"  # between the cells of a row: a tab, in place of the breaks around it
ITEM = "\x01i"  # after a list marker: what follows stays on its line
ROW = "\x01r"  # the end of a table's row: a new line, whatever its cells hold
TABLE = "\x01t"  # the borders of a table: a blank line
JOINT = "\x08"  # between two inline elements: a space if a word would run into the next

# White space that stays as it is, as in <pre>, travels as these.
_NEWLINE, _SPACE, _TAB = "\x04", "\x05", "\x06"
VERBATIM_SPACE = _NEWLINE + _SPACE + _TAB

# Soft hyphens and zero-width characters, pilcrows of permalinks, and the edit links of wikis.
_NOISE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00b6"
_EDIT = re.compile(r"\[\s*edit(?:\s*(?:source|\|[^\]]{0,20}))?\s*\]")
# These begin with what is searched for, which is ten times as fast as a look behind first.
_JOINT = re.compile(r"\x08(?<=\w\x08)(?=[\w$€£¥])")
_MARKS = re.compile(r"(\x01[bpcirt](?:\x01[bpcirt])*+ ?)")

# What pages put under an article: whole lines at the end of a block.
_NETWORKS = "facebook|twitter|linkedin|reddit|whatsapp|pinterest|tumblr|telegram|e-?mail|print"
_JUNK_LINE = re.compile(
    r"(?:share|share (?:this|on|via)\b.{0,40}|tweet|pin it|back to top|return to top|read more"
    r"|leave a (?:comment|reply)|reply|permalink|print this.{0,20}|e-?mail this.{0,20}"
    r"|(?:previous|prev|next|older|newer) (?:article|post|page|chapter|story|entry|topic)s?\b"
    r".{0,80}"
    r"|(?:tags?|tagged|filed under|posted in|categor(?:y|ies)|labels?|topics?)(?:\s*:.{0,200})?"
    rf"|(?:(?:{_NETWORKS})(?:\W+|$))+)[\s:.\u00bb\u203a>|-]*",
    re.IGNORECASE,
)
_LONGEST_JUNK = 250
_LIST_MARKER = re.compile(r"\s*(?:(?:[-*\u2022]|\d{1,3}\.)\s*)?")


def verbatim(text: str) -> str:
    """Returns text whose white space `lay_out` keeps."""
    return text.replace("\n", _NEWLINE).replace(" ", _SPACE).replace("\t", _TAB)


def _restore(text: str) -> str:
    text = text.replace(_NEWLINE, "\n").replace(_SPACE, " ").replace(_TAB, "\t")
    return text.replace("\x01", "")


def lay_out(pieces: Iterable[str]) -> str:
    """Returns the pieces as text: lines, blank lines between paragraphs, tabs between cells."""
    text = _without_noise(unescape("".join(pieces)))
    if JOINT in text:
        text = _JOINT.sub(" ", text).replace(JOINT, "")
    parts = _MARKS.split(" ".join(text.split()).replace(" \x01", "\x01"))
    parts[1::2] = map(_separator, parts[1::2])
    return _without_junk_tail(_restore("".join(parts).strip(" \n\t\x04\x05\x06")))


def lay_out_line(pieces: Iterable[str]) -> str:
    """Returns the pieces as one line, as a header's text is."""
    text = _without_noise(unescape("".join(pieces)))
    text = _JOINT.sub(" ", text).replace(JOINT, "")
    return " ".join(_restore(_MARKS.sub(" ", text)).split())


def _without_noise(text: str) -> str:
    if not text.isascii():
        for character in _NOISE:  # nine fast searches: a regular expression takes five times longer
            if character in text:
                text = text.replace(character, "")
    return _EDIT.sub("", text) if "edit" in text else text


def _separator(marks: str) -> str:
    """Returns what a run of marks stands for."""
    # Pages have few different runs, but a page may have a long one.
    return _known_separator(marks) if len(marks) < 64 else _new_separator(marks)


def _new_separator(marks: str) -> str:
    if ITEM in marks:
        # "- " ITEM, then perhaps the breaks of a paragraph that opens the item.
        before, _, after = marks.rpartition(ITEM)
        return _new_separator(before) + (" " if CELL not in after else "\t")
    if TABLE in marks:
        return "\n\n"
    if ROW in marks:
        return "\n"
    if CELL in marks:
        return "\t" * marks.count(CELL)
    if PARAGRAPH in marks:
        return "\n\n"
    return "\n" if BREAK in marks else ""


_known_separator = functools.lru_cache(maxsize=4096)(_new_separator)


def _without_junk_tail(text: str) -> str:
    end = len(text)
    while True:
        start = text.rfind("\n", 0, end) + 1
        marker = _LIST_MARKER.match(text, start, end)
        assert marker is not None  # it may be empty
        begin = marker.end()
        is_long = end - begin > _LONGEST_JUNK
        if is_long or (begin < end and not _JUNK_LINE.fullmatch(text, begin, end)):
            return text[:end]
        if not start:
            return "" if begin < end else text[:end]
        end = start - 1
        while end and text[end - 1].isspace():
            end -= 1

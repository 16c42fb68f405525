"""Words for a shell that reads them on one line, as YAML and a log want them."""

import shlex
from collections.abc import Sequence

_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def word(text: str) -> str:
    """Returns a word of bash: quoted, and without line breaks or other control characters."""
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_escape, text)) + "'"


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def line(argv: Sequence[str]) -> str:
    r"""Returns a command as one line of bash.

    >>> print(line(["printf", "a\nb"]))
    printf $'a\nb'
    """
    return " ".join(map(word, argv))

"""Which fields of a table's rows hold a page: {url, html or text}, under their usual names."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from humpback_jax.corpus.page import Page
from humpback_jax.records import Source

_URL = ("url", "URL", "uri", "target_uri", "warc_target_uri", "source_url", "link")
_HTML = ("html", "raw_html", "html_content", "page_html")
_TEXT = ("text", "Clean-Text", "clean_text", "content", "raw_content", "raw_text", "body")
_LANGUAGE = ("language", "Language", "lang")
_ID = ("ClueWeb22-ID",)
_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(?:[_-]\w+)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Columns:
    """The names of the fields; "" stands for those that are usual.

    Where a row has both, the HTML is the page.
    """

    url: str = ""
    html: str = ""
    text: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """All fields that may be wanted of a row."""
        return (*self._url, *self._html, *self._text, *_LANGUAGE, *_ID)

    @property
    def _url(self) -> tuple[str, ...]:
        return (self.url,) if self.url else _URL

    @property
    def _html(self) -> tuple[str, ...]:
        # Whoever names one of the two means that one.
        return (self.html,) if self.html else () if self.text else _HTML

    @property
    def _text(self) -> tuple[str, ...]:
        return (self.text,) if self.text else () if self.html else _TEXT

    def missing_from(self, file: str, fields: Iterable[str]) -> str:
        """Returns a sentence that says what a table lacks, "" if nothing."""
        fields = list(fields)
        wanted = [f for f in (self.url, self.html, self.text) if f]
        lacking = [f"'{f}'" for f in wanted if f not in fields]
        if not lacking and not {*self._html, *self._text}.intersection(fields):
            lacking = ["html", "text"]
        if not lacking:
            return ""
        has = ", ".join(sorted(fields)) or "none"
        return (
            f"{file} has no column {' or '.join(lacking)} (it has {has}): name them with "
            "ReadConfig.html_column or text_column"
        )

    def page(self, file: str, offset: int, row: Mapping[str, Any], max_bytes: int) -> Page | None:
        """Returns the page in a row, None if it holds neither HTML nor text."""
        html = next((row[f] for f in self._html if _is_content(row.get(f))), None)
        text = next((row[f] for f in self._text if _is_content(row.get(f))), None)
        content = text if html is None else html
        if content is None:
            return None
        is_encoded = isinstance(content, str)
        payload = content.encode("utf-8", "replace") if is_encoded else content
        language = _first(row, _LANGUAGE)
        return Page(
            Source(file, offset, _first(row, _ID)),
            _first(row, self._url),
            "text/html" if html is not None else "text/plain",
            "utf-8" if is_encoded else "",
            0,
            language if _LANGUAGE_CODE.fullmatch(language) else "",
            payload[: max_bytes + 1],
            is_text=html is None,
        )


def _is_content(value: Any) -> bool:
    return isinstance(value, str | bytes)


def _first(row: Mapping[str, Any], names: Iterable[str]) -> str:
    values = (row.get(name) for name in names)
    return next((value.strip() for value in values if isinstance(value, str)), "")

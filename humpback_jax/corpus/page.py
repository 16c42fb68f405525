"""A web page as it stands in a corpus, whatever the format of the file that holds it."""

import dataclasses

from humpback_jax.records import Reject, Source

MAX_PAGE_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class Page:
    """A web page as it stands in the corpus.

    Attributes:
      source: file as it was given, offset of the record, and the corpus's own id of the record. One
        can seek to the offset in the file, except in what is a single compressed stream, and in
        JSON lines (byte of the decompressed text) and Parquet (number of the row).
      url: the target URI, without the angle brackets some writers put around it.
      content_type: media type in lower case, "" if none was given.
      charset: as HTTP gave it, "" if it did not.
      status: HTTP status, 0 if the record holds no HTTP header.
      language: as the archive declares it (ClueWeb22), else "".
      payload: the decoded body; one byte longer than the limit if it was cut there.
      is_text: the payload is the clean text of a whole document in UTF-8, not HTML; it has no
        header and gives one segment.
      primary: ids (`data-dcnode-id`) of the text nodes to which the page is to be narrowed
        (ClueWeb22's VDOM-Primary); None for the whole page.
    """

    source: Source
    url: str
    content_type: str
    charset: str
    status: int
    language: str
    payload: bytes
    is_text: bool = False
    primary: frozenset[int] | None = None


def reject_at(file: str, offset: int, reason: str, detail: str, record_id: str = "") -> Reject:
    """Returns the reject of a record of which there is no page."""
    return Reject(record_id or f"@{offset}", f"{file}@{offset}", reason, detail)

"""A web page as it stands in a corpus, whatever the format of the file that holds it."""

import dataclasses

from humpback_jax.records import Source

MAX_PAGE_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class Page:
    """A web page as it stands in the corpus.

    Attributes:
      source: file as it was given, compressed offset of the record (one can seek to it unless the
        file is a single gzip stream), and the corpus's own id of the record.
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

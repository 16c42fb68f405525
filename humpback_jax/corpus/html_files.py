"""Pages that are files of their own: a folder of HTML."""

from collections.abc import Iterator

from humpback_jax.corpus import compression
from humpback_jax.corpus.compression import DamageError
from humpback_jax.corpus.page import Page, reject_at
from humpback_jax.corpus.storage import open_storage
from humpback_jax.records import Reject, Source


def read_html_file(file: str, url: str, max_page_bytes: int) -> Iterator[Page | Reject]:
    """Yields the page of an HTML file, or a Reject ("damaged", "truncated") of a compressed one.

    Args:
      file: the file, local or gs://, as it is or compressed.
      url: what to call the page; such a file does not say where it came from.
      max_page_bytes: the page is cut one byte after these.
    """
    with open_storage(file) as stream:
        codec = compression.detect(stream, file)
        stream.seek(0)
        if codec is None:
            content = stream.read(max_page_bytes + 1)
        else:
            content, length = [], 0
            blocks = codec.blocks(stream, 0)
            try:
                while length <= max_page_bytes:
                    content.append(next(blocks))
                    length += len(content[-1])
            except StopIteration as stop:
                if stop.value is None:
                    yield reject_at(file, 0, "truncated", "the file ends inside this page")
                    return
            except DamageError as error:
                yield reject_at(file, 0, "damaged", f"it cannot be decompressed: {error}")
                return
            content = b"".join(content)[: max_page_bytes + 1]
    yield Page(Source(file, 0, ""), url, "text/html", "", 0, "", content)

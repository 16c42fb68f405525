"""Pages out of WACZ files: the WARC files of a browsertrix crawl, in a zip archive."""

import contextlib
import re
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from humpback_jax.corpus.page import Page, reject_at
from humpback_jax.corpus.storage import UnreadableError, open_storage, window
from humpback_jax.corpus.warc import read_archive
from humpback_jax.records import Reject

_WARC = re.compile(r"^archive/.*\.warc(?:\.gz)?$", re.IGNORECASE)
_LOCAL_HEADER = struct.Struct("<26xHH")  # before a zip entry: lengths of its name and extra field


def read_wacz(file: str, max_page_bytes: int) -> Iterator[Page | Reject]:
    """Yields the pages of all WARC files in a WACZ file, and Rejects as they have them.

    The file of a page is called crawl.wacz!archive/data.warc.gz, its offset is that in the latter.
    Further reasons: "unreadable" (no zip archive, or an entry that cannot be read) and "not_warc"
    (no WARC file in it).

    Args:
      file: the WACZ file, local or gs://.
      max_page_bytes: a page is cut one byte after these.
    """
    with open_storage(file) as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except UnreadableError:
            raise
        except Exception as error:  # zipfile raises many kinds on damaged input
            detail = f"{file} cannot be read as WACZ ({error}): fetch it again"
            yield reject_at(file, 0, "unreadable", detail)
            return
        entries = [entry for entry in archive.infolist() if _WARC.match(entry.filename)]
        if not entries:
            yield reject_at(file, 0, "not_warc", "no WARC file under archive/")
        for entry in entries:
            name = f"{file}!{entry.filename}"
            with contextlib.ExitStack() as stack:
                try:
                    content = stack.enter_context(_opened(stream, archive, entry))
                except UnreadableError:
                    raise
                except Exception as error:
                    detail = f"{name} cannot be read ({error}): fetch it again"
                    yield reject_at(name, 0, "unreadable", detail)
                else:
                    yield from read_archive(name, content, max_page_bytes)


@contextlib.contextmanager
def _opened(
    stream: BinaryIO, archive: zipfile.ZipFile, entry: zipfile.ZipInfo
) -> Iterator[BinaryIO]:
    if entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1:  # as WACZ asks for
        stream.seek(entry.header_offset)
        header = stream.read(_LOCAL_HEADER.size)
        start = entry.header_offset + len(header) + sum(_LOCAL_HEADER.unpack(header))
        yield window(stream, start, start + entry.file_size)
        return
    with tempfile.TemporaryFile() as copy:
        with archive.open(entry) as packed:
            shutil.copyfileobj(packed, copy)
        yield cast(BinaryIO, copy)

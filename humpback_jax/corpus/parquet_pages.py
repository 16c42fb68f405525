"""Pages out of Parquet files of {url, html or text}."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from humpback_jax.corpus.columns import Columns
from humpback_jax.corpus.page import Page, reject_at
from humpback_jax.corpus.storage import open_storage
from humpback_jax.records import Reject

# Pages of hundreds of kilobytes are common; a batch is held twice.
_BATCH_ROWS = 16
_BUFFER = 1 << 20


def read_parquet_pages(
    file: str, columns: Columns, max_page_bytes: int, start: int = 0, end: int | None = None
) -> Iterator[Page | Reject]:
    """Yields the pages of a Parquet file in order, and a Reject for each row that is none.

    A row group belongs to the part in which its first byte lies. Reasons: "damaged" (each row of a
    row group that cannot be read, from the damage on), "no_page" (a row without html and text), and
    for the whole file "unreadable" (no Parquet) and "no_columns" (neither html nor text).

    Args:
      file: the file, local or gs://.
      columns: which columns hold what.
      max_page_bytes: a page is cut one byte after these.
      start: offset at which the part begins that is to be read.
      end: offset at which it ends, None for the end of the file.
    """
    with open_storage(file) as stream:
        try:
            parquet = pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER)
        except (pa.ArrowException, OSError) as error:
            if start == 0:
                detail = f"{file} cannot be read as Parquet ({error}): fetch it again"
                yield reject_at(file, 0, "unreadable", detail)
            return
        fields = parquet.schema_arrow.names
        if missing := columns.missing_from(file, fields):
            if start == 0:
                yield reject_at(file, 0, "no_columns", missing)
            return
        wanted = [name for name in columns.names if name in fields]
        row = 0
        for group in range(parquet.num_row_groups):
            metadata = parquet.metadata.row_group(group)
            offset = _offset(metadata)
            if start <= offset and (end is None or offset < end):
                group_rows = _Group(parquet, group, wanted, row, metadata.num_rows)
                yield from group_rows.read(file, columns, max_page_bytes)
            row += metadata.num_rows


def _offset(group: pq.RowGroupMetaData) -> int:
    """Returns the first byte of a row group."""
    columns = [group.column(i) for i in range(group.num_columns)]
    offsets = [c.dictionary_page_offset or c.data_page_offset for c in columns]
    return min(offsets, default=0)


class _Group:
    """A row group, whose first row has the number `first` in the file."""

    def __init__(
        self, parquet: pq.ParquetFile, index: int, wanted: list[str], first: int, num_rows: int
    ):
        self._parquet, self._index, self._wanted = parquet, index, wanted
        self._first, self._end = first, first + num_rows

    def read(self, file: str, columns: Columns, max_page_bytes: int) -> Iterator[Page | Reject]:
        """Yields the pages and rejects of the rows."""
        number = self._first
        try:
            for batch in self._parquet.iter_batches(_BATCH_ROWS, [self._index], self._wanted):
                for row in batch.to_pylist():
                    page = columns.page(file, number, row, max_page_bytes)
                    detail = "neither HTML nor text in this row"
                    yield page or reject_at(file, number, "no_page", detail)
                    number += 1
                # Writers make data pages of a thousand rows, 100 MB of HTML, which stay taken.
                pa.default_memory_pool().release_unused()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            detail = f"row group {self._index} cannot be read: {error}"[:300]
            while number < self._end:
                yield reject_at(file, number, "damaged", detail)
                number += 1

"""What ClueWeb22 says of its own files: which documents they hold, and where.

    html/en/en00/en0000/en0000-00.warc.gz      txt/en/en00/en0000/en0000-00.json.gz
    html/en/en00/en0000/en0000-00.warc.offset  txt/en/en00/en0000/en0000-00.offset
    record_counts/html/en00_counts.csv         en0000-00,21053

An offset file has a line for each document and one for the end of the last. Truncated files end
without an error, so what was read is compared with the offsets, or else with the count.
"""

import bisect
import csv
import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence

from etils import epath

from humpback_jax.corpus.page import reject_at
from humpback_jax.corpus.storage import read_bytes
from humpback_jax.records import Reject

_FILE = re.compile(r"(?P<stream>\w+?\d\d)\d\d-\d\d(?P<kind>\.warc|\.json)(?:\.gz)?$")
_NUMBER = re.compile(rb"[0-9]{1,18}")
_NO_RECORDS = ("garbage", "not_warc")


@dataclasses.dataclass(frozen=True)
class Expected:
    """The documents of a file.

    Attributes:
      offset_file: where their offsets stand, "" if nowhere.
      offsets: of the documents, and of the end of the last.
      count: of the documents, where there are no offsets.
      fault: why the offset file, or the count, is of no use, as a sentence.
    """

    offset_file: str = ""
    offsets: Sequence[int] = ()
    count: int = 0
    fault: str = ""

    @property
    def is_divisible(self) -> bool:
        """Whether a part of the file can be checked by itself: a mere count is of all of it."""
        return bool(self.offset_file)


def expected_documents(file: str) -> Expected | None:
    """Returns what the corpus says of a file; None for other corpora and where it says nothing."""
    path = epath.Path(file)
    match = _FILE.match(path.name)
    if match is None:
        return None
    stem = path.name.partition(".")[0]
    is_html = match["kind"] == ".warc"
    offsets = path.parent / (stem + (".warc.offset" if is_html else ".offset"))
    if offsets.exists():
        return _parse_offsets(str(offsets), read_bytes(str(offsets)))
    if len(path.parents) > 4:
        folder = path.parents[4] / "record_counts" / ("html" if is_html else "txt")
        counts = folder / f"{match['stream']}_counts.csv"
        if counts.exists():
            return _parse_count(str(counts), stem, read_bytes(str(counts)))
    return None


def _parse_count(file: str, stem: str, content: bytes) -> Expected | None:
    rows = csv.reader(content.decode("utf-8", "replace").splitlines())
    found = next((row[1] for row in rows if len(row) > 1 and row[0] == stem), None)
    if found is None:
        return None
    if not _NUMBER.fullmatch(found.encode()):
        return Expected(fault=f"{file} has no number for {stem}: fetch it again")
    return Expected(count=int(found))


def _parse_offsets(file: str, content: bytes) -> Expected:
    words = content.split()
    if not words or not all(map(_NUMBER.fullmatch, words)):
        return Expected(file, fault=f"{file} is no list of offsets: fetch it again")
    offsets = [int(word) for word in words]
    if any(after <= before for before, after in itertools.pairwise(offsets)):
        return Expected(file, fault=f"{file} holds offsets that do not ascend: fetch it again")
    return Expected(file, offsets)


class Ledger:
    """What became of the bytes of a file, or of a part of it, as they are read."""

    def __init__(self):
        self.documents: list[int] = []  # offsets of pages
        self.records_lost = 0
        self._rejected: list[int] = []
        self._lost: list[tuple[int, int | None]] = []

    def add_page(self, offset: int) -> None:
        self.documents.append(offset)

    def add_reject(self, reject: Reject, offset: int) -> None:
        self._rejected.append(offset)
        self.records_lost += reject.reason not in _NO_RECORDS

    def add_lost(self, start: int, end: int | None) -> None:
        """Notes that no record could be read between two offsets; None is the file's end."""
        self._lost.append((start, end))

    def is_lost(self, offset: int) -> bool:
        return any(a <= offset and (b is None or offset < b) for a, b in self._lost)

    def compare(
        self, file: str, expected: Expected, start: int, stop: int | None, size: int
    ) -> Iterator[Reject]:
        """Yields "missing_records" for each document lost, "bad_offsets" where the corpus is wrong.

        A document that has a reject of its own is not named again.

        Args:
          file: the file's name.
          expected: what the corpus says of it.
          start: the offset of the first record that was read, or 0.
          stop: the offset of the first record of the next part, None at the file's end.
          size: of the file in bytes.
        """
        if expected.fault:
            if start == 0:
                yield reject_at(file, 0, "bad_offsets", expected.fault)
        elif expected.is_divisible:
            yield from self._compare_offsets(file, expected, start, stop, size)
        else:
            missing = expected.count - len(self.documents) - self.records_lost
            detail = f"the corpus counts {expected.count} documents in this file"
            for number in range(missing):
                yield reject_at(file, size, "missing_records", detail, f"missing-{number}")

    def _compare_offsets(
        self, file: str, expected: Expected, start: int, stop: int | None, size: int
    ) -> Iterator[Reject]:
        first = bisect.bisect_left(expected.offsets, start)
        last = len(expected.offsets) - 1
        if stop is not None:
            last = min(last, bisect.bisect_left(expected.offsets, stop))
        listed = expected.offsets[first:last]
        accounted = {*self.documents, *self._rejected}
        for offset in listed:
            if offset not in accounted and (offset >= size or self.is_lost(offset)):
                detail = f"{expected.offset_file} lists a document here"
                yield reject_at(file, offset, "missing_records", detail)
            elif offset not in accounted:
                yield _disagreement(file, expected, offset, "where no record starts")
        for offset in sorted({*self.documents}.difference(listed)):
            yield _disagreement(file, expected, offset, "where a record starts that it lacks")


def _disagreement(file: str, expected: Expected, offset: int, what: str) -> Reject:
    detail = f"{expected.offset_file} disagrees with {file} at {offset}, {what}: fetch both again"
    return reject_at(file, offset, "bad_offsets", detail)

"""What a corpus looks like, in numbers small enough to be kept beside each shard.

A report cannot read a billion pages again, so the languages of the pages and the lengths of all
that was considered are counted while they are read.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def length_bin(length: int) -> int:
    """Returns the bin of a length in characters; bin b holds 2^(b/2) up to 2^((b+1)/2)."""
    return math.floor(2 * math.log2(length)) if length > 0 else 0


def bin_start(number: int) -> int:
    """Returns the smallest length of a bin, in characters."""
    return math.ceil(2 ** (number / 2))


@dataclasses.dataclass
class Profile:
    """Counts over pages and over the header nodes on them.

    Attributes:
      languages: pages with text of the right length for a segment, by language ("unknown" where
        none was found); of the others it is not looked for.
      lengths: header nodes, by `length_bin` of their text.
    """

    languages: Counter[str] = dataclasses.field(default_factory=Counter)
    lengths: Counter[int] = dataclasses.field(default_factory=Counter)

    def add_page(self, language: str, lengths: Iterable[int]) -> None:
        """Counts a page of that language, with header nodes of these lengths."""
        if language:
            self.languages[language] += 1
        self.lengths.update(map(length_bin, lengths))

    def __add__(self, other: "Profile") -> "Profile":
        return Profile(self.languages + other.languages, self.lengths + other.lengths)

    def plain(self) -> dict[str, dict[str, int]]:
        """Returns it as JSON can hold it, in a fixed order."""
        return {
            "languages": dict(sorted(self.languages.items())),
            "lengths": {str(number): self.lengths[number] for number in sorted(self.lengths)},
        }

    @classmethod
    def from_plain(cls, value: Mapping[str, Any]) -> "Profile":
        """Returns the profile that `plain` wrote."""
        lengths = {int(number): count for number, count in value["lengths"].items()}
        return cls(Counter(value["languages"]), Counter(lengths))

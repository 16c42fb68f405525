"""What the corpus looks like: the lengths and languages of what was read, the sites of the kept."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

from humpback_jax.corpus.profile import Profile, bin_start, length_bin
from humpback_jax.report.charts import BarChart, length_histogram
from humpback_jax.report.sources import RunFiles

SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Share:
    """A line of a table of the most frequent; `share` is of all, in [0, 1]."""

    name: str
    count: int
    share: float


@dataclasses.dataclass(frozen=True)
class CorpusProfile:
    """The corpus in two pictures and a table.

    Attributes:
      lengths: histogram of all header nodes, the kept ones emphasised; None for runs without.
      languages: of the pages with text of the right length, the most frequent first.
      sites: of the kept segments, the most frequent first.
      num_sites: how many there are.
      num_kept: how many segments are kept.
      others: the share of the segments that the shown sites do not have.
    """

    lengths: BarChart | None
    languages: tuple[Share, ...]
    sites: tuple[Share, ...]
    num_sites: int
    num_kept: int
    others: float


def corpus_profile(files: RunFiles) -> CorpusProfile | None:
    """Returns the profile, None if the segment stage is not done."""
    summary = files.summaries.get("segment")
    if summary is None:
        return None
    sites: Counter[str] = Counter()
    kept: Counter[int] = Counter()
    for segment in files.segments():
        sites[segment.site or "(no site)"] += 1
        kept[length_bin(segment.signals.length)] += 1
    profile = Profile.from_plain(summary["profile"]) if "profile" in summary else Profile()
    shown = _most_frequent(sites)
    return CorpusProfile(
        lengths=_lengths(profile.lengths, kept),
        languages=_most_frequent(profile.languages),
        sites=shown,
        num_sites=len(sites),
        num_kept=sites.total(),
        others=1.0 - sum(row.share for row in shown) if sites else 0.0,
    )


def _lengths(considered: Mapping[int, int], kept: Mapping[int, int]) -> BarChart | None:
    if not considered:
        return None
    numbers = range(min(considered), max(considered) + 1)
    edges = [bin_start(number) for number in (*numbers, numbers[-1] + 1)]
    return length_histogram(
        edges, [considered.get(n, 0) for n in numbers], [kept.get(n, 0) for n in numbers]
    )


def _most_frequent(counts: Counter[str]) -> tuple[Share, ...]:
    order = sorted(counts, key=lambda name: (-counts[name], name))
    total = max(1, counts.total())
    return tuple(Share(name, counts[name], counts[name] / total) for name in order[:SHOWN])

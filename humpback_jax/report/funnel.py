"""How pages became segments: the laws of pages and segments, the steps, and what was left out."""

import dataclasses
import heapq
from collections import defaultdict
from collections.abc import Mapping

from humpback_jax.corpus.filters import FUNNEL
from humpback_jax.records import Reject, stable_id
from humpback_jax.report import formats
from humpback_jax.report.charts import Axis
from humpback_jax.report.sources import RunFiles
from humpback_jax.rundir import Counts

EXAMPLES = 4

MEANING = {
    "too_short": "text shorter than the least length",
    "too_long": "text longer than the greatest length",
    "language": "page in another language",
    "header_empty": "no letter or digit in the header",
    "header_upper": "header in capitals only",
    "header_capitals": "too many capitals in the header",
    "header_navigation": "header of navigation, advertising or a forum",
    "links": "too much of the text is links",
    "repetitive": "much of the text said twice",
    "email": "an e-mail address in the text",
    "phone": "a phone number in the text",
    "address": "a postal address in the text",
    "contaminated": "words of an evaluation prompt or its reference",
    "inside_kept": "inside a segment that is kept",
    "duplicate": "same words as another segment",
    "near_duplicate": "nearly the same words as another segment",
    "site_cap": "more than the site's share",
    "not_sampled": "outside the sample",
    "http_status": "an HTTP status other than success",
    "not_html": "no HTML",
    "empty": "no text",
    "too_large": "page too large to parse",
    "too_deep": "elements nested too deeply",
    "no_header": "no header on the page",
    "blocked": "URL or domain on the blocklist",
    "no_segment_kept": "no header of the page passed",
    "not_warc": "file of none of the formats",
    "unreadable": "file that cannot be read",
    "no_columns": "file without a column of pages",
    "no_page": "row or line without HTML and text",
    "bad_line": "line that is no JSON object",
    "bad_offsets": "offset file that disagrees with its WARC",
    "damaged": "compressed data that cannot be read",
    "truncated": "file or record ends early",
    "garbage": "bytes that belong to no record",
    "missing_records": "fewer pages than the corpus counts in the file",
    "bad_length": "record with a wrong length",
    "bad_header": "record with a header that cannot be read",
    "error": "an error while it was parsed",
}


@dataclasses.dataclass(frozen=True)
class Reason:
    """A named reason: how many were rejected for it, and a few of them."""

    name: str
    meaning: str
    count: int
    share: float
    examples: tuple[Reject, ...]


@dataclasses.dataclass(frozen=True)
class Step:
    """What remains after a filter: `width` and `lost_width` in per cent of all considered."""

    name: str
    remaining: int
    lost: int
    reasons: str
    width: float
    lost_width: float


@dataclasses.dataclass(frozen=True)
class Law:
    """A conservation law, and the reasons in it from the most frequent to the rarest."""

    counts: Counts
    rejected: int
    reasons: tuple[Reason, ...]


@dataclasses.dataclass(frozen=True)
class Funnel:
    """The corpus part of the report."""

    pages: Law | None
    segments: Law
    steps: tuple[Step, ...]


def corpus_funnel(files: RunFiles) -> Funnel | None:
    """Returns the funnel, None if the segment stage is not done."""
    summary = files.summaries.get("segment")
    if summary is None:
        return None
    shown = _examples(files)
    segments = Counts(**summary["counts"])
    pages = Counts(**summary["pages"]) if "pages" in summary else None
    return Funnel(
        pages=_law(pages, shown) if pages else None,
        segments=_law(segments, shown),
        steps=_steps(summary.get("funnel", ()), segments.rejects),
    )


def _examples(files: RunFiles) -> Mapping[str, list[Reject]]:
    """Returns a few rejects of each reason, drawn by the hash of their ids."""
    kept: dict[str, list[tuple[str, int, Reject]]] = defaultdict(list)
    for number, reject in enumerate(files.rejects("segment")):
        # The number settles ties, since rejects themselves have no order.
        kept[reject.reason].append((stable_id("report", reject.record_id), number, reject))
        if len(kept[reject.reason]) > 50 * EXAMPLES:
            kept[reject.reason] = heapq.nsmallest(EXAMPLES, kept[reject.reason])
    return {reason: [r for *_, r in sorted(rows)[:EXAMPLES]] for reason, rows in kept.items()}


def _law(counts: Counts, examples: Mapping[str, list[Reject]]) -> Law:
    found = dict(counts.rejects)
    if counts.errors:
        found["error"] = found.get("error", 0) + counts.errors
    order = sorted(found, key=lambda reason: (-found[reason], reason))
    reasons = [
        Reason(
            reason,
            MEANING.get(reason, reason.replace("_", " ")),
            found[reason],
            found[reason] / max(1, counts.records_in),
            tuple(examples.get(reason, ())),
        )
        for reason in order
        if found[reason]
    ]
    return Law(counts, sum(counts.rejects.values()), tuple(reasons))


def _steps(funnel, rejects: Mapping[str, int]) -> tuple[Step, ...]:
    reasons_of = dict(FUNNEL)
    if not funnel:
        return ()
    axis = Axis(0.0, float(max(1, funnel[0][1])), ())
    steps, before = [], funnel[0][1]
    for name, remaining in funnel:
        lost = before - remaining
        why = [
            f"{MEANING.get(reason, reason)} {formats.count(rejects[reason])}"
            for reason in reasons_of.get(name, ())
            if rejects.get(reason)
        ]
        widths = axis.percent(remaining), axis.percent(lost)
        steps.append(Step(name, remaining, lost, "; ".join(why), *widths))
        before = remaining
    return tuple(steps)

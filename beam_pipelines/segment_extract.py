"""The first pipeline of the segment stage: a part of the corpus -> its extracted shard."""

import dataclasses
import functools
import json
import logging
from collections import Counter
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.runners.runner import PipelineResult
from etils import epath

from beam_pipelines.config import BeamConfig
from beam_pipelines.execution import run_pipeline
from beam_pipelines.progress import shard_progress
from humpback_jax.corpus.filters import SegmentFilters, node_id, select_page
from humpback_jax.corpus.html import PageError
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.profile import Profile
from humpback_jax.corpus.reading import Part, ReadConfig, read_part
from humpback_jax.corpus.segments import HeaderNode
from humpback_jax.records import Reject, Segment
from humpback_jax.rundir import Counts, StageDir, write_atomic

EXTRACTED, PAGES = "extracted", "pages"
# Of a page whose headers were all rejected; each header has its own reason too.
NO_SEGMENT = "no_segment_kept"
# Examples kept with text for each reason and shard; all rejects are counted.
MAX_EXAMPLES = 20
_EXCERPT = 300

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class Extracted:
    """What one part gave."""

    segments: list[Segment]
    rejects: list[Reject]
    counts: Counts
    page_rejects: list[Reject]
    page_counts: Counts
    profile: Profile


def extract_part(part: Part, reading: ReadConfig, filters: SegmentFilters) -> Extracted:
    """Returns the segments of a part that pass the filters of their own page."""
    segments: list[Segment] = []
    examples, page_examples, profile = Examples(), Examples(), Profile()
    headers = pages = pages_out = errors = 0
    for page in read_part(part, reading, filters.max_page_bytes):
        pages += 1
        if isinstance(page, Reject):
            page_examples.add(page)
            continue
        try:
            nodes, (kept, rejected, language) = select_page(page, filters)
        except PageError as rejection:
            page_examples.add(_page_reject(page, rejection.reason, rejection.detail))
        except Exception as error:  # one page must not end a file of thousands
            errors += 1
            page_examples.add(_page_reject(page, "error", repr(error)), is_counted=False)
        else:
            headers += len(nodes)
            profile.add_page(language, (node.length for node in nodes))
            pages_out += bool(kept)
            if not kept:
                detail = f"{len(nodes)} headers, all rejected"
                page_examples.add(_page_reject(page, NO_SEGMENT, detail))
            segments += kept
            for node, reason in rejected:
                examples.add_node(page, node, reason)
    return Extracted(
        segments,
        examples.rejects,
        Counts(headers, len(segments), examples.counts()),
        page_examples.rejects,
        Counts(pages, pages_out, page_examples.counts(), errors),
        profile,
    )


class Examples:
    """Counts rejects by reason and keeps the first few of each."""

    def __init__(self):
        self.rejects: list[Reject] = []
        self._seen: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()

    def add(self, reject: Reject, is_counted: bool = True) -> None:
        self._counted[reject.reason] += is_counted
        self._seen[reject.reason] += 1
        if self._seen[reject.reason] <= MAX_EXAMPLES:
            self.rejects.append(reject)

    def add_node(self, page: Page, node: HeaderNode, reason: str) -> None:
        if self._seen[reason] < MAX_EXAMPLES:
            self.add(_node_reject(page, node, reason))
        else:
            self._counted[reason] += 1

    def counts(self) -> dict[str, int]:
        return {reason: n for reason, n in sorted(self._counted.items()) if n}


def _page_reject(page: Page, reason: str, detail: str) -> Reject:
    source = f"{page.source.file}@{page.source.offset}"
    return Reject(page.source.record_id, source, reason, f"{page.url} {detail}"[:_EXCERPT])


def _node_reject(page: Page, node: HeaderNode, reason: str) -> Reject:
    source = f"{page.source.file}@{page.source.offset}"
    # A page's first header holds the whole page; its text is not put together for an excerpt.
    text = node.text() if node.length < 100_000 else ""
    return Reject(node_id(page, node), source, reason, excerpt(node.header, text))


def excerpt(header: str, text: str) -> str:
    """Returns what a reject shows of a segment."""
    return f"{header[:_EXCERPT]} | {text}"[:_EXCERPT]


class _ExtractPart(beam.DoFn):
    """Index of a part -> its shard in extracted/, with a done marker."""

    def __init__(
        self, stage: StageDir, reading: ReadConfig, filters: SegmentFilters, fingerprint: str
    ):
        self._stage, self._reading, self._filters = stage, reading, filters
        self._fingerprint = fingerprint

    def process(self, element: int) -> None:
        part = _read_manifest(str(_manifest_path(self._stage)))[element]
        extracted = extract_part(part, self._reading, self._filters)
        write = functools.partial(self._stage.write_shard, element, fingerprint=self._fingerprint)
        # The pages come first: the marker of the extracted shard says that both are there.
        profile = extracted.profile.plain()
        write(Reject, extracted.page_rejects, extracted.page_counts, folder=PAGES, profile=profile)
        write(
            Segment,
            extracted.segments,
            extracted.counts,
            rejects=extracted.rejects,
            folder=EXTRACTED,
        )
        _count("pages", extracted.page_counts)
        _count("segments", extracted.counts)


def _count(what: str, counts: Counts) -> None:
    """Adds a shard's counts to the counters that runners show while a job runs."""
    numbers = {"in": counts.records_in, "out": counts.records_out, "errors": counts.errors}
    numbers |= {f"rejected_{reason}": number for reason, number in counts.rejects.items()}
    for name, number in numbers.items():
        if number:
            Metrics.counter("segment", f"{what}_{name}").inc(number)


def extract(
    stage: StageDir,
    parts: Sequence[Part],
    reading: ReadConfig,
    filters: SegmentFilters,
    fingerprint: str,
    beam_config: BeamConfig,
) -> PipelineResult | None:
    """Writes the extracted shards of the parts that are not done yet.

    Returns:
      The runner's result, None if there was nothing to do. Its counters in the namespace "segment",
      pages_in, pages_out, pages_rejected_<reason> and the same of segments, are of this run alone.
    """
    todo = stage.todo(len(parts), fingerprint, EXTRACTED)
    if not todo:
        return None
    # Workers read the parts from a file: a long list would pass the size of a job's graph.
    lines = (json.dumps(dataclasses.asdict(part)) for part in parts)
    write_atomic(_manifest_path(stage), "\n".join(lines))
    _read_manifest.cache_clear()
    _log.info("segment: %d of %d parts to extract", len(todo), len(parts))
    step = _ExtractPart(stage, reading, filters, fingerprint)

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | "Parts" >> beam.Create(todo)
            | "Spread" >> beam.Reshuffle()
            | "Extract" >> beam.ParDo(step)
        )

    with shard_progress(stage, len(parts), EXTRACTED):
        return run_pipeline(build, beam_config)


def _manifest_path(stage: StageDir) -> epath.Path:
    return stage.path / "parts.jsonl"


@functools.lru_cache(maxsize=1)
def _read_manifest(path: str) -> list[Part]:
    rows = map(json.loads, epath.Path(path).read_text().split("\n"))
    return [Part(**row | {"files": tuple(row["files"])}) for row in rows]

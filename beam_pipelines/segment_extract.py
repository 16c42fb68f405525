"""The first pipeline of the segment stage: an archive -> its extracted shard and done marker."""

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Sequence

import apache_beam as beam
from etils import epath

from beam_pipelines.execution import BeamConfig, run_pipeline
from beam_pipelines.progress import shard_progress
from humpback_jax.corpus.filters import SegmentFilters, node_id, select
from humpback_jax.corpus.html import PageError
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.segments import HeaderNode, page_headers
from humpback_jax.corpus.warc import read_pages
from humpback_jax.records import Reject, Segment
from humpback_jax.rundir import Counts, StageDir, write_atomic

EXTRACTED, PAGES = "extracted", "pages"
# Examples kept with text for each reason and shard; all rejects are counted.
MAX_EXAMPLES = 20
_EXCERPT = 300

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class Extracted:
    """What one archive gave."""

    segments: list[Segment]
    rejects: list[Reject]
    counts: Counts
    page_rejects: list[Reject]
    page_counts: Counts


def extract_file(file: str, filters: SegmentFilters) -> Extracted:
    """Returns the segments of an archive that pass the filters of their own page."""
    segments: list[Segment] = []
    examples, page_examples = Examples(), Examples()
    headers = pages = pages_out = errors = 0
    for page in read_pages(file, filters.max_page_bytes):
        pages += 1
        if isinstance(page, Reject):
            page_examples.add(page)
            continue
        try:
            nodes = page_headers(page, filters.max_page_bytes)
            kept, rejected = select(page, nodes, filters)
        except PageError as rejection:
            page_examples.add(_page_reject(page, rejection.reason, rejection.detail))
        except Exception as error:  # one page must not end an archive of thousands
            errors += 1
            page_examples.add(_page_reject(page, "error", repr(error)), is_counted=False)
        else:
            pages_out += 1
            headers += len(nodes)
            segments += kept
            for node, reason in rejected:
                examples.add_node(page, node, reason)
    return Extracted(
        segments,
        examples.rejects,
        Counts(headers, len(segments), examples.counts()),
        page_examples.rejects,
        Counts(pages, pages_out, page_examples.counts(), errors),
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


class _ExtractFile(beam.DoFn):
    """Index of an archive -> its shard in extracted/, with a done marker."""

    def __init__(self, stage: StageDir, filters: SegmentFilters, fingerprint: str):
        self._stage, self._filters, self._fingerprint = stage, filters, fingerprint

    def process(self, element: int) -> None:
        file = _manifest(str(_manifest_path(self._stage)))[element]
        extracted = extract_file(file, self._filters)
        write = functools.partial(self._stage.write_shard, element, fingerprint=self._fingerprint)
        # The pages come first: the marker of the extracted shard says that both are there.
        write(Reject, extracted.page_rejects, extracted.page_counts, folder=PAGES)
        write(
            Segment,
            extracted.segments,
            extracted.counts,
            rejects=extracted.rejects,
            folder=EXTRACTED,
        )


def extract(
    stage: StageDir,
    files: Sequence[str],
    filters: SegmentFilters,
    fingerprint: str,
    beam_config: BeamConfig,
) -> None:
    """Writes the extracted shards of the archives that are not done yet."""
    todo = stage.todo(len(files), fingerprint, EXTRACTED)
    if not todo:
        return
    # Workers read names from a file: a long list would pass the size of a job's graph.
    write_atomic(_manifest_path(stage), "\n".join(files))
    _manifest.cache_clear()
    _log.info("segment: %d of %d archives to extract", len(todo), len(files))
    step = _ExtractFile(stage, filters, fingerprint)

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | "Archives" >> beam.Create(todo)
            | "Spread" >> beam.Reshuffle()
            | "Extract" >> beam.ParDo(step)
        )

    with shard_progress(stage, len(files), EXTRACTED):
        run_pipeline(build, beam_config)


def _manifest_path(stage: StageDir) -> epath.Path:
    return stage.path / "archives.txt"


@functools.lru_cache(maxsize=1)
def _manifest(path: str) -> list[str]:
    return epath.Path(path).read_text().split("\n")

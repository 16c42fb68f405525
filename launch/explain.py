"""`humpback segment --explain URL`: a page's headers, and what became of each."""

import dataclasses
import functools
from collections.abc import Iterator

import pyarrow.parquet as pq

from beam_pipelines.corpus_files import find_files, survey
from beam_pipelines.segment import STAGE
from beam_pipelines.segment_collect import shard_of
from beam_pipelines.segment_inputs import locate
from humpback_jax.corpus.explain import KEPT, explain, undecided
from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.corpus.page import Page
from humpback_jax.corpus.reading import ReadConfig, read_part
from humpback_jax.errors import UserError
from humpback_jax.rundir import StageDir
from launch import configuration
from launch.context import Context

_DROPPED = "dropped later"


def run(context: Context, url: str) -> None:
    """Prints the pages of the corpus with that URL, those of the first part that has any.

    Raises:
      UserError: no page has it.
    """
    filters = locate(configuration.build(SegmentFilters))
    stage = context.stage(STAGE)
    if stage.is_done():
        later = functools.partial(_fate, stage, context.recipe.num_shards)
    else:
        later = undecided
    for page in _pages_of(context.recipe.path(context.recipe.corpus), url, filters):
        print("\n".join(explain(page, filters, later)), flush=True)


def _pages_of(corpus: str, url: str, filters: SegmentFilters) -> Iterator[Page]:
    reading = dataclasses.replace(configuration.build(ReadConfig), on_bad_file="skip")
    read = 0
    for part in survey(find_files(corpus, keep_missing=True)).parts(reading.part_bytes):
        found = False
        for page in read_part(part, reading, filters.max_page_bytes):
            read += 1
            if isinstance(page, Page) and page.url == url:
                found = True
                yield page
        if found:
            return
    raise UserError(
        f"none of the {read} pages of '{corpus}' has the URL {url}: give it as the corpus has it, "
        "with http:// or https:// and every slash"
    )


def _fate(stage: StageDir, num_shards: int, segment_id: str) -> str:
    """Returns what the finished stage decided on a segment that passed the filters of its page."""
    shard = shard_of(segment_id, num_shards)
    with stage.shard_path(shard).open("rb") as stream:
        kept = pq.read_table(stream, columns=["segment_id"]).column(0).to_pylist()
    if segment_id in kept:
        return KEPT
    rejects = (reject for reject in stage.read_rejects() if reject.record_id == segment_id)
    return next((reject.reason for reject in rejects), _DROPPED)

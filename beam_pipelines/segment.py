"""The segment stage: web pages in, the segments that are worth an instruction out.

Two pipelines, so that hours of parsing survive a kill. The first takes one part of a file for an
element and writes its surviving segments as an intermediate shard of the stage. The second decides
what needs the whole corpus (duplicates, cap for each site, sample) on ids and digests alone, then
moves each kept text once, to the shard its id hashes to. All choices hang on record ids, never on
order, worker or time: any way of getting to the end ends in the same bytes.

    segment/parts.jsonl  the parts: files, or byte ranges of large ones
    segment/extracted/   one shard for each part: what passed the filters of its own page
    segment/sketches/    one table for each part: what duplicates are found by, without text
    segment/pages/       one shard for each part: rejected pages, and the count of pages
    segment/shards/      the result, sorted by segment_id
    segment/rejects/     examples of rejected segments and pages for each reason
"""

import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Sequence

from etils import epath

from beam_pipelines.config import BeamConfig
from beam_pipelines.corpus_files import find_files, survey
from beam_pipelines.segment_collect import collect
from beam_pipelines.segment_extract import EXTRACTED, PAGES, extract
from beam_pipelines.segment_inputs import locate
from humpback_jax.corpus.filters import SegmentFilters, funnel
from humpback_jax.corpus.profile import Profile
from humpback_jax.corpus.reading import Part, ReadConfig
from humpback_jax.errors import UsageError, UserError
from humpback_jax.rundir import Counts, StageDir

STAGE = "segment"
_AS_USUAL = ReadConfig()

_log = logging.getLogger(__name__)


def run_segment(
    run_dir: epath.PathLike,
    corpus: str,
    filters: SegmentFilters,
    beam_config: BeamConfig,
    num_shards: int,
    reading: ReadConfig = _AS_USUAL,
) -> None:
    """Runs the segment stage of a run directory, or what is left of it.

    stage.json holds the law of segments as `counts` (a record in is a header), the law of pages as
    `pages` (a page in is one in a file, or a place where one could not be read; a page out has a
    segment that passed the filters of its page), and `funnel`: [step, segments remaining] in the
    order of the filters.

    Args:
      run_dir: the run directory.
      corpus: glob of files, a folder, or @manifest.txt, or several with commas between, local or
        gs://.
      filters: which segments are kept.
      beam_config: where the pipelines run; with --dry_run among its options they are translated
        for that runner, and nothing else is done.
      num_shards: shards of the result; a shard is sorted in the memory of one worker.
      reading: how files are read; the result does not depend on how they are divided.

    Raises:
      UserError: no file matches, a file is bad, no file holds pages, nothing passes the filters,
        or the stage was begun with another configuration.
    """
    if num_shards < 1:
        raise UsageError(f"num_shards is {num_shards}: give 1 or more")
    start = time.monotonic()
    stage = StageDir(run_dir, STAGE)
    config = {"filters": filters.settings(), "num_shards": num_shards, "reading": reading}
    try:
        files = find_files(corpus, keep_missing=reading.on_bad_file == "skip")
        filters = locate(filters)
    except UserError:
        # The files may be gone once the stage is done; its configuration is still compared.
        if not stage.is_done():
            raise
        stage.begin(config, _stage_inputs(stage))
        return
    found = survey(files)
    parts = found.parts(reading.part_bytes)
    if beam_config.is_dry_run:
        _translate(parts, reading, filters, num_shards, beam_config)
        return
    inputs = {"files": str(len(files)), "corpus": found.digest, **filters.file_digests()}
    fingerprint = stage.begin(config, inputs)
    if stage.is_done():
        return
    extract(stage, parts, reading, filters, fingerprint, beam_config)
    _check_pages(stage, corpus, len(files))
    collect(stage, len(parts), filters, num_shards, fingerprint, beam_config)
    _finish(stage, time.monotonic() - start)


def _translate(
    parts: Sequence[Part],
    reading: ReadConfig,
    filters: SegmentFilters,
    num_shards: int,
    beam_config: BeamConfig,
) -> None:
    """Lets the runner translate both pipelines; nothing is run, and nothing left behind."""
    with tempfile.TemporaryDirectory() as folder:
        stage = StageDir(folder, STAGE)
        extract(stage, parts, reading, filters, "", beam_config)
        collect(stage, len(parts), filters, num_shards, "", beam_config)
    _log.info("segment: %d parts, two jobs that %s takes", len(parts), beam_config.runner)


def _stage_inputs(stage: StageDir) -> dict[str, str]:
    """Returns the digests of the inputs that a stage was begun with."""
    return json.loads((stage.path / "config.json").read_text())["inputs"]


def _check_pages(stage: StageDir, corpus: str, num_files: int) -> None:
    if stage.counts(PAGES).rejects.get("not_warc", 0) == num_files:
        raise UserError(
            f"none of the {num_files} files of '{corpus}' holds pages: give a pattern of WARC, "
            f"JSON lines, Parquet or HTML files, and delete {stage.path}"
        )


def _finish(stage: StageDir, seconds: float) -> None:
    extracted, final, pages = stage.counts(EXTRACTED), stage.counts(), stage.counts(PAGES)
    pages.check("segment stage, pages")
    if extracted.records_out != final.records_in:
        raise RuntimeError(
            f"segment stage lost records: {extracted.records_out} extracted, "
            f"{final.records_in} collected"
        )
    rejects = dict(extracted.rejects) | dict(final.rejects)
    counts = Counts(extracted.records_in, final.records_out, rejects, extracted.errors)
    steps = funnel(counts.records_in, Counter(counts.rejects))
    if not counts.records_out:
        raise UserError(
            f"no segment is left of {pages.records_in} pages ({pages}) and {counts.records_in} "
            f"headers ({counts}): relax SegmentFilters and delete {stage.path}"
        )
    _log.info("segment: pages %s; segments %s", pages, counts)
    profile = sum(
        (Profile.from_plain(marker["profile"]) for marker in stage.markers(PAGES)), Profile()
    )
    stage.finish(
        counts,
        stage.shards_digest(),
        seconds,
        pages=pages,
        funnel=steps,
        profile=profile.plain(),
    )

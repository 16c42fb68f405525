"""The choices over a whole corpus, against the same rules written without Beam and NumPy tables."""

import dataclasses
import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from beam_pipelines import segment_collect, segment_decide
from beam_pipelines.config import BeamConfig
from beam_pipelines.execution import pipeline_options
from beam_pipelines.segment_collect import collect
from beam_pipelines.segment_extract import EXTRACTED, PAGES
from humpback_jax.corpus.filters import SegmentFilters
from humpback_jax.corpus.identity import sample_key
from humpback_jax.corpus.near_duplicates import in_bucket
from humpback_jax.corpus.sketches import Sketcher
from humpback_jax.corpus.words import text_digest, word_hashes, words
from humpback_jax.records import Reject, Segment, Signals, Source, stable_id
from humpback_jax.rundir import Counts, StageDir

BEAM = BeamConfig()
FILTERS = SegmentFilters(min_length=1, max_per_site=9, max_segments=40, seed=3)


def segment(number, text, site):
    source = Source(f"{number % 7}.warc.gz", number, f"record {number}")
    name = stable_id(number)
    signals = Signals(len(text), 0.0, 0.0, 0.0)
    return Segment(name, source, f"http://{site}/{number}", "en", ("H",), "H", text, site, signals)


def corpus(seed, size=90):
    """Returns segments with families of copies, near copies and chains of near copies."""
    rng = random.Random(seed)
    texts = []
    for _ in range(size):
        found = texts[rng.randrange(len(texts))].split() if texts and rng.random() < 0.5 else []
        kind = rng.choice(("copy", "case", "near", "far")) if found else "new"
        if kind == "new":
            found = [f"w{rng.randrange(9999)}" for _ in range(rng.randint(20, 90))]
        if kind == "case":
            found = [w.upper() for w in found]
        for _ in range({"near": 1, "far": len(found) // 3}.get(kind, 0)):
            found[rng.randrange(len(found))] = f"x{rng.randrange(9999)}"
        texts.append((", " if kind == "case" else " ").join(found))
    return [segment(n, text, f"site{n % 6}.org") for n, text in enumerate(texts)]


def expected(segments, filters):
    """Returns {segment_id: reason} of what is dropped, by the rules in docs/corpus.md."""
    dropped = {}

    def first(key, order, limit, reason):
        groups = defaultdict(list)
        for s in segments:
            if s.segment_id not in dropped:
                groups[key(s)].append(s)
        for group in groups.values():
            for s in sorted(group, key=order)[limit:]:
                dropped[s.segment_id] = reason

    def by_id(s):
        return s.segment_id

    def by_sample(s):
        return sample_key(filters.seed, s.segment_id)

    first(lambda s: text_digest(s.text), by_id, 1, "duplicate")
    min_hash, buckets = filters.min_hash, defaultdict(list)
    if min_hash is not None:
        for s in sorted(segments, key=by_id):
            if s.segment_id not in dropped:
                values = min_hash.values(word_hashes(words(s.text)))
                for key in min_hash.band_keys(values[None])[0].tolist():
                    buckets[key].append((s.segment_id, values.astype(np.uint8)))
        for bucket in buckets.values():
            gone = in_bucket(np.stack([values for _, values in bucket]), min_hash)
            dropped |= {i: "near_duplicate" for (i, _), g in zip(bucket, gone, strict=True) if g}
    if filters.max_per_site:
        first(lambda s: s.site, by_sample, filters.max_per_site, "site_cap")
    if filters.max_segments:
        first(lambda s: "", by_sample, filters.max_segments, "not_sampled")
    return dropped


def collected(folder, files, filters, beam_config=BEAM, num_shards=3):
    """Collects segments that were extracted from files, each a list of segments."""
    stage = StageDir(folder, "segment")
    fingerprint = stage.begin({}, {})
    for index, rows in enumerate(files):
        nothing = Counts(0, 0)
        stage.write_shard(index, Reject, [], nothing, fingerprint, folder=PAGES)
        counts = Counts(len(rows), len(rows))
        stage.write_shard(index, Segment, rows, counts, fingerprint, folder=EXTRACTED)
    collect(stage, len(files), filters, num_shards, fingerprint, beam_config)
    return stage


def divided(segments, number, seed):
    """Returns the segments in some order in so many files."""
    rng = random.Random(seed)
    files = [[] for _ in range(number)]
    for s in rng.sample(segments, len(segments)):
        rng.choice(files).append(s)
    return files


def shards(stage):
    return [stage.shard_path(i).read_bytes() for i in range(len(stage.markers()))]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_per_site": 0, "max_segments": 0},
        {"near_permutations": 0},
        {"near_threshold": 0.5, "near_permutations": 64, "max_segments": 0},
        {"max_per_site": 0, "max_segments": 1},
        {"max_segments": 10_000},
    ],
)
def test_what_is_dropped_follows_the_rules_however_the_corpus_is_divided(tmp_path, changes):
    filters = dataclasses.replace(FILTERS, **changes)
    segments = corpus(seed=len(changes))
    dropped = expected(segments, filters)
    kept = [s for s in segments if s.segment_id not in dropped]
    stages = [
        collected(tmp_path / f"{n}", divided(segments, n, seed=n), filters) for n in (1, 5, 12)
    ]
    for stage in stages:
        assert sorted(s.segment_id for s in stage.read(Segment)) == sorted(
            s.segment_id for s in kept
        )
        counts = Counts(len(segments), len(kept), dict(Counter(dropped.values())))
        assert stage.counts() == counts
    assert shards(stages[0]) == shards(stages[1]) == shards(stages[2])
    if not changes:
        reasons = {"duplicate", "near_duplicate", "site_cap", "not_sampled"}
        assert set(dropped.values()) == reasons


def test_division_into_parts_decides_nothing(tmp_path, monkeypatch):
    files = divided(corpus(seed=8), 6, seed=0)
    whole = collected(tmp_path / "whole", files, FILTERS)
    monkeypatch.setattr(segment_decide, "_PART", 16)
    many = collected(tmp_path / "many", files, FILTERS)
    processes = BeamConfig(direct_running_mode="multi_processing", num_workers=2)
    two = collected(tmp_path / "two", files, FILTERS, processes)
    assert shards(whole) == shards(many) == shards(two)


def test_rejects_are_the_same_when_only_some_shards_are_written_anew(tmp_path):
    # More are dropped for one reason than are shown of a file.
    segments = [segment(n, f"all the same {n % 2}", "a.org") for n in range(120)]
    stage = collected(tmp_path, [segments], SegmentFilters(), num_shards=2)
    assert stage.counts().rejects == {"duplicate": 118}
    whole = [stage.shard_path(i, "rejects").read_bytes() for i in range(2)]
    stage.marker(1).unlink()
    stage.shard_path(1, "rejects").unlink()
    stage = collected(tmp_path, [segments], SegmentFilters(), num_shards=2)
    assert [stage.shard_path(i, "rejects").read_bytes() for i in range(2)] == whole


def test_sketch_of_a_shard_that_was_made_anew_is_not_used(tmp_path):
    before, after = (divided(corpus(seed=n), 2, seed=0) for n in (1, 2))
    stage = collected(tmp_path / "run", before, FILTERS)
    for marker in stage.path.glob("shards/*.done.json"):
        marker.unlink()
    stage = collected(tmp_path / "run", after, FILTERS)
    assert shards(stage) == shards(collected(tmp_path / "fresh", after, FILTERS))


def test_beam_counters_equal_the_done_markers(tmp_path, monkeypatch):
    results = []

    def run_pipeline(build, config):
        with segment_collect.beam.Pipeline(
            runner=config.runner, options=pipeline_options(config)
        ) as pipeline:
            build(pipeline)
        results.append(pipeline.result)

    monkeypatch.setattr(segment_collect, "run_pipeline", run_pipeline)
    stage = collected(tmp_path, divided(corpus(seed=5), 4, seed=0), FILTERS)
    (result,) = results
    found = {
        c.key.metric.name: c.committed
        for c in result.metrics().query()["counters"]
        if c.key.metric.namespace == "segment"
    }
    counts = stage.counts()
    dropped = {f"dropped_{reason}": number for reason, number in counts.rejects.items()}
    assert found == {"kept": counts.records_out, **dropped}
    assert len(found) == 5


def test_every_near_duplicate_has_an_earlier_twin_and_no_stranger_goes(tmp_path):
    rng = random.Random(11)
    families, segments = {}, []
    for family in range(40):
        base = [f"w{rng.randrange(9999)}" for _ in range(150)]
        for _ in range(rng.randint(1, 4)):
            found = list(base)
            found[rng.randrange(150)] = f"x{family}"  # similarity of two of them: 0.87 or more
            segments.append(segment(len(segments), " ".join(found), "a.org"))
            families[segments[-1].segment_id] = family
    filters = SegmentFilters(min_length=1)
    stage = collected(tmp_path, divided(segments, 3, seed=1), filters)
    kept = [s.segment_id for s in stage.read(Segment)]
    by_family = defaultdict(list)
    for name in sorted(families):
        by_family[families[name]].append(name)
    # The first of each family is kept, and next to none besides: 1 pair of 300 does not meet.
    assert {names[0] for names in by_family.values()} <= set(kept)
    assert len(kept) <= 40 + 2
    assert stage.counts().rejects.keys() <= {"duplicate", "near_duplicate"}


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_last_of_the_smallest_is_that_of_all_keys_together(size, monkeypatch):
    rng = np.random.default_rng(size)
    entries = np.zeros(700, segment_decide._SAMPLED)
    entries["key"] = rng.integers(0, 90, 700)  # many are equal: the place settles them
    entries["file"], entries["row"] = np.arange(700) % 6, np.arange(700)
    step = segment_decide._LastOfSmallest(size)
    # However keys come together, and however often they are shortened on the way.
    monkeypatch.setattr(segment_decide, "_SLACK", 0)
    packed = [some.tobytes() for some in np.array_split(rng.permutation(entries), 23)]
    sums = [step.create_accumulator() for _ in range(3)]
    for number, some in enumerate(packed):
        sums[number % 3] = step.add_input(sums[number % 3], some)
    last = step.extract_output(step.merge_accumulators(sums))
    ordered = sorted(entries.tolist())
    assert last == (ordered[size - 1] if size < 700 else None)
    assert len(step.merge_accumulators(sums)) <= 2 * size * entries.itemsize


def test_more_in_one_file_than_the_site_may_have_is_dropped_where_it_stands():
    step = segment_decide._KeepFirst("site", "sample", 2, "site_cap")
    sketcher = Sketcher(0, None)
    rows = corpus(seed=1, size=30)
    sketch = sketcher.sketch(*zip(*((s.segment_id, s.site, s.text) for s in rows), strict=True))
    kept, dropped = step.divide(step.entries(4, sketch, np.arange(30)))
    assert len(kept) == 2 * len({s.site for s in rows})
    assert sorted([*kept["row"].tolist(), *dropped["row"].tolist()]) == list(range(30))
    for site in {s.site for s in rows}:
        mine = [n for n, s in enumerate(rows) if s.site == site]
        first = sorted(mine, key=lambda n: sample_key(0, rows[n].segment_id))[:2]
        assert {n for n in kept["row"].tolist() if n in mine} == set(first)

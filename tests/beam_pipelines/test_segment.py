import hashlib
import json
import pathlib
import shutil

import pytest
from clueweb22_tree import Document, write_tree

from beam_pipelines import segment_extract
from beam_pipelines.config import BeamConfig
from beam_pipelines.corpus_files import find_files, survey
from beam_pipelines.segment import run_segment
from beam_pipelines.segment_collect import shard_of
from humpback_jax import records
from humpback_jax.corpus.filters import FUNNEL, SegmentFilters
from humpback_jax.corpus.reading import Part, ReadConfig
from humpback_jax.errors import UserError
from humpback_jax.records import Reject, Segment
from humpback_jax.rundir import Counts, StageDir

CORPUS = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "data" / "corpus"
needs_corpus = pytest.mark.skipif(not CORPUS.exists(), reason="the development corpus is absent")

BEAM = BeamConfig()
FILTERS = SegmentFilters(min_length=20, max_length=300, language="")
TOPICS = ("Bread", "Yeast", "Ovens", "Flour", "Salt", "Crust", "Rolls", "Rye", "Wheat", "Dough")


@pytest.fixture
def corpus(tmp_path, archive):
    """Three archives: ten good segments each, one of them in all three, and rejects."""
    for n in range(3):
        pages = [
            (
                f"http://site{i % 2}.org/{n}/{i}",
                f"<h1>{topic}</h1><p>{topic} of archive {n if i else 'any'} is described here.",
            )
            for i, topic in enumerate(TOPICS)
        ]
        pages += [
            ("http://a.b/1", "<h1>NAVIGATION</h1><p>Home, sweet home, is where we are.</p>"),
            ("http://a.b/2", "<h1>Short</h1>x"),
            ("http://a.b/3", "<p>No header here.</p>"),
        ]
        archive(tmp_path / "corpus" / f"{n}.warc.gz", pages)
    return tmp_path / "corpus"


def run(run_dir, corpus, filters=FILTERS, beam_config=BEAM, num_shards=4, **reading):
    reading = ReadConfig(**reading)
    run_segment(run_dir, f"{corpus}/*.warc.gz", filters, beam_config, num_shards, reading)
    return StageDir(run_dir, "segment")


def contents(stage):
    """Returns a digest of each file of the stage but the times in stage.json."""
    files = {}
    for path in sorted(pathlib.Path(stage.path).rglob("*")):
        if path.is_file() and path.name != "stage.json":
            files[str(path.relative_to(stage.path))] = hashlib.sha256(path.read_bytes()).hexdigest()
    summary = stage.summary()
    return files, {k: v for k, v in summary.items() if k not in ("seconds", "finished")}


def test_stage_conserves_segments_and_pages(tmp_path, corpus):
    stage = run(tmp_path / "run", corpus)
    summary = stage.summary()
    counts, pages = Counts(**summary["counts"]), Counts(**summary["pages"])
    assert counts == Counts(36, 28, {"duplicate": 2, "header_upper": 3, "too_short": 3})
    assert pages == Counts(39, 30, {"no_header": 3, "no_segment_kept": 6})
    assert [step for step, _ in summary["funnel"]] == ["header nodes", *(s for s, _ in FUNNEL)]
    assert dict(summary["funnel"])["length"] == 33
    assert dict(summary["funnel"])["sample"] == 28
    segments = list(stage.read(Segment))
    assert len({s.segment_id for s in segments}) == len({s.text for s in segments}) == 28
    assert summary["digest"] == stage.shards_digest()


def test_shards_are_sorted_and_hold_the_ids_that_hash_to_them(tmp_path, corpus):
    stage = run(tmp_path / "run", corpus, num_shards=3)
    assert stage.todo(3, json.loads(stage.marker(0).read_text())["fingerprint"]) == []
    ids = [s.segment_id for s in stage.read(Segment)]
    shards = [shard_of(i, 3) for i in ids]
    assert shards == sorted(shards)
    assert ids == sorted(ids, key=lambda i: (shard_of(i, 3), i))


def test_more_shards_than_segments(tmp_path, corpus):
    stage = run(tmp_path / "run", corpus, num_shards=100)
    assert len(stage.markers()) == 100
    assert len(list(stage.read(Segment))) == 28


def test_rejects_have_examples_with_text_for_every_reason(tmp_path, corpus):
    stage = run(tmp_path / "run", corpus)
    rejects = {r.reason: r for r in stage.read_rejects()}
    segments, pages = {"duplicate", "header_upper", "too_short"}, {"no_header", "no_segment_kept"}
    assert set(rejects) == segments | pages
    assert rejects["header_upper"].detail.startswith("NAVIGATION | Home, sweet home")
    assert rejects["duplicate"].detail.startswith("Bread | ")
    assert ".warc.gz@" in rejects["no_header"].source


def test_examples_are_few_and_all_rejects_are_counted(tmp_path, archive):
    archive(tmp_path / "c" / "a.warc.gz", [("http://a.b/", "<h1>A</h1>x" * 90)])
    archive(tmp_path / "c" / "b.warc.gz", [("http://a.b/", f"<h1>Good</h1>{'word ' * 9}")])
    stage = run(tmp_path / "run", tmp_path / "c", num_shards=1)
    assert stage.summary()["counts"]["rejects"] == {"too_short": 90}
    assert len([r for r in stage.read_rejects() if r.reason == "too_short"]) == 20


def test_bytes_do_not_depend_on_how_the_work_was_done(tmp_path, corpus):
    filters = SegmentFilters(
        min_length=20, max_length=300, language="", max_per_site=12, max_segments=15
    )
    one = run(tmp_path / "one", corpus, filters)
    processes = BeamConfig(direct_running_mode="multi_processing", num_workers=2)
    two = run(tmp_path / "two", corpus, filters, processes)
    assert contents(one) == contents(two)
    assert one.summary()["counts"]["records_out"] == 15
    rejects = one.summary()["counts"]["rejects"]
    assert rejects["site_cap"] == 28 - 24
    assert rejects["not_sampled"] == 24 - 15


@pytest.mark.parametrize("killed", ["extract", "collect", "finish"])
def test_rerun_after_a_kill_ends_in_the_same_bytes(tmp_path, corpus, killed, monkeypatch):
    filters = SegmentFilters(min_length=20, max_length=300, language="", max_segments=20)
    whole = contents(run(tmp_path / "run", corpus, filters))
    stage = StageDir(tmp_path / "run", "segment")
    (stage.path / "stage.json").unlink()
    extracted = []
    if killed == "extract":
        for folder in ("shards", "rejects"):
            shutil.rmtree(stage.path / folder)
        for index in (0, 2):
            stage.marker(index, "extracted").unlink()
            stage.shard_path(index, "extracted").write_bytes(b"half a fi")
    elif killed == "collect":
        for index in (1, 3):
            stage.marker(index).unlink()
            stage.shard_path(index).unlink()
    original = segment_extract.extract_part
    monkeypatch.setattr(
        segment_extract,
        "extract_part",
        lambda part, *options: extracted.append(part) or original(part, *options),
    )
    assert contents(run(tmp_path / "run", corpus, filters)) == whole
    assert len(extracted) == (2 if killed == "extract" else 0)


def test_done_stage_is_skipped_even_without_its_archives(tmp_path, corpus):
    stage = run(tmp_path / "run", corpus)
    finished = stage.summary()["finished"]
    run(tmp_path / "run", corpus)
    shutil.rmtree(corpus)
    run(tmp_path / "run", corpus)
    assert stage.summary()["finished"] == finished
    with pytest.raises(UserError, match="min_length"):
        run(tmp_path / "run", corpus, SegmentFilters(min_length=30))


def test_changed_archive_is_refused(tmp_path, corpus, archive):
    run(tmp_path / "run", corpus)
    archive(corpus / "1.warc.gz", [("http://a.b/", "<h1>New</h1>text")])
    with pytest.raises(UserError, match="another configuration"):
        run(tmp_path / "run", corpus)


def test_ids_and_digest_do_not_depend_on_the_folder(tmp_path, corpus):
    one = run(tmp_path / "one", corpus)
    moved = tmp_path / "elsewhere" / "corpus"
    shutil.copytree(corpus, moved)
    two = run(tmp_path / "two", moved)
    assert [s.segment_id for s in one.read(Segment)] == [s.segment_id for s in two.read(Segment)]
    assert survey(find_files(f"{corpus}/*")).digest == survey(find_files(f"{moved}/*")).digest
    assert next(two.read(Segment)).source.file.startswith(str(moved))


def test_same_archive_twice_keeps_each_text_once(tmp_path, corpus):
    shutil.copy(corpus / "0.warc.gz", corpus / "copy.warc.gz")
    stage = run(tmp_path / "run", corpus)
    assert len({s.segment_id for s in stage.read(Segment)}) == 28
    assert stage.summary()["counts"]["rejects"]["duplicate"] == 12


def test_page_that_fails_is_an_error_and_the_archive_goes_on(tmp_path, corpus, monkeypatch):
    original = segment_extract.select_page

    def select_page(page, filters):
        if page.url == "http://site1.org/1/1":
            raise ZeroDivisionError("no such luck")
        return original(page, filters)

    monkeypatch.setattr(segment_extract, "select_page", select_page)
    stage = run(tmp_path / "run", corpus)
    assert stage.summary()["pages"]["errors"] == 1
    assert stage.summary()["counts"]["records_out"] == 27
    (reject,) = (r for r in stage.read_rejects() if r.reason == "error")
    assert "ZeroDivisionError" in reject.detail


def test_file_that_is_no_archive_is_counted_and_alone_it_is_an_error(tmp_path, corpus):
    (corpus / "page.warc.gz").write_bytes(b"<html>not an archive</html>")
    stage = run(tmp_path / "run", corpus)
    assert stage.summary()["pages"]["rejects"]["not_warc"] == 1
    with pytest.raises(UserError, match="none of the 1 files"):
        run_segment(tmp_path / "other", str(corpus / "page.warc.gz"), FILTERS, BEAM, 1)


def test_what_matches_nothing_is_named(tmp_path, corpus):
    for pattern in (f"{corpus}/*.zst", f"{corpus}/*.gz,{corpus}/absent.gz"):
        with pytest.raises(UserError, match=pattern.rpartition("/")[2].replace("*", r"\*")):
            run_segment(tmp_path / "run", pattern, FILTERS, BEAM, 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").touch()
    with pytest.raises(UserError, match="other' holds no file of pages by its name .* 1 files"):
        run_segment(tmp_path / "run", str(tmp_path / "other"), FILTERS, BEAM, 1)
    with pytest.raises(UserError, match="pattern is empty"):
        run_segment(tmp_path / "run", " , ", FILTERS, BEAM, 1)
    with pytest.raises(UserError, match="no segment is left"):
        run(tmp_path / "run", corpus, SegmentFilters(min_length=290, max_length=300))


def test_find_files(tmp_path, monkeypatch):
    for name in ("b/x.gz", "a/y.gz", "a/deep/z.gz", "one,two.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert find_files("*/*.gz") == ["a/y.gz", "b/x.gz"]
    assert find_files("**/z.gz, b/x.gz,b/*") == ["a/deep/z.gz", "b/x.gz"]
    assert find_files("one,two.gz") == ["one,two.gz"]
    assert find_files(f"{tmp_path}/a/*.gz") == [f"{tmp_path}/a/y.gz"]
    with pytest.raises(UserError, match="each level"):
        find_files("gs://bucket/**/*.gz")


def test_folder_stands_for_the_files_of_pages_below_it(tmp_path):
    names = ("html/en/en00/a.warc.gz", "html/en/a.warc.offset", "inlink/en/a.json.gz", "b/c.html")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "around").symlink_to(tmp_path)
    found = find_files(str(tmp_path))
    assert found == [f"{tmp_path}/b/c.html", f"{tmp_path}/html/en/en00/a.warc.gz"]
    assert find_files(f"{tmp_path}/b, {tmp_path}/html") == found


def test_manifest_lists_files(tmp_path):
    for name in ("one.jsonl", "two, with comma.jsonl"):
        (tmp_path / name).touch()
    manifest = tmp_path / "manifest.txt"
    manifest.write_text(
        f"# what we have\n{tmp_path}/two, with comma.jsonl\n\n{tmp_path}/one.jsonl\n"
    )
    assert find_files(f"@{manifest}") == [
        f"{tmp_path}/one.jsonl",
        f"{tmp_path}/two, with comma.jsonl",
    ]
    manifest.write_text(f"{tmp_path}/one.jsonl\n{tmp_path}/three\n{tmp_path}/four\n")
    with pytest.raises(UserError, match=r"^2 of 3 files of the manifest '.*manifest.txt' are miss"):
        find_files(f"@{manifest}")
    with pytest.raises(UserError, match=f"the first is {tmp_path}/three: correct the manifest"):
        find_files(f"@{manifest}")
    assert len(find_files(f"@{manifest}", keep_missing=True)) == 3
    manifest.write_text("# nothing\n")
    with pytest.raises(UserError, match="lists no file"):
        find_files(f"@{manifest}")
    with pytest.raises(UserError, match=r"absent could not be read \(No such file"):
        find_files(f"@{tmp_path}/absent")


def test_large_files_are_divided_and_small_pages_put_together(tmp_path):
    sizes = {"a.warc": 1000, "b.warc": 250, "c/1.html": 60, "c/2.html": 50, "c/3.html": 10, "d": 9}
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    files = [str(tmp_path / name) for name in sizes]
    parts = survey(files).parts(part_bytes=300)
    starts = [(p.start, p.end) for p in parts]
    assert starts == [(0, 333), (333, 666), (666, None), (0, None), (0, None), (0, None)]
    assert parts[4] == Part(tuple(files[2:5]), folder=f"{tmp_path}/c")
    assert [len(p.files) for p in survey(files).parts(100)[-3:]] == [1, 2, 1]
    assert len(survey([f"{tmp_path}/absent"]).parts(100)) == 1


def test_cloud_storage_gives_what_a_local_folder_gives(tmp_path, corpus, bucket):
    write_tree(
        corpus / "cw",
        {"en0000-00": [Document("http://c.w/", "<h1>Oven</h1>A hot place for all bread.")]},
    )
    (corpus / "pages").mkdir()
    (corpus / "pages" / "a.html").write_text("<h1>Loaf</h1><p>Something that was baked.")
    bucket.copy_tree(corpus, "gs://bucket")
    names = [f"{n}.warc.gz" for n in range(3)]
    bucket.pipe_file("gs://bucket/list.txt", "".join(f"gs://bucket/{n}\n" for n in names).encode())

    def segments(name, patterns):
        reading = ReadConfig(part_bytes=700)
        run_segment(tmp_path / name, patterns, FILTERS, BEAM, 2, reading)
        stage = StageDir(tmp_path / name, "segment")
        return stage.summary()["pages"], [(s.segment_id, s.text) for s in stage.read(Segment)]

    local = segments("local", f"{corpus}/*.gz, {corpus}/cw, {corpus}/pages/*.html")
    cloud = segments("cloud", "@gs://bucket/list.txt, gs://bucket/cw, gs://bucket/pages/*.html")
    assert cloud == local
    assert {"A hot place for all bread.", "Something that was baked."} <= {
        text for _, text in cloud[1]
    }
    with pytest.raises(UserError, match="matches no file"):
        find_files("gs://bucket/absent/*.gz")


@pytest.mark.parametrize("part_bytes", [700, 1500])
def test_result_does_not_depend_on_how_files_are_divided(tmp_path, corpus, part_bytes):
    filters = SegmentFilters(min_length=20, max_length=300, language="", max_segments=20)
    (corpus / "1.warc.gz").write_bytes((corpus / "1.warc.gz").read_bytes()[:-300])
    one = run(tmp_path / "one", corpus, filters)
    two = run(tmp_path / "two", corpus, filters, part_bytes=part_bytes)
    parts = (two.path / "parts.jsonl").read_text().splitlines()
    assert len(parts) == len(two.markers("extracted")) > 3
    assert one.digest == two.digest
    for index in range(4):
        assert one.shard_path(index).read_bytes() == two.shard_path(index).read_bytes()
    for law in ("counts", "pages"):
        assert one.summary()[law] == two.summary()[law]
    assert one.summary()["pages"]["rejects"]["truncated"] == 1


def test_bad_file_stops_the_job_or_is_counted(tmp_path, corpus):
    (corpus / "x.warc.gz").symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=r"x\.warc\.gz could not be read .* = 'skip'$"):
        run(tmp_path / "one", corpus)
    stage = run(tmp_path / "two", corpus, on_bad_file="skip")
    assert stage.summary()["pages"]["rejects"]["unreadable"] == 1
    assert stage.summary()["counts"]["records_out"] == 28
    assert "unreadable" in {r.reason for r in stage.read_rejects()}


def test_missing_files_of_a_manifest_are_counted_if_the_configuration_says_so(tmp_path, corpus):
    manifest = tmp_path / "manifest.txt"
    manifest.write_text("".join(f"{corpus}/{n}.warc.gz\n" for n in (0, 1, 7)))
    with pytest.raises(UserError, match="1 of 3 files"):
        run_segment(tmp_path / "one", f"@{manifest}", FILTERS, BEAM, 1)
    skip = ReadConfig(on_bad_file="skip")
    run_segment(tmp_path / "two", f"@{manifest}", FILTERS, BEAM, 1, skip)
    summary = StageDir(tmp_path / "two", "segment").summary()
    assert summary["pages"]["rejects"]["unreadable"] == 1
    assert summary["pages"]["records_out"] == 20


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_counters_say_what_the_stage_says(tmp_path, corpus, monkeypatch, mode):
    (corpus / "1.warc.gz").write_bytes((corpus / "1.warc.gz").read_bytes()[:-300])
    results = []
    original = segment_extract.run_pipeline
    monkeypatch.setattr(
        segment_extract, "run_pipeline", lambda *a: results.append(original(*a)) or results[-1]
    )
    stage = run(tmp_path / "run", corpus, beam_config=BeamConfig(direct_running_mode=mode))
    (result,) = results
    counters = {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
    for law, counts in (("pages", stage.counts("pages")), ("segments", stage.counts("extracted"))):
        assert counters[f"{law}_in"] == counts.records_in
        assert counters[f"{law}_out"] == counts.records_out
        rejected = {k: v for k, v in counters.items() if k.startswith(f"{law}_rejected_")}
        assert rejected == {f"{law}_rejected_{reason}": n for reason, n in counts.rejects.items()}
    assert counters["pages_rejected_truncated"] == 1
    summary = stage.summary()
    assert counters["pages_in"] == summary["pages"]["records_in"]
    assert counters["segments_in"] == summary["counts"]["records_in"]


def conserved(stage, folder):
    """Checks the law of each shard of a folder, and that what is written is what was counted."""
    for index, marker in enumerate(stage.markers(folder)):
        counts = Counts(**marker["counts"])
        counts.check(f"{folder} {index}")
        yield index, counts


@needs_corpus
def test_nothing_of_the_development_corpus_is_lost_unsaid(tmp_path):
    skip = ReadConfig(on_bad_file="skip", part_bytes=300_000)
    pattern = f"{CORPUS}/**/*"
    run_segment(tmp_path / "run", pattern, SegmentFilters(), BEAM, 3, skip)
    stage = StageDir(tmp_path / "run", "segment")
    files = find_files(pattern)
    assert len(files) == sum(path.is_file() for path in CORPUS.rglob("*"))
    parts = [json.loads(line) for line in (stage.path / "parts.jsonl").read_text().splitlines()]
    assert {file for part in parts for file in part["files"]} == set(files)
    with_segments = {}
    for index, counts in conserved(stage, "extracted"):
        segments = records.read_parquet(Segment, stage.shard_path(index, "extracted"))
        assert len(segments) == counts.records_out
        with_segments[index] = len({(s.source.file, s.source.offset) for s in segments})
    for index, counts in conserved(stage, "pages"):
        # Documents in = documents with segments + documents without by reason.
        assert counts.records_out == with_segments[index]
        rejects = records.read_parquet(Reject, stage.shard_path(index, "pages"))
        assert {r.reason for r in rejects} == set(counts.rejects)
    assert set(with_segments) == set(range(len(parts)))
    for index, counts in conserved(stage, "shards"):
        assert len(records.read_parquet(Segment, stage.shard_path(index))) == counts.records_out
    summary = stage.summary()
    pages, segments = Counts(**summary["pages"]), Counts(**summary["counts"])
    assert pages.errors == segments.errors == 0
    # Files without pages are the 6 of links, 12 of offsets, 2 of counts and an empty one.
    damage = {"bad_length": 2, "damaged": 1, "garbage": 2, "truncated": 1}
    bad = damage | {"no_columns": 6, "not_warc": 15}
    assert {reason: pages.rejects[reason] for reason in bad} == bad
    malformed = 3 * 12 + 3 * 13 + 6
    warcio = 14
    assert pages.records_in == sum(bad.values()) + 351 + 1 + 2 * 70 + malformed + warcio


@needs_corpus
def test_real_and_damaged_archives_together(tmp_path):
    pattern = f"{CORPUS}/malformed/*.gz,{CORPUS}/clueweb22-shaped/html/**/*.warc.gz"
    run_segment(tmp_path / "run", pattern, SegmentFilters(), BEAM, 2)
    summary = StageDir(tmp_path / "run", "segment").summary()
    pages = summary["pages"]
    damage = {"bad_length": 2, "damaged": 1, "garbage": 2, "truncated": 1}
    without = {"no_header": 1, "no_segment_kept": pages["rejects"]["no_segment_kept"]}
    assert pages["rejects"] == damage | without
    assert pages["records_out"] + sum(without.values()) == 2 * 12 + 12 + 3 * 13 + 6 + 70
    # The Chinese pages are there and filtered by their language.
    assert summary["counts"]["rejects"]["language"] > 0
    assert summary["counts"]["records_out"] > 30

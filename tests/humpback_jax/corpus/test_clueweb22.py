import gzip
import itertools
import pathlib
import re

import pytest
from clueweb22_tree import Document, file_path, offset_path, write_tree

from humpback_jax.corpus.page import Page
from humpback_jax.corpus.reading import Part, ReadConfig, read_part
from humpback_jax.errors import UserError

CORPUS = pathlib.Path(__file__).resolve().parents[3].parent / "shared" / "data" / "corpus"
needs_corpus = pytest.mark.skipif(not CORPUS.exists(), reason="the development corpus is absent")

NAME = "en0000-00"
SKIP = ReadConfig(on_bad_file="skip")
KINDS = pytest.mark.parametrize("kind", ["html", "txt"])


def document(number):
    body = f"<nav>Menu</nav><h1>Bread {number}</h1><p>Flour & water, {'salt ' * number}</p>"
    return Document(f"http://example.com/{number}", f"<html><body>{body}</body></html>")


@pytest.fixture
def tree(tmp_path):
    write_tree(tmp_path, {NAME: [document(n) for n in range(8)], "en0000-01": [document(9)]})
    return tmp_path


def read(tree, kind, config=SKIP, size=None, name=NAME):
    """Reads a file in one go, or in parts of a size."""
    path = str(file_path(tree, kind, name))
    length = pathlib.Path(path).stat().st_size
    bounds = [*range(0, length, size), None] if size else [0, None]
    items = [
        item
        for start, end in itertools.pairwise(bounds)
        for item in read_part(Part((path,), start, end), config, 1 << 20)
    ]
    return [i for i in items if isinstance(i, Page)], [i for i in items if not isinstance(i, Page)]


def offsets(tree, kind):
    return list(map(int, offset_path(tree, kind, NAME).read_text().split()))


@KINDS
@pytest.mark.parametrize("size", [None, 300, 1000])
def test_whole_file_is_read_and_the_offsets_agree(tree, kind, size):
    pages, rejects = read(tree, kind, ReadConfig(), size)
    assert rejects == []
    assert [p.source.record_id for p in pages] == [f"clueweb22-en0000-00-{n:05d}" for n in range(8)]
    assert [p.source.offset for p in pages] == offsets(tree, kind)[:-1]
    assert pages[3].url == "http://example.com/3"
    assert pages[3].language == "en"
    assert pages[3].is_text == (kind == "txt")
    start = b"<html data-dcnode-id" if kind == "html" else b"Menu\nBread 3\nFlour & water, salt"
    assert pages[3].payload.startswith(start)


@KINDS
def test_each_document_after_a_cut_is_one_missing_record(tree, kind):
    path = file_path(tree, kind, NAME)
    path.write_bytes(path.read_bytes()[: offsets(tree, kind)[5] + 60])
    for size in (None, 400):
        pages, rejects = read(tree, kind, ReadConfig(), size)
        assert len(pages) == 5
        assert [r.reason for r in rejects] == ["truncated", "missing_records", "missing_records"]
        assert [r.record_id for r in rejects] == [f"@{o}" for o in offsets(tree, kind)[5:8]]


@KINDS
def test_without_offsets_the_record_counts_tell_and_the_file_is_one_part(tree, kind):
    path = file_path(tree, kind, NAME)
    path.write_bytes(path.read_bytes()[: offsets(tree, kind)[5] + 60])
    offset_path(tree, kind, NAME).unlink()
    for size in (None, 400):
        pages, rejects = read(tree, kind, ReadConfig(), size)
        assert len(pages) == 5
        assert [r.reason for r in rejects] == ["truncated", "missing_records", "missing_records"]
    assert "counts 8 documents" in rejects[-1].detail


@KINDS
def test_damaged_member_is_one_loss_and_no_fault_of_the_offsets(tree, kind):
    path, at = file_path(tree, kind, NAME), offsets(tree, kind)
    content = bytearray(path.read_bytes())
    content[at[2] + 30 : at[2] + 40] = b"\xff" * 10
    content[at[4] : at[4] + 3] = b"\0\0\0"  # this one does not even look like a member
    path.write_bytes(content)
    for size in (None, 400):
        pages, rejects = read(tree, kind, ReadConfig(), size)
        assert len(pages) == 6
        assert [r.reason for r in rejects] == ["damaged", "garbage"]
        assert [r.record_id for r in rejects] == [f"@{at[2]}", f"@{at[4]}"]


@KINDS
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda at: [at[0], at[1] + 5, *at[2:]], r"where no record starts"),
        (lambda at: [at[0], *at[2:]], r"where a record starts that it lacks"),
    ],
)
def test_offsets_that_disagree_are_named_and_stop_the_job(tree, kind, change, says):
    path, at = offset_path(tree, kind, NAME), offsets(tree, kind)
    path.write_text("".join(f"{offset:010d}\n" for offset in change(at)))
    with pytest.raises(UserError) as error:
        read(tree, kind, ReadConfig())
    assert re.search(rf"{path.name} disagrees with .*{NAME}\S* at \d+, {says}", str(error.value))
    assert str(error.value).endswith("ReadConfig.on_bad_file = 'skip'")
    for size in (None, 400):
        pages, rejects = read(tree, kind, SKIP, size)
        assert len(pages) == 8
        assert {r.reason for r in rejects} == {"bad_offsets"}
        assert {str(at[1]), str(at[1] + 5)} >= {r.record_id[1:] for r in rejects}


@KINDS
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("offsets", "is no list of offsets"),
        ("", "is no list"),
        ("9" * 5000, "is no list"),
        ("9\n7\n", "do not ascend"),
    ],
)
def test_offset_file_that_is_none(tree, kind, content, says):
    offset_path(tree, kind, NAME).write_text(content)
    with pytest.raises(UserError, match=says):
        read(tree, kind, ReadConfig())
    for size in (None, 400):
        pages, rejects = read(tree, kind, SKIP, size)
        assert len(pages) == 8
        assert [r.reason for r in rejects] == ["bad_offsets"]


@KINDS
def test_record_count_that_is_no_number(tree, kind):
    offset_path(tree, kind, NAME).unlink()
    counts = tree / "record_counts" / kind / "en00_counts.csv"
    counts.write_text(f"{NAME},many\n")
    with pytest.raises(UserError, match=rf"en00_counts\.csv has no number for {NAME}"):
        read(tree, kind, ReadConfig())
    assert [r.reason for r in read(tree, kind, SKIP, 300)[1]] == ["bad_offsets"]
    counts.write_text("en0000-07,3\n")
    assert read(tree, kind, ReadConfig())[1] == []


def test_primary_content_only(tree):
    (page, *_), _ = read(tree, "html")
    assert page.primary is None
    (page, *_), _ = read(tree, "html", ReadConfig(primary_only=True))
    texts = re.findall(rb'<span instrument_node="" data-dcnode-id="(\d+)">([^<]*)', page.payload)
    kept = [text for number, text in texts if int(number) in (page.primary or ())]
    assert kept == [b"Bread 0", b"Flour &amp; water, "]


def test_header_of_many_megabytes(tree):
    path = file_path(tree, "html", NAME)
    ids = " ".join(map(str, range(1_500_000)))
    block = b"<h1>Long</h1>"
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nClueWeb22-ID: x\r\nVDOM-Primary: {ids}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    assert len(head) > 10 << 20
    path.write_bytes(gzip.compress(head.encode() + block + b"\r\n\r\n", 1) + path.read_bytes())
    offset_path(tree, "html", NAME).unlink()
    pages, _ = read(tree, "html", ReadConfig(primary_only=True))
    assert pages[0].payload == block
    assert pages[0].primary == frozenset(range(1_500_000))


def test_tree_is_the_same_on_every_call(tmp_path):
    files = {"en0000-00": [document(1)], "zh_chs0000-03": [document(2)]}
    for name in ("a", "b"):
        write_tree(tmp_path / name, files)
    one, two = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.*")}
        for name in ("a", "b")
    )
    assert one == two
    assert file_path(tmp_path / "a", "html", "zh_chs0000-03").exists()


@needs_corpus
def test_tree_has_the_shape_of_the_real_one(tmp_path):
    real = CORPUS / "clueweb22-shaped"
    names = ("en0000-00", "en0000-01", "zh_chs0000-00")
    write_tree(tmp_path, {name: [document(n) for n in range(3)] for name in names})
    ours, theirs = (
        {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path, real)
    )
    lacking = {name for name in theirs - ours if not name.startswith(("inlink", "outlink"))}
    assert lacking == set()
    assert all(name.startswith("record_counts/txt") for name in ours - theirs)
    for kind in ("html", "txt"):
        heads = [first_record(file_path(root, kind, NAME)) for root in (tmp_path, real)]
        assert heads[0] == heads[1]
        lines = [offset_path(root, kind, NAME).read_text() for root in (tmp_path, real)]
        assert all(re.fullmatch(r"(?:\d{10}\n)+", text) for text in lines)


def first_record(path):
    """Returns the field names of the first records, and those of JSON."""
    head = gzip.decompress(path.read_bytes())
    if head.startswith(b"{"):
        return re.findall(rb'"([\w-]+)": "', head.split(b"\n")[0])
    warcinfo, response = re.split(rb"(?=WARC/1\.1\r\n)", head)[1:3]
    names = [re.findall(rb"^([\w-]+):", part, re.MULTILINE) for part in (warcinfo, response)]
    # Which annotations a page has depends on what stands in it.
    return [[name for name in part if not name.startswith(b"VDOM")] for part in names]

import pathlib

import numpy as np

from humpback_jax import records
from humpback_jax.corpus.near_duplicates import MinHash
from humpback_jax.corpus.sketches import Sketcher, read_sketch
from humpback_jax.records import Segment, Signals, Source, stable_id

SKETCHER = Sketcher(seed=1, min_hash=MinHash(16, 2, 0.8))
TEXTS = ["The oven is hot.", "the OVEN is hot", "The oven is cold.", ""]
IDS = [stable_id(n) for n in range(4)]
SITES = ["a.org", "b.org", "a.org", ""]


def test_columns():
    table = SKETCHER.sketch(IDS, SITES, TEXTS)
    assert table["bands"].shape == (4, SKETCHER.min_hash.bands)
    assert table["signature"].shape == (4, 16)
    same_text = (table["text"][:, None] == table["text"][None]).all(axis=-1)
    assert same_text.tolist() == [[n == m or {n, m} == {0, 1} for m in range(4)] for n in range(4)]
    assert (table["site"][0] == table["site"][2]).all()
    assert (table["site"][0] != table["site"][1]).any()
    assert (table["bands"][0] == table["bands"][1]).all()
    assert table["id"].tolist() == [int(i[:16], 16) for i in IDS]
    assert len(set(table["sample"].tolist())) == 4


def test_rows_do_not_depend_on_each_other():
    whole = SKETCHER.sketch(IDS, SITES, TEXTS)
    for n in range(4):
        assert (
            SKETCHER.sketch(IDS[n : n + 1], SITES[n : n + 1], TEXTS[n : n + 1]) == whole[n : n + 1]
        )
    other = Sketcher(2, SKETCHER.min_hash).sketch(IDS, SITES, TEXTS)
    assert (other["sample"] != whole["sample"]).all()
    assert (other["id"] == whole["id"]).all()


def test_without_near_duplicates_there_are_no_signatures():
    names = Sketcher(0, None).sketch(IDS, SITES, TEXTS).dtype.names
    assert names == ("id", "sample", "text", "site")
    assert len(SKETCHER.sketch([], [], [])) == 0


def test_shard_is_sketched_and_read_back(tmp_path: pathlib.Path):
    source, signals = Source("a", 0, "r"), Signals(1, 0.0, 0.0, 0.0)
    segments = [
        Segment(i, source, "http://a", "en", ("H",), "H", text, site, signals)
        for i, text, site in zip(IDS, TEXTS, SITES, strict=True)
    ]
    (tmp_path / "s.parquet").write_bytes(records.to_parquet(Segment, segments))
    packed = SKETCHER.sketch_shard(tmp_path / "s.parquet")
    assert packed == SKETCHER.sketch_shard(tmp_path / "s.parquet")
    (tmp_path / "s.npy").write_bytes(packed)
    assert np.array_equal(read_sketch(tmp_path / "s.npy"), SKETCHER.sketch(IDS, SITES, TEXTS))

import gzip
import json
import pathlib

import pytest

from humpback_jax.corpus.openassistant import SeedFilters, read_seed_pairs
from humpback_jax.errors import UsageError, UserError

OASST = pathlib.Path(__file__).resolve().parents[3].parent / "shared" / "data" / "oasst"


def message(name, parent=None, role=None, **changes):
    row = {"message_id": name, "text": f"text of {name}", "role": role, "lang": "en"}
    row["role"] = role or ("assistant" if parent else "prompter")
    if parent:
        row["parent_id"] = parent  # the exporter leaves out empty keys
    return row | changes


def tree(name, *replies, **changes):
    return {"message_tree_id": name, "prompt": message(name, **changes) | {"replies": replies}}


def read(tmp_path, *rows, packed=False, **filters):
    path = tmp_path / "export.jsonl"
    content = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    return read_seed_pairs(path, SeedFilters(**filters))


def texts(seed):
    return {(pair.instruction, pair.output) for pair in seed.pairs}


@pytest.mark.parametrize("packed", [False, True])
def test_first_turn_of_rank_0_only(tmp_path, packed):
    deeper = message("q2", "a0", role="prompter") | {"replies": [message("a2", "q2", rank=0)]}
    replies = message("a1", "q", rank=1), message("a0", "q", rank=0) | {"replies": [deeper]}
    from_tree = read(tmp_path, tree("q", *replies), packed=packed)
    flat = [message("q"), *replies, message("q2", "a0", role="prompter")]
    from_messages = read(tmp_path, *flat, message("a2", "q2", rank=0), packed=packed)
    for seed in (from_tree, from_messages):
        assert texts(seed) == {("text of q", "text of a0")}
        assert seed.counts.records_in == 1
    assert from_tree.pairs == from_messages.pairs
    assert from_tree.pairs[0].source.endswith("export.jsonl#a0")


def test_order_of_the_rows_changes_nothing(tmp_path):
    rows = [m for i in range(9) for m in (message(f"q{i}"), message(f"a{i}", f"q{i}", rank=0))]
    assert read(tmp_path, *rows).pairs == read(tmp_path, *reversed(rows)).pairs


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([message("q")], "no_reply"),
        ([message("q"), message("a", "q", rank=1)], "no_rank_0"),
        ([message("q"), message("a", "q")], "unranked"),
        ([message("q", lang="de"), message("a", "q", rank=0)], "language"),
        ([message("q"), message("a", "q", rank=0, lang="de")], "language"),
        ([message("q", deleted=True), message("a", "q", rank=0)], "deleted"),
        ([message("q"), message("a", "q", rank=0, deleted=True)], "deleted"),
        ([message("q"), message("a", "q", rank=0, synthetic=True)], "synthetic"),
        ([message("q"), message("a", "q", rank=0, text=" ")], "empty"),
        ([message("q", role="assistant"), message("a", "q", rank=0)], "not_a_prompt"),
        (["{broken"], "bad_line"),
        (["[1]"], "bad_line"),
        ([{"question": "?"}], "bad_line"),
        ([{"instruction": "?", "output": 3}], "bad_line"),
        ([{"instruction": "Bake.", "output": "Flour."}], "duplicate"),
    ],
)
def test_every_reject_has_a_reason_and_all_are_counted(tmp_path, rows, reason):
    good = {"instruction": "Bake.", "output": "Flour."}
    seed = read(tmp_path, good, *rows)
    assert texts(seed) == {("Bake.", "Flour.")}
    assert seed.counts.rejects == {reason: 1}
    assert [r.reason for r in seed.rejects] == [reason]
    seed.counts.check("test")


def test_unranked_replies_are_taken_if_asked_for(tmp_path):
    rows = [message("q"), message("a", "q", deleted=True), message("b", "q"), message("c", "q")]
    assert texts(read(tmp_path, *rows, accept_unranked=True)) == {("text of q", "text of b")}
    with pytest.raises(UserError, match="accept_unranked"):
        read(tmp_path, *rows)


def test_language_may_be_absent_regional_or_any(tmp_path):
    rows = [tree("q", message("a", "q", rank=0, lang="en-GB"), lang=None)]
    assert len(read(tmp_path, *rows).pairs) == 1
    german = [tree("q", message("a", "q", rank=0, lang="de"), lang="de")]
    assert len(read(tmp_path, *german, language="").pairs) == 1
    with pytest.raises(UserError, match=r"SeedFilters\.language"):
        read(tmp_path, *german)


def test_pairs_of_ones_own(tmp_path):
    rows = [{"instruction": " Sum up. ", "input": "Long\u2028text", "output": "Short. "}]
    seed = read(tmp_path, *rows)
    assert texts(seed) == {("Sum up.\n\nLong\u2028text", "Short.")}
    assert seed.pairs[0].source.endswith("#line 1")


def test_sample_depends_on_the_pairs_and_the_seed_alone(tmp_path):
    rows = [{"instruction": f"i{n}", "output": f"o{n}"} for n in range(40)]
    ten = read(tmp_path, *rows, max_pairs=10)
    assert ten.counts.records_out == 10
    assert ten.counts.rejects == {"not_sampled": 30}
    assert texts(ten) == texts(read(tmp_path, *reversed(rows), max_pairs=10))
    assert set(ten.pairs) <= set(read(tmp_path, *rows, max_pairs=11).pairs)
    assert ten.pairs != read(tmp_path, *rows, max_pairs=10, seed=1).pairs
    assert [p.pair_id for p in ten.pairs] == sorted(p.pair_id for p in ten.pairs)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"\x1f\x8b broken"])
def test_file_without_a_pair_is_one_sentence(tmp_path, content):
    path = tmp_path / "seed.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"seed\.jsonl"):
        read_seed_pairs(path, SeedFilters())
    with pytest.raises(UserError, match=r"absent\.jsonl"):
        read_seed_pairs(tmp_path / "absent.jsonl", SeedFilters())


def test_wrong_values_are_refused():
    with pytest.raises(UsageError, match=r"SeedFilters\.max_pairs"):
        SeedFilters(max_pairs=-1)


@pytest.mark.skipif(not OASST.exists(), reason="the Open Assistant files are absent")
def test_real_exports():
    seed = read_seed_pairs(OASST / "oasst1_en_validation.jsonl", SeedFilters())
    assert len(seed.pairs) == 186
    assert seed.counts.records_in == 188
    trees = OASST / "en_100_tree.jsonl"
    seed = read_seed_pairs(trees, SeedFilters())
    assert (len(seed.pairs), seed.counts.rejects) == (94, {"synthetic": 5, "unranked": 1})
    seed = read_seed_pairs(trees, SeedFilters(accept_synthetic=True))
    assert (len(seed.pairs), seed.counts.rejects) == (99, {"unranked": 1})

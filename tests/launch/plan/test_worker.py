import types

import pytest

from launch.plan import worker
from launch.plan.hlo import Collective

OUT_OF_MEMORY = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(36.51G) exceeds available HBM (15.75G)."
)


def test_out_of_memory_is_read_and_any_other_failure_is_not_swallowed():
    assert worker._needed_gib(RuntimeError(OUT_OF_MEMORY)) == pytest.approx(36.51)
    in_terabytes = OUT_OF_MEMORY.replace("36.51G", "1.50T")
    assert worker._needed_gib(RuntimeError(in_terabytes)) == pytest.approx(1536)
    with pytest.raises(RuntimeError, match="INTERNAL"):
        worker._needed_gib(RuntimeError("INTERNAL: something else"))


def test_the_heap_is_that_of_hbm():
    text = (
        "Memory Space: vmem (color=1)\nTotal bytes: 7 (7B)\n"
        "Memory Space: default (color=0)\nTotal bytes: 9793755648 (9.12GiB)\n  rest"
    )
    assert worker._HEAP.search(text)[1] == "9793755648"


def test_a_groups_extent_is_counted_along_each_axis_and_over_slices():
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)]
    devices = [types.SimpleNamespace(coords=list(c), slice_index=0) for c in places]
    devices += [types.SimpleNamespace(coords=list(c), slice_index=1) for c in places]
    assert worker._extent(Collective("all-gather", 1, 1.0, (0, 1)), devices) == [2, 1, 1, 1]
    assert worker._extent(Collective("all-gather", 1, 1.0, (0, 1, 2, 3)), devices) == [2, 2, 1, 1]
    assert worker._extent(Collective("all-reduce", 1, 1.0, (2, 6)), devices) == [1, 1, 1, 2]
    del devices[0].slice_index
    assert worker._extent(Collective("all-reduce", 1, 1.0, (0, 2)), devices) == [1, 2, 1, 1]


def test_the_same_program_is_compiled_once(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(worker, "_compile", lambda *_: done.append(1) or {"needed_gib": 1.0})
    folder = str(tmp_path / "cache")
    for key, options in ((["a"], {}), (["a"], {}), (["b"], {}), (["a"], {"flag": "1"})):
        assert worker._compile_once(None, options, folder, key) == {"needed_gib": 1.0}
    assert len(done) == 3
    worker._compile_once(None, {}, "", ["a"])
    assert len(done) == 4

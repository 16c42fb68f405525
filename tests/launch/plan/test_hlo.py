import pathlib

import pytest

from launch.plan import hlo

# Small programs as XLA prints them, with loops, fusions, kernels and collectives.
TEXTS = {p.stem: p.read_text() for p in (pathlib.Path(__file__).parent / "hlo").glob("*.txt")}


@pytest.fixture(scope="module")
def optimised():
    return hlo.Module(TEXTS["optimised"])


@pytest.fixture(scope="module")
def partitioned():
    return hlo.collectives(hlo.Module(TEXTS["partitioned"]))


def _trips(module, name):
    found = [i for all_ in module.computations.values() for i in all_ if i.name == name]
    return module.trip_count(found[0])


@pytest.mark.parametrize(
    ("loop", "turns"),
    [("loop.1", 3), ("loop.2", 16), ("loop.3", 1)],
    ids=["as the compiler says", "32 by twos", "until data say so"],
)
def test_a_loop_turns(optimised, loop, turns):
    assert _trips(optimised, loop) == turns


def test_cycles_are_multiplied_by_all_loops_around_and_not_counted_inside_fusions(optimised):
    # loop.2: 16 x (7 + 3 x 100); loop.3: 1 x 100; the copy: 5.
    assert hlo.estimated_cycles(optimised) == 16 * (7 + 3 * 100) + 100 + 5


def test_one_turn_of_the_loop_that_data_end_can_be_counted_alone(optimised):
    assert optimised.open_loop() == "body"
    assert hlo.estimated_cycles(optimised, "body") == 100
    with pytest.raises(ValueError, match="0 loops that data end"):
        hlo.Module(TEXTS["partitioned"]).open_loop()


def test_splash_kernels_are_counted_with_the_blocks_that_causality_leaves(optimised):
    # Two products of 2 x rows x heads x T x S x H, and 3 of 4 blocks of 512 x 512; run 16 x 3 + 1.
    one = 2 * (2 * 2 * 4 * 1024 * 1024 * 128) * 3 / 4
    assert hlo.kernels(optimised) == hlo.Kernels(one * 49, 0)


def test_a_kernel_that_is_not_known_is_said_so():
    text = TEXTS["optimised"].replace("splash_mha_fwd_residuals", "somebodys_kernel")
    assert hlo.kernels(hlo.Module(text)) == hlo.Kernels(0.0, 49)


def test_a_kernel_that_states_its_cost_is_taken_at_its_word():
    """The backend configuration of our decode attention as the TPU compiler prints it."""
    text = TEXTS["optimised"].replace("splash_mha_fwd_residuals", "decode_attention")
    stated = (
        'backend_config={"custom_call_config":{"body":"x","cost_estimate":{"flops":"300",'
        '"transcendentals":"7","bytes_accessed":"20","remote_bytes_transferred":"0"}}}'
    )
    target = 'custom_call_target="tpu_custom_call"'
    text = text.replace(target, f"{target}, {stated}")
    assert hlo.kernels(hlo.Module(text)) == hlo.Kernels(0.0, 0, 49 * 20.0, 49 * 300.0)


def test_gathers_count_once_for_each_layer_however_often_they_are_written(partitioned):
    (gather,) = [c for c in partitioned if c.kind == "all-gather"]
    assert gather.count == 10
    assert gather.bytes == 10 * (8 * 16 * 2) * 3 / 4
    assert gather.group == (0, 2, 4, 6)


def test_a_reduce_of_which_a_slice_is_kept_is_a_reduce_scatter(partitioned):
    (scatter,) = [c for c in partitioned if c.kind == "reduce-scatter"]
    assert (scatter.count, scatter.group) == (10, (0, 2, 4, 6))
    assert scatter.bytes == 10 * (8 * 16 * 4) * 3 / 4


def test_tuples_are_summed_and_groups_of_one_are_no_traffic(partitioned):
    (reduce,) = [c for c in partitioned if c.kind == "all-reduce"]
    assert (reduce.count, reduce.group) == (1, (0, 1))
    assert reduce.bytes == 2 * (6 + 2) * 4 / 2


def test_what_a_manual_computation_sends_is_counted(partitioned):
    (permute,) = [c for c in partitioned if c.kind == "collective-permute"]
    assert (permute.count, permute.bytes) == (1, 16)


@pytest.mark.parametrize(
    ("attribute", "group"),
    [
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=2] {'a','c'}", (0, 1, 2, 3)),
        ("replica_groups=[2,4]<=[8], x", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4)),
        ("replica_groups={{0,3},{1,2}}, x", (0, 3)),
        ("source_target_pairs={{5,6},{6,5}}, x", (5, 6)),
        ("source_target_pairs={{0,0},{1,2},{2,1}}", (1, 2)),
        ("source_target_pairs={{0,0},{1,1}}", ()),
        ("channel_id=1", ()),
    ],
)
def test_groups_are_read_in_every_form(attribute, group):
    assert hlo._group(attribute) == group


def test_what_is_no_hlo_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.Module("nothing of the kind")

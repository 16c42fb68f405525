import importlib.util
import json
import os

import pytest

from humpback_jax.errors import UserError
from launch import configuration, main
from launch.plan import check, settings, worker

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'humpback-jax[tpu-plan]'",
)


@pytest.fixture
def humpback(capsys, recipe):
    """Returns a function that runs `humpback plan` and returns (exit code, stdout, stderr)."""

    def run(*arguments):
        code = main.main(["plan", f"--gin_file={recipe}", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def compiled(monkeypatch, facts):
    """Puts made-up facts in the compiler's place, and returns the requests that it gets."""
    requests = []

    def fake(request):
        requests.append(request)
        return {**facts, "program": request.program}

    monkeypatch.setattr(worker, "compile_program", fake)
    return requests


def test_all_three_programs_are_planned(humpback, compiled, recipe):
    code, out, err = humpback("--gin.BATCH_SIZE=8")
    assert (code, err) == (0, "")
    assert [r.program for r in compiled] == ["train", "prefill", "decode"]
    assert compiled[0].gin_files == (recipe,)
    assert compiled[0].bindings == ("BATCH_SIZE=8",)
    assert out.count("of 15.75 GiB a chip, 50%: fits") == 3


def test_a_whole_run_is_added_up_stage_by_stage(humpback, compiled, tmp_path):
    """Every made-up program works on 1,024 tokens a second, on 4 chips at 1.5 an hour."""
    code, out, _ = humpback(f"--json={tmp_path}/plan.json")
    assert code == 0
    whole = out.split("whole run, predicted")[1].splitlines()
    assert [line.split()[0] for line in whole[1:]] == [
        "train",
        "augment",
        "curate1",
        "curate2",
        "all",
    ]
    spent = json.loads((tmp_path / "plan.json").read_text())["predicted_chip_hours"]
    hours, money = (float(cell.replace(",", "")) for cell in whole[-1].split()[1:])
    assert hours == pytest.approx(sum(spent.values()), abs=0.1)
    assert money == pytest.approx(1.5 * hours, abs=1)
    assert spent["curate1"] == spent["curate2"] > spent["augment"] > 0


def test_a_whole_run_is_not_added_up_from_a_part(humpback, compiled):
    assert "whole run" not in humpback("--only=decode", "--only=prefill")[1]


def test_only_one_and_json(humpback, compiled, tmp_path):
    code, _, _ = humpback("--only=decode", f"--json={tmp_path}/plan.json")
    assert code == 0
    content = json.loads((tmp_path / "plan.json").read_text())
    assert [p["program"] for p in content["programs"]] == ["decode"]


def test_slots_are_counted_and_compiled_if_asked_for(humpback, compiled, tmp_path):
    """0.92 x 15.75 - 7.875 GiB are room for 26 more slots of 0.25 GiB on each of two groups."""
    code, out, _ = humpback("--only=decode", f"--json={tmp_path}/plan.json")
    assert code == 0
    assert out.endswith("most        56 fit (computed)\n")
    assert json.loads((tmp_path / "plan.json").read_text())["slots"]["most"] == 56
    assert len(compiled) == 1
    humpback("--only=decode", "--slots")
    assert compiled[2].bindings == ("augment/EngineConfig.slots = 56",)
    assert [r.program for r in compiled[2:4]] == ["decode", "prefill"]


def test_a_slice_where_nothing_is_trained_is_planned_for_inference_alone(humpback, compiled):
    assert humpback("--gin.Topology.trains=False")[0] == 0
    assert [r.program for r in compiled] == ["prefill", "decode"]


def test_what_does_not_fit_is_printed_whole_and_then_refused_with_1(humpback, compiled, facts):
    facts["peak_gib"] = 15.7
    code, out, err = humpback()
    assert code == 1
    assert out.count("DOES NOT FIT") == 3
    assert err.startswith("humpback: the training step does not fit v5e-4 (4 chips, 2x2)")
    assert err.count("\n") == 1


def test_an_unknown_topology_is_2(humpback, compiled):
    code, _, err = humpback("--gin.Topology.shape='3x5'")
    assert code == 2
    assert "'3x5' is no slice of v5e" in err
    assert compiled == []


def test_without_libtpu_it_says_how_to_get_it(humpback, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    code, _, err = humpback()
    assert code == 1
    assert "pip install 'humpback-jax[tpu-plan]'" in err


def test_a_compiler_that_dies_is_an_error(monkeypatch):
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/nowhere")
    monkeypatch.setattr(worker.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="compiling train ended with code 1"):
        worker.compile_program(worker.Request((), (), (), "train"))


@pytest.mark.parametrize("name", [*check.recipes(), *(name for name, _ in check.TOO_SMALL)])
def test_every_recipe_with_a_topology_has_a_mesh_of_its_chips(name):
    configuration.parse([f"recipes/{name}.gin"], dict(check.TOO_SMALL).get(name, ()))
    plan = settings.read()
    mesh, inference = plan.mesh, plan.inference_mesh
    assert mesh.data * mesh.fsdp * mesh.sequence * mesh.tensor == plan.topology.chips
    assert plan.topology.chips % (inference.fsdp * inference.tensor) == 0
    assert plan.llama.num_heads % mesh.tensor == plan.llama.num_heads % inference.tensor == 0
    if not plan.topology.trains:
        return
    train = plan.planned_train
    assert (train.batch_size, sum(train.feature_lengths.values())) == (32, 2048)
    assert train.batch_size % (mesh.data * mesh.fsdp) == 0
    assert [t.train_steps for t in plan.train.values()] == [500, 500, 1600, 1600]


def test_the_pages_sections_are_written_between_its_marks_and_others_kept(tmp_path):
    page = tmp_path / "plan.md"
    old = f"## {check.TRAINING}\n\nold rows\n\n## {check.INFERENCE}\n\nolder\n"
    page.write_text("before\n" + f"\n{old}\n".join(check._MARKS) + "\nafter\n")
    check._write(page, {check.REFUSED: "a sentence", check.INFERENCE: "new rows"})
    written = (
        f"## {check.TRAINING}\n\nold rows\n\n## {check.INFERENCE}\n\nnew rows\n\n"
        f"## {check.REFUSED}\n\na sentence"
    )
    assert page.read_text() == "before\n" + f"\n\n{written}\n\n".join(check._MARKS) + "\nafter\n"
    page.write_text("no marks")
    with pytest.raises(UserError, match="put them back"):
        check._write(page, {check.REFUSED: "new"})


def test_the_table_of_inference_is_written_alone(compiled, facts, tmp_path, monkeypatch):
    page = tmp_path / "plan.md"
    page.write_text(f"\n\n## {check.TRAINING}\n\nold rows\n\n".join(check._MARKS))
    facts["resident_bytes"] = 1e9
    facts["versions"] = {"jax": "1", "libtpu": "2"}
    monkeypatch.setattr(check, "recipes", lambda: ["humpback_7b_v5e_16"])
    assert check.main([str(page), "--programs", "prefill", "decode"]) == 0
    assert [r.program for r in compiled] == ["prefill", "decode"]
    text = page.read_text()
    assert "old rows" in text
    assert "| about 56" in text


@needs_libtpu
def test_two_layers_compile_for_four_chips_with_splash_attention(recipe, plan):
    """The real compiler, fsdp 2 x tensor 2 on v5e 2x2."""
    before = dict(os.environ)
    facts = worker.compile_program(worker.Request((recipe,), (), (), "train"))
    assert os.environ == before
    assert 0 < facts["peak_gib"] < 1
    assert facts["cycles"] > 0
    # Splash attention: forward twice (remat), the gradients of queries and of keys and values.
    products = 2 + 2 + 3 + 4
    whole = 2 * products * (2 * 2 * 128 * 256 * 256)  # rows, heads of a chip, H, T, S
    assert facts["kernel_flops"] == 2 * whole
    assert facts["unknown_kernels"] == 0
    kinds = {c["kind"] for c in facts["collectives"]}
    assert {"all-gather", "all-reduce", "reduce-scatter"} <= kinds
    assert all(c["extent"] != [1, 1, 1, 1] for c in facts["collectives"])


@needs_libtpu
def test_a_decode_step_copies_neither_cache_nor_weights_and_its_kernel_is_counted(recipe, plan):
    """The real compiler, two slots on each two chips that share the KV heads."""
    facts = worker.compile_program(worker.Request((recipe,), (), (), "decode"))
    cache = 2 * 2 * 2 * 1 * 192 * 128 * 2  # a chip's keys and values [L, B, K, S, H] in bfloat16
    assert facts["stated_bytes"] == cache
    assert facts["stated_flops"] == 2 * 2 * 2 * (2 * 192 * 128 * 128)  # L, products, FLOPs, B S H
    assert facts["unknown_kernels"] == 0
    assert cache <= facts["memory"]["aliased"] < 1.1 * cache
    assert facts["memory"]["temporaries"] < cache / 2
    assert facts["once_cycles"] < facts["cycles"]
    # Over fsdp no weight is gathered: the largest has 32 KiB a layer on each chip.
    gathered = [c["bytes"] / c["count"] for c in facts["collectives"] if c["kind"] == "all-gather"]
    assert max(gathered) < 2**13


@needs_libtpu
@pytest.mark.slow
def test_the_compiler_refuses_what_does_not_fit(humpback):
    code, out, err = humpback(
        "--only=train", "--gin.LlamaConfig.num_layers=64", "--gin.LlamaConfig.embed_dim=8192",
        "--gin.LlamaConfig.mlp_dim=16384",
    )  # fmt: skip
    assert code == 1
    assert "DOES NOT FIT" in out
    assert "GiB a chip (usable)" in err


@needs_libtpu
@pytest.mark.slow
def test_a_mesh_that_is_not_the_slice_is_refused_before_compiling(humpback):
    code, _, err = humpback("--only=train", "--gin.MeshConfig.fsdp=4")
    assert code == 2
    assert "4 devices at hand" in err

import os

import pytest

from humpback_jax.hardware import TPU_COMPILER_OPTIONS
from launch import configuration, main
from launch.jobs import environment
from launch.jobs.gin_files import GinFlags, split
from launch.jobs.hosts import on_hosts
from launch.jobs.job_name import job_name
from launch.jobs.places import PLACES, group_of
from launch.jobs.tpu_vm import RUNTIME_VERSIONS
from launch.plan.topology import SHAPES, Topology


@pytest.mark.parametrize("kind", SHAPES)
def test_every_kind_has_a_preset_and_a_runtime(kind):
    assert kind in RUNTIME_VERSIONS
    flags = environment.variables(Topology(kind, SHAPES[kind][2]))["LIBTPU_INIT_ARGS"].split()
    assert all(flag.startswith("--xla_") and flag.count("=") == 1 for flag in flags)
    for name, value in {**environment.PRESETS[kind], **TPU_COMPILER_OPTIONS}.items():
        assert f"--{name}={value}" in flags
    assert len(flags) == len({flag.split("=")[0] for flag in flags})


def test_what_the_gin_files_bind_goes_before_the_preset():
    topology = Topology("v5e", "4x4", compiler_options={"xla_tpu_scoped_vmem_limit_kib": "1"})
    flags = environment.variables(topology)["LIBTPU_INIT_ARGS"].split()
    assert "--xla_tpu_scoped_vmem_limit_kib=1" in flags
    assert not any("98304" in flag for flag in flags)


def test_a_launched_process_keeps_the_flags_that_it_is_given(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--given=1")
    main._set_environment()
    assert os.environ["LIBTPU_INIT_ARGS"] == "--given=1"
    monkeypatch.delenv("LIBTPU_INIT_ARGS")
    main._set_environment()
    written = environment.libtpu_arguments(TPU_COMPILER_OPTIONS)
    assert os.environ["LIBTPU_INIT_ARGS"] == written


@pytest.mark.parametrize(
    ("kind", "shape", "name", "hosts", "devices"),
    [
        ("v5e", "1x1", "v5litepod-1", 1, 1),
        ("v5e", "2x4", "v5litepod-8", 1, 8),
        ("v5e", "4x4", "v5litepod-16", 4, 16),
        ("v6e", "16x16", "v6e-256", 64, 256),
        ("v4", "4x4x4", "v4-128", 16, 64),
        ("v5p", "2x2x1", "v5p-8", 1, 4),
        ("tpu7x", "2x2x2", "tpu7x-16", 2, 16),
    ],
)
def test_a_slice_has_a_name_in_the_cloud(kind, shape, name, hosts, devices):
    topology = Topology(kind, shape)
    assert topology.accelerator_type == name
    assert topology.hosts == hosts
    assert topology.num_devices == devices


def test_the_hosts_of_a_pod_join_and_do_without_beam():
    assert on_hosts(["augment", "--gin.X=1"], 1, "") == ("augment", "--gin.X=1")
    assert on_hosts(["train", "--model=M1"], 4, "") == ("train", "--model=M1", "--distributed")
    assert on_hosts(["augment"], 4, "") == ("augment", "--engine=pod", "--distributed")
    chosen = ["curate", "--engine=pod", "--iteration=1"]
    assert on_hosts(chosen, 4, "") == (*chosen, "--distributed")


def test_a_job_is_named_for_its_subcommand():
    assert job_name(["train", "--gin.X='--model=M9'", "--model=M1"]) == "train-m1"
    assert job_name(["train", "--model", "size_60", "--gin_file=a"]) == "train-size-60"
    assert job_name(["curate", "--iteration=2", "--engine=pod"]) == "curate-2"
    assert job_name(["segment"]) == "segment"


def test_gin_flags_are_told_from_the_others():
    words = ["train", "--gin_file", "a.gin", "--gin_file=b.gin", "--gin.A=--gin_file=x"]
    words += ["--gin_search_paths=c,d", "--model=M1", "--engine=pod"]
    flags, rest = split(words)
    assert flags == GinFlags(("a.gin", "b.gin"), ("A=--gin_file=x",), ("c", "d"))
    assert rest == ("train", "--model=M1", "--engine=pod")
    assert split(["x", *flags.arguments()])[0] == flags


def test_own_files_are_told_from_those_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.gin").write_text("include 'recipes/quickstart.gin'\ninclude 'more.gin'\n")
    (tmp_path / "more.gin").write_text("include 'own2.gin'\n# include 'nothing.gin'\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own2.gin").write_text("")
    found = configuration.own_files(["own.gin", "recipes/humpback_7b.gin"], ["sub"])
    assert list(found) == ["own.gin", "more.gin", "own2.gin"]


@pytest.mark.parametrize(
    ("stage", "group"),
    [
        ("world", "rest"), ("seed", "rest"), ("report", "rest"), ("segment", "segment"),
        ("pretrain", "train"), ("base", "train"), ("Myx", "train"), ("M2", "train"),
        ("an_arm", "train"), ("augment", "augment"), ("curate12", "curate"),
        ("curated", "train"), ("evaluate", "evaluate"),
    ],
)  # fmt: skip
def test_every_stage_belongs_to_a_group(stage, group):
    assert group_of(stage) == group


def test_the_places_of_the_contract_are_there():
    assert {"local", "tpu-vm", "xpk", "dataflow"} <= set(PLACES)

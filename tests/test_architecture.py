"""The floors of the house: imports go downwards only."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("launch", "beam_pipelines", "humpback_jax")

# From the top; a module belongs to the longest name that it begins with.
FLOORS = (
    ("launch",),
    ("beam_pipelines",),
    tuple(
        f"humpback_jax.{name}"
        for name in ("method", "evaluate", "train", "infer", "report", "microworld", "t5x_adapter")
    ),
    tuple(f"humpback_jax.{name}" for name in ("data", "checkpoints", "partitioning", "corpus")),
    ("humpback_jax.models",),
    tuple(
        f"humpback_jax.{name}"
        for name in (
            "rundir",
            "records",
            "prompts",
            "progress",
            "errors",
            "configurable",
            "distributed",
            "hardware",
        )
    ),
)
# What the maths must not know: configuration files, pipelines, checkpoints, files.
NOT_IN_MODELS = {
    "gin",
    "apache_beam",
    "orbax",
    "etils",
    "pathlib",
    "os",
    "io",
    "shutil",
    "tempfile",
    "json",
    "pickle",
    "safetensors",
    "tensorflow",
}
FILE_CALLS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "load", "save"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}


def _modules():
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


MODULES = _modules()


def _imports(tree, modules):
    """Yields (line, module) of every import, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, whole if whole in modules else node.module
        elif _is_late_import(node):
            yield node.lineno, node.args[0].value


def _is_late_import(node):
    """Returns whether a node is importlib.import_module("a.literal")."""
    return (
        isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") == "import_module"
        and isinstance(node.args[0], ast.Constant)
    )


def _floor(module):
    """Returns how high a module stands: 0 is the lowest; None for what is not ours."""
    for height, names in enumerate(reversed(FLOORS)):
        if any(module == name or module.startswith(name + ".") for name in names):
            return height
    return None


def _upward(sources):
    """Returns "file:line: importer -> imported" for every import that goes up."""
    found = []
    for module, (path, text) in sources.items():
        for line, imported in _imports(ast.parse(text), sources):
            lower, higher = _floor(module), _floor(imported)
            if lower is not None and higher is not None and higher > lower:
                found.append(f"{path}:{line}: {module} -> {imported}")
    return found


def test_imports_go_downwards_only():
    sources = {name: (path.relative_to(ROOT), path.read_text()) for name, path in MODULES.items()}
    assert _upward(sources) == []


@pytest.mark.parametrize(
    ("module", "text", "edge"),
    [
        ("humpback_jax.models.a", "import humpback_jax.data.tasks", "humpback_jax.data.tasks"),
        ("humpback_jax.records", "from humpback_jax import rundir, models", "humpback_jax.models"),
        ("humpback_jax.train.a", "def f():\n    from launch import b", "launch"),
        (
            "humpback_jax.infer.a",
            "import_module = 1\nimportlib.import_module('beam_pipelines.augment')",
            "beam_pipelines.augment",
        ),
    ],
)
def test_an_upward_import_is_named(module, text, edge):
    models = (pathlib.Path("m.py"), "")
    sources = {module: (pathlib.Path("a.py"), text), "humpback_jax.models": models}
    (found,) = _upward(sources)
    assert found == f"a.py:{len(text.splitlines())}: {module} -> {edge}"


def test_every_module_has_a_floor():
    plain = {*PACKAGES}
    homeless = [name for name in MODULES if name not in plain and _floor(name) is None]
    assert homeless == []


def test_every_floor_has_modules():
    """A floor that names nothing would let everything pass."""
    for names in FLOORS:
        for name in names:
            assert any(m == name or m.startswith(name + ".") for m in MODULES), name


@pytest.mark.parametrize("name", [name for name in MODULES if ".models" in name])
def test_models_know_nothing_but_arrays(name):
    tree = ast.parse(MODULES[name].read_text())
    for line, imported in _imports(tree, MODULES):
        where = f"{MODULES[name]}:{line}: {imported}"
        assert imported.split(".")[0] not in NOT_IN_MODELS, where
        if imported.startswith("humpback_jax"):
            allowed = ("humpback_jax.models", "humpback_jax.errors")
            assert imported.startswith(allowed), where
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            assert called not in FILE_CALLS, f"{MODULES[name]}:{node.lineno}: {called}()"


def test_modules_are_named_for_what_they_know():
    vague = [name for name in MODULES if VAGUE.intersection(name.split("."))]
    assert vague == []


def test_only_training_data_imports_tensorflow():
    importers = {
        name
        for name, path in MODULES.items()
        for _, imported in _imports(ast.parse(path.read_text()), MODULES)
        if imported.split(".")[0] in ("tensorflow", "seqio")
    }
    assert importers == {"humpback_jax.data.tasks", "humpback_jax.data.vocabulary"}


def test_inference_and_the_command_line_run_without_tensorflow():
    wanted = [
        "beam_pipelines.segment",
        "beam_pipelines.augment",
        "beam_pipelines.curate",
        "humpback_jax.infer.engine",
        "launch.main",
        "launch.inference",
        "launch.corpus",
        "launch.status",
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {wanted!r}: importlib.import_module(name)\n"
        "print([m for m in ('tensorflow', 'seqio', 't5', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"

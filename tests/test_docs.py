"""What README and docs/ tell a person to type is accepted by the program that they have.

In a block of code, each command that begins with `humpback` goes through the real argument parser;
its gin files and bindings are parsed, every class that they bind is built, and what it would start
elsewhere is asked for its commands. A block that is labelled `gin` is a gin file of one's own: with
a name (```gin my.gin) the page's commands find it under that name. `...` stands for what the page
has said before; a command without it must be whole. A block labelled `text` is no command.
"""

import contextlib
import dataclasses
import io
import pathlib
import re
import shlex

import gin
import pytest

import launch
from humpback_jax.errors import UsageError
from launch import configuration, main
from launch.context import Context
from launch.jobs import cli
from launch.jobs.launch_plan import Launcher
from launch.jobs.places import PLACES
from launch.recipe import Recipe

ROOT = pathlib.Path(launch.__file__).parents[1]
_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in _PAGES]
BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE = re.compile(r"`humpback ([a-z]+)[^`]*`")
# What `...` stands for, and what a block of gin leaves to the page.
RECIPE = "recipes/humpback_7b_v5e_16.gin"
BUCKET, PACKAGE = "gs://bucket/x", "git+https://host/me@v1"
SAID = {
    "": {
        **dict.fromkeys(("RUN_DIR", "CORPUS", "SEED", "BASE", "TEMP_LOCATION"), BUCKET),
        **dict.fromkeys(("PROJECT", "REGION", "ZONE"), "x"),
        "PACKAGE": PACKAGE,
    },
    "TpuVm": {**dict.fromkeys(("name", "project", "zone"), "x"), "package": PACKAGE},
    "Xpk": dict.fromkeys(("name", "project", "zone", "cluster", "image"), "x"),
    "Dataflow": {**dict.fromkeys(("name", "project", "region"), "x"), "temp_location": BUCKET},
    "Flink": {"master": "host:8081"},
}


@dataclasses.dataclass(frozen=True)
class Page:
    """A page's commands, as words, and its gin files by name."""

    commands: tuple[tuple[str, ...], ...]
    gin_files: tuple[tuple[str, str], ...]


def read(text: str) -> Page:
    """Returns what stands in a page's blocks of code."""
    commands, files = [], []
    for indent, label, block in BLOCK.findall(text):
        lines = [line.removeprefix(indent) for line in block.splitlines()]
        if label.split(" ")[0] == "gin":
            name = label.removeprefix("gin").strip() or f"unnamed_{len(files)}.gin"
            files.append((name, "\n".join(lines)))
        elif label in ("", "bash", "sh"):
            joined = "\n".join(lines).replace("\\\n", " ")
            commands += [
                tuple(shlex.split(line, comments=True)[1:])
                for line in joined.splitlines()
                if line.startswith("humpback ")
            ]
    return Page(tuple(commands), tuple(files))


def said(files, bindings, search, place="") -> list[str]:
    """Returns bindings for what is still asked for after `...`: macros, and fields of a place."""
    configuration.parse(files, bindings, search)
    bound = dict(gin.config._CONFIG)
    macros = (name for (name, kind), v in bound.items() if kind == "gin.macro" and _is_open(v))
    names = [(name, value) for name in macros if (value := SAID[""].get(name))]
    for kind in {place, *(selector.split(".")[-1] for _, selector in bound)} & SAID.keys() - {""}:
        given = {f for (_, s), values in bound.items() if s.endswith(f".{kind}") for f in values}
        names += [(f"{kind}.{f}", value) for f, value in SAID[kind].items() if f not in given]
    return [f"{name}={value!r}" for name, value in names]


def _is_open(values) -> bool:
    return str(values["value"]) == "%gin.REQUIRED"


def check_gin(files, bindings, search) -> None:
    """Parses gin files and bindings, and builds every class that they bind."""
    configuration.parse(files, bindings, search)
    scopes: dict[str, set[str]] = {}
    for scope, selector in gin.config._CONFIG:
        scopes.setdefault(selector, set()).add(scope)
    for selector in scopes.keys() - {"gin.macro"}:
        if selector.endswith(".LlamaConfig"):
            configuration.build_llama()
            continue
        # What is bound for all scopes may be whole in each of them only.
        for scope in scopes[selector] - {""} or {""}:
            configuration.build(gin.get_configurable(selector), scope)


def check(words, page: Page, folder: pathlib.Path) -> None:
    """Refuses a command that the program would refuse before it starts anything."""
    for name, text in page.gin_files:
        (folder / name).write_text(text)
    is_open = any(word == "..." or word.endswith("=...") for word in words)
    words = [w.replace("=...", f"={RECIPE}") for w in words if w != "..."]
    if is_open and words[0] == "launch" and not any(w.startswith("--gin_file") for w in words):
        words.insert(1, f"--gin_file={RECIPE}")
    if page.gin_files and any(w.startswith("--gin_file") for w in words):
        words.insert(1, f"--gin_search_paths={folder}")
    arguments, launched = cli.split(words)
    rest, bindings = main._split_bindings(arguments)
    options = main._parser().parse_args(rest)
    if not getattr(options, "gin_file", ()):
        return  # it needs none
    search = [path for path in options.gin_search_paths.split(",") if path]
    if is_open or options.command == "plan":  # which needs no files of a run
        place = PLACES[options.place].__name__ if options.command == "launch" else ""
        bindings = [*said(options.gin_file, bindings, search, place), *bindings]
    check_gin(options.gin_file, bindings, search)
    if options.command == "launch":
        _check_launch(rest, bindings, launched)
    elif options.command == "run":
        Launcher(Context(configuration.build(Recipe)), (), options.engine)
    elif options.command not in ("plan", "ckpt"):
        main._stage_name(options, configuration.build(Recipe))


def _check_launch(rest, bindings, launched) -> None:
    """Lets the program print what it would start."""
    flags = [f"--gin.{binding}" for binding in bindings]
    dry = [word for word in rest if word not in ("--no-dry-run", "--dry-run")]
    said, words = (
        io.StringIO(),
        [*dry, "--dry-run", *flags, *(["--", *launched] if launched else [])],
    )
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main.main(words)
    assert code == 0, said.getvalue()


@pytest.fixture(autouse=True)
def _repository(monkeypatch):
    """Commands are given in the root of the repository."""
    monkeypatch.chdir(ROOT)


COMMANDS = [
    pytest.param(words, name, id=f"{name}-{number}")
    for name in NAMES
    for number, words in enumerate(read((ROOT / name).read_text()).commands)
]
GIN_FILES = [
    pytest.param(name, text, id=f"{page}-{name}")
    for page in NAMES
    for name, text in read((ROOT / page).read_text()).gin_files
]


@pytest.mark.parametrize(("words", "name"), COMMANDS)
def test_a_command_of_the_page_is_accepted(words, name, tmp_path):
    check(words, read((ROOT / name).read_text()), tmp_path)


@pytest.mark.parametrize(("name", "text"), GIN_FILES)
def test_a_gin_file_of_the_page_is_accepted(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    files = [name] if "include '" in text else [RECIPE, name]
    search = [str(tmp_path)]
    check_gin(files, said(files, [], search), search)


@pytest.mark.parametrize("name", NAMES)
def test_pages_name_commands_and_files_that_are_there(name):
    text = (ROOT / name).read_text()
    known = next(
        action.choices
        for action in main._parser()._actions
        if getattr(action, "choices", None) and "run" in action.choices
    )
    assert set(INLINE.findall(text)) <= set(known)
    for target in LINK.findall(text):
        path, _, heading = target.partition("#")
        if "://" in path:
            continue
        page = (ROOT / name).parent / path if path else ROOT / name
        assert page.exists(), target
        if heading:
            assert heading in _anchors(page.read_text()), target


@pytest.mark.parametrize("name", NAMES)
def test_pages_name_targets_that_make_has(name):
    blocks = "\n".join(block for _, _, block in BLOCK.findall((ROOT / name).read_text()))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"^make ([a-z-]+)", blocks, re.MULTILINE)
    assert set(named) <= set(targets)


def _anchors(text: str) -> set[str]:
    """Returns the names by which GitHub links to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("humpback train --gin_file=recipes/quickstart.gin", "--model"),
        ("humpback train --gin_file=recipes/quickstart.gin --model=M9", "M9"),
        ("humpback segment --gin_file=recipes/humpback_7b.gin", "RUN_DIR"),
        ("humpback run --gin_file=recipes/quickstart.gin --gin.TrainConfig.stepz=3", "stepz"),
        ("humpback run --gin_file=recipes/quickstart.gin --gin.NUM_SHARDS=0", "shards"),
        ("humpback run --gin_file=recipes/quickstart.gin --gin.EngineConfig.slots=0", "slots"),
        ("humpback launch tpu-vm ... --gin.MeshConfig.fsdp=3 -- train --model=M1", "mesh"),
        ("humpback launch tpu-vm ... --gin.RUN_DIR='\"here\"' -- train --model=M1", "RUN_DIR"),
    ],
)
def test_a_wrong_command_is_found(text, word, tmp_path, capsys):
    page = read(f"```\n{text}\n```\n")
    with pytest.raises((UsageError, AssertionError, SystemExit)) as caught:
        check(page.commands[0], page, tmp_path)
    assert word in f"{caught.value}{capsys.readouterr().err}"


def test_blocks_are_read_with_their_continuations_comments_and_labels():
    text = (
        "```\nhumpback seed \\\n  --gin.X='\"a b\"'   # why\nls\n```\n"
        "- in a list:\n  ```gin my.gin\n  A.b = 1\n  ```\n```text\nhumpback PLACE\n```\n"
    )
    assert read(text) == Page((("seed", '--gin.X="a b"'),), (("my.gin", "A.b = 1"),))
    assert len(COMMANDS) > 50

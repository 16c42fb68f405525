"""Gin for the command line: files, overrides, search paths, and errors a person can read.

--gin_file=recipes/quickstart.gin     repeatable; found here, in a search path or the package
--gin.RUN_DIR='"runs/x"'              a macro or a binding, repeatable
--gin_search_paths=configs,more       where else to look for files
"""

import dataclasses
import importlib
import pathlib
import re
import typing
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import gin

from humpback_jax.errors import UsageError
from humpback_jax.models.config import LlamaConfig

T = TypeVar("T")

# Importing these registers what gin files may bind; none of them imports TensorFlow.
_MODULES = (
    "humpback_jax.corpus.filters",
    "humpback_jax.corpus.openassistant",
    "humpback_jax.corpus.reading",
    "humpback_jax.infer.engine",
    "humpback_jax.infer.sampling",
    "humpback_jax.method.leaks",
    "humpback_jax.method.long_texts",
    "humpback_jax.method.rating",
    "humpback_jax.method.samples",
    "humpback_jax.method.selection",
    "humpback_jax.microworld.pretraining",
    "humpback_jax.microworld.world",
    "humpback_jax.partitioning",
    "humpback_jax.prompts",
    "humpback_jax.train.config",
    "humpback_jax.train.optimizer",
    "beam_pipelines.config",
    "launch.jobs.launch_plan",
    "launch.jobs.places",
    "launch.plan.topology",
    "launch.recipe",
)
_INCLUDE = re.compile(r"""^include\s+['"](.+?)['"]\s*(?:#.*)?$""", re.MULTILINE)
_MACRO = re.compile(r"^([A-Z][A-Z0-9_]*)\s*=", re.MULTILINE)
_REFERENCE = re.compile(r"%([A-Z][A-Z0-9_]*)")
# What Python says of a class whose fields gin does not bind.
_UNBOUND = re.compile(r"missing \d+ required positional arguments?: ([^\n]*)")
_WORD = re.compile(r"'(\w+)'")
_GIN_ERRORS = (ValueError, SyntaxError, TypeError, RuntimeError)

# models/ knows no gin, so its configuration is registered here; gin makes a subclass of it.
_BoundLlamaConfig = gin.external_configurable(LlamaConfig, "LlamaConfig", module="humpback_jax")


def package_configs() -> pathlib.Path:
    """Returns the folder of the gin files that come with the package."""
    return pathlib.Path(importlib.import_module("gin_configs").__path__[0])


def parse(
    gin_files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str] = ()
) -> None:
    """Reads gin files and overrides into gin's global configuration, replacing what was there.

    Raises:
      UsageError: a file, a macro or a binding is unknown, or a value cannot be read.
    """
    for module in _MODULES:
        importlib.import_module(module)
    configs = package_configs()
    paths = [pathlib.Path(p) for p in (".", *search_paths, configs.parent, configs)]
    texts = [_with_includes(name, paths, ()) for name in gin_files]
    _check_macros(bindings, "\n".join(texts))
    gin.clear_config()
    try:
        for text in texts:
            gin.parse_config(text)
    except _GIN_ERRORS as error:
        raise UsageError(f"the gin configuration cannot be read: {_first_line(error)}") from error
    for binding in bindings:
        try:
            gin.parse_config(binding)
        except _GIN_ERRORS as error:
            raise UsageError(
                f"--gin.{binding} cannot be read ({_reason(error)}): correct it; text stands "
                "in quotes of its own, as in --gin.NAME='\"text\"'"
            ) from error


def own_files(
    gin_files: Sequence[str], search_paths: Sequence[str] = ()
) -> dict[str, pathlib.Path]:
    """Returns the gin files, includes among them, that do not come with the package.

    Args:
      gin_files: names, as of `parse`.
      search_paths: as of `parse`.

    Returns:
      Where each file lies, by the name under which it is asked for.
    """
    package = package_configs()
    paths = [pathlib.Path(p) for p in (".", *search_paths, package.parent, package)]
    found: dict[str, pathlib.Path] = {}
    waiting = list(gin_files)
    while waiting:
        name = waiting.pop(0)
        path = _find(name, paths)
        if name in found or path.resolve().is_relative_to(package.resolve()):
            continue
        found[name] = path
        waiting += _INCLUDE.findall(path.read_text())
    return found


def _with_includes(name: str, paths: Sequence[pathlib.Path], within: tuple[str, ...]) -> str:
    """Returns the text of a file with its includes in place.

    Gin's own search would take an include of "runs/x.gin" for a file of a Python package as soon
    as there is a folder "runs" on sys.path, and keeps its search paths for the whole process.
    """
    path = str(_find(name, paths))
    if path in within:
        raise UsageError(
            f"{path} includes itself through {' -> '.join(within)}: remove one of them"
        )
    try:
        text = pathlib.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): give a gin file in UTF-8") from error
    return _INCLUDE.sub(lambda found: _with_includes(found[1], paths, (*within, path)), text)


def _find(name: str, paths: Sequence[pathlib.Path]) -> pathlib.Path:
    for path in paths:
        if (path / name).is_file():
            return path / name
    raise UsageError(
        f"there is no gin file '{name}' in {', '.join(map(str, paths))}: correct --gin_file or "
        "add --gin_search_paths"
    )


def _check_macros(bindings: Sequence[str], text: str) -> None:
    """Gin takes any new name as a macro, so a typing error would change nothing, silently."""
    references = set(_REFERENCE.findall("\n".join([text, *bindings])))
    known = {*_MACRO.findall(text), *references}
    given = {binding.split("=")[0].strip() for binding in bindings}
    for name in sorted(given - known):
        if "." not in name:
            listed = ", ".join(sorted(known)) or "none"
            raise UsageError(
                f"'{name}' is no macro of the gin files (they have {listed}): correct --gin.{name}"
            )
    if undefined := references - {*_MACRO.findall(text), *given}:
        names = ", ".join(sorted(undefined))
        raise UsageError(f"the gin files use {names} but nothing defines it: add --gin.NAME=VALUE")


def build(cls: type[T], scope: str = "") -> T:
    """Constructs a configuration class from gin, under a scope such as "M1" if one is given.

    Raises:
      UsageError: a required value is missing, or the class refuses a value.
    """
    try:
        with gin.config_scope(scope or None):
            built = cls()
            _check_required(built)
            _check_scalars(built)
            return built
    except UsageError as error:
        raise UsageError(_first_line(error)) from error  # gin appends lines of its own
    except (TypeError, RuntimeError, ValueError, AttributeError) as error:
        if unbound := _UNBOUND.search(str(error)):
            raise _missing(
                [f"{cls.__name__}.{name}" for name in _WORD.findall(unbound[1])]
            ) from error
        where = f" in scope '{scope}'" if scope else ""
        raise UsageError(
            f"{cls.__name__}{where} cannot be configured: {_first_line(error)}"
        ) from error


def _check_required(built: Any) -> None:
    """A macro that is left at gin.REQUIRED reaches the class as an object like any other."""
    fields = dataclasses.fields(built) if dataclasses.is_dataclass(built) else ()
    missing = [f.name for f in fields if getattr(built, f.name) is gin.REQUIRED]
    if missing:
        parameters = (f"{type(built).__name__}.{name}" for name in missing)
        raise _missing([str(gin.query_parameter(name)).removeprefix("%") for name in parameters])


def _missing(names: Sequence[str]) -> UsageError:
    flags = " ".join(f"--gin.{name}=..." for name in names)
    return UsageError(f"{', '.join(names)} must be given: add {flags} or bind it in a gin file")


def _check_scalars(built: Any) -> None:
    """Raises UsageError for a field that should be text, texts or a number and is not."""
    hints = typing.get_type_hints(type(built))
    for field in dataclasses.fields(built):
        value, wanted = getattr(built, field.name), hints[field.name]
        if typing.get_args(wanted)[:1] == (str,) and isinstance(value, str):
            raise UsageError(
                f"{type(built).__name__}.{field.name} is {value!r}: write ({value!r},)"
            )
        accepted = {str: str, int: int, float: (int, float), bool: bool}.get(wanted)
        if accepted is not None and not isinstance(value, accepted):
            raise UsageError(
                f"{type(built).__name__}.{field.name} is {value!r}: give a {wanted.__name__}"
            )


def build_llama() -> LlamaConfig:
    """Constructs the shape of a model that is to be pretrained, as `build` does."""
    bound = build(cast(type[LlamaConfig], _BoundLlamaConfig))
    return LlamaConfig(**{f.name: getattr(bound, f.name) for f in dataclasses.fields(bound)})


def _reason(error: BaseException) -> str:
    """Returns what gin says of a binding, but for the syntax tree that Python prints."""
    line = _first_line(error)
    return "its value is no Python literal" if line.startswith("malformed node") else line


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def config_text() -> str:
    """Returns the whole configuration as a gin file that gives the same run."""
    return gin.config_str()

"""The page of error messages quotes none that the source does not say."""

import ast
import pathlib
import re

import launch

ROOT = pathlib.Path(launch.__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
ERRORS = ("UserError", "UsageError", "PreemptedError", "_LeftError")


def _text(node: ast.expr) -> str:
    """Returns a message as the page would quote it: "..." for what varies."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    return "..."


def _messages() -> list[str]:
    found = []
    for folder in ("launch", "beam_pipelines", "humpback_jax"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                name = getattr(getattr(node, "func", None), "id", "")
                if isinstance(node, ast.Call) and name in ERRORS and node.args:
                    found.append(_text(node.args[0]))
    return found


def _quoted() -> list[str]:
    return re.findall(r"^### `(.+)`$", PAGE.read_text(), re.MULTILINE)


def _plain(text: str) -> str:
    """Returns a text in which things that vary side by side are one."""
    return re.sub(r"\.\.\.(?:[ x]?\.\.\.)*", "...", text)


def test_every_message_on_the_page_is_said_somewhere():
    said = [_plain(message) for message in _messages()]
    unknown = [q for q in _quoted() if not any(m.startswith(_plain(q)) for m in said)]
    assert unknown == []


def test_the_page_tells_messages_from_each_other():
    quoted = _quoted()
    assert len(quoted) >= 30
    assert len(set(quoted)) == len(quoted)
    assert all(len(quote.replace("...", "").strip()) >= 10 for quote in quoted)


def test_the_comparison_can_fail():
    said = [_plain(message) for message in _messages()]
    assert len(said) > 200
    assert not any(m.startswith("the corpus pattern '...' matches no folder") for m in said)

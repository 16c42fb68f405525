"""Every reason that the code of the segment stage can give has its place and its meaning."""

import ast
import pathlib
import re

from humpback_jax.corpus.filters import FUNNEL, PAGE_REASONS
from humpback_jax.report.funnel import MEANING

ROOT = pathlib.Path(__file__).resolve().parents[3]
FILES = (
    *sorted((ROOT / "humpback_jax" / "corpus").glob("*.py")),
    *sorted((ROOT / "beam_pipelines").glob("segment*.py")),
)
# Calls that are given a reason, and functions that return one.
GIVEN = ("reject", "reject_at", "Fault", "PageError", "_KeepFirst", "as_dropped")
RETURNED = ("judge", "judge_header", "_judge_text")
OTHERS = ("openassistant.py",)  # reasons of the seed stage

REASON = re.compile(r"[a-z]+(_[a-z]+)*")


def constants(nodes):
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


def reasons_in(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in GIVEN or name.lower().endswith("reject"):
                yield from (c for c in constants(node.args[:4]) if REASON.fullmatch(c))
        elif isinstance(node, ast.FunctionDef) and node.name in RETURNED:
            returns = [n for n in ast.walk(node) if isinstance(n, ast.Return) and n.value]
            yield from (c for c in constants(returns) if REASON.fullmatch(c))


def test_every_reason_has_a_meaning_and_a_step():
    found = {}
    for path in FILES:
        if path.name not in OTHERS:
            for reason in reasons_in(ast.parse(path.read_text())):
                found.setdefault(reason, path.name)
    # The scan sees what the filters, the parser and the decisions give.
    for known in ("links", "header_upper", "no_header", "near_duplicate", "site_cap", "not_warc"):
        assert known in found
    in_funnel = {reason for _, reasons in FUNNEL for reason in reasons}
    columns = {"text", "id", "site", "sample", "segment_id"}  # arguments beside a reason
    without = {r: f for r, f in found.items() if r not in MEANING and r not in columns}
    assert without == {}
    assert in_funnel | set(PAGE_REASONS) <= MEANING.keys()
    of_segments = {r for r, f in found.items() if f in ("filters.py", "header_filter.py")}
    assert of_segments - in_funnel - set(PAGE_REASONS) == set()

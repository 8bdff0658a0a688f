"""Functions and modules stay small. What is larger stands in a table with a reason, and must not grow."""

from __future__ import annotations

import ast

from fleetlog_testing import tree
from fleetlog_testing.tree import SHIPPED

FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 400

LONGER_MODULES: dict[str, tuple[int, str]] = {}
"""Module to its lines and why. When it shrinks below the limit, its row goes."""

LONGER_FUNCTIONS: dict[str, tuple[int, str]] = {}
"""`path:function` to its lines and why."""


def function_lines() -> dict[str, int]:
    found = {}
    for path in tree.sources():
        for node in ast.walk(tree.tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[f"{tree.name_of(path)}:{node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1
    return found


def test_no_function_is_longer_than_a_screen() -> None:
    found = function_lines()
    allowed = {name: lines for name, (lines, _) in LONGER_FUNCTIONS.items()}
    too_long = {name: n for name, n in found.items() if n > allowed.get(name, FUNCTION_LINES_MAX)}
    assert too_long == {}, "split it, or give it a row with a reason"
    stale = [name for name in allowed if found.get(name, 0) <= FUNCTION_LINES_MAX]
    assert not stale, "\n".join(stale)


def test_no_module_is_longer_than_can_be_held_in_mind() -> None:
    found = {tree.name_of(path): len(path.read_text().splitlines()) for path in tree.sources(*SHIPPED, "bench", "docs", ".ci")}
    allowed = {name: lines for name, (lines, _) in LONGER_MODULES.items()}
    too_long = {name: n for name, n in found.items() if n > allowed.get(name, MODULE_LINES_MAX)}
    assert too_long == {}, "split it, or give it a row with a reason"
    stale = [name for name in allowed if found.get(name, 0) <= MODULE_LINES_MAX]
    assert not stale, "\n".join(stale)


def test_every_exception_has_a_reason() -> None:
    assert all(len(reason) > 20 for _, reason in [*LONGER_MODULES.values(), *LONGER_FUNCTIONS.values()])

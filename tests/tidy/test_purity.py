"""What decides reads no clock, no random source and does no I/O: then a simulation of it proves something.

Import contracts (pyproject.toml) keep the outside out; this file keeps out what the standard library would let in.
"""

from __future__ import annotations

import ast
from pathlib import Path

from fleetlog_testing import tree

PURE_NAMES = {"attempts", "core", "decide", "delivery", "ends", "live", "outbox", "plan", "sessions", "state", "targets", "verify"}
"""A module of a service or of the agent with one of these names must be under the contract `pure`."""

DECIDING_UNITS = ("services/dispatcher", "services/result-recorder", "services/keeper", "agent")
"""Units that decide; in the others such a name is only a name."""

BANNED_MODULES = {
    "asyncio", "multiprocessing", "os", "random", "secrets", "selectors", "shutil", "signal", "socket", "subprocess",
    "tempfile", "threading", "time",
}
BANNED_CALLS = {
    "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "dt.datetime.now", "uuid.uuid4", "uuid.uuid1", "open",
    "print", "input", "Path.cwd", "Path.home",
}


def pure_modules() -> list[Path]:
    """Return the files that the contract names, and all of schemas."""
    found = list(tree.sources("schemas"))
    for module in tree.contract("pure")["source_modules"]:
        path = tree.module_path(module)
        found += sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
    return found


def test_every_module_that_the_contract_names_exists() -> None:
    assert [str(path) for path in pure_modules() if not path.exists()] == []


def test_a_module_that_is_called_like_a_decision_is_under_the_contract() -> None:
    pure = set(pure_modules())
    outside = [
        tree.name_of(path)
        for path in tree.sources("services", "agent")
        if path.stem in PURE_NAMES and path not in pure and tree.name_of(path).startswith(DECIDING_UNITS)
    ]
    assert not outside, "\n".join(outside)


def test_pure_modules_import_nothing_that_waits_reads_or_guesses() -> None:
    found = []
    for path in pure_modules():
        for node in ast.walk(tree.tree_of(path)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found += [f"{tree.name_of(path)}:{node.lineno} imports {n}" for n in names if n.split(".")[0] in BANNED_MODULES]
    assert not found, "\n".join(found)


def test_pure_modules_call_no_clock_and_open_nothing() -> None:
    found = []
    for path in pure_modules():
        for node in ast.walk(tree.tree_of(path)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in BANNED_CALLS or called.split(".", 1)[-1] in BANNED_CALLS:
                    found.append(f"{tree.name_of(path)}:{node.lineno} calls {called}")
    assert not found, "\n".join(found)

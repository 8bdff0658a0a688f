"""What no file may contain, and what every module must."""

from __future__ import annotations

import ast
import re

import pytest

from fleetlog_testing import tree
from fleetlog_testing.tree import ROOT, SHIPPED

TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".sql", ".sh", ".json", ".service", ".yaml", ".yml", ".css", ".js", ".html", ""}
TEXT_FILES = [path for path in tree.files() if path.suffix in TEXT_SUFFIXES and path.name != "LICENSE"]
THIS = "tests/tidy/test_text.py"

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|farm|root|Users|home/[a-z]+)/(?!\.\.\.)[\w.]")
"""A folder of one machine. /home/... of an example in a test is written with another root."""
REGISTRY = re.compile(r"https?://|files\.pythonhosted|registry\.npmjs|index-url", re.IGNORECASE)
INSTALLED_APART = ("peers",)
"""Extras that no checkout installs into its environment: other systems, to be measured beside this one."""
LOCKS = ("constraints.txt", "pyproject.toml", "run", ".ci/run", "justfile")

LEFT_BEHIND = {".orig", ".rej", ".bak", ".swp"}
"""Of merges, patches and editors."""


@pytest.mark.parametrize("pattern", [UNFINISHED, MACHINE_PATH], ids=["unfinished", "machine-path"])
def test_no_file_contains(pattern: re.Pattern[str]) -> None:
    found = [
        f"{tree.name_of(path)}:{number}: {line.strip()[:120]}"
        for path in TEXT_FILES
        if tree.name_of(path) != THIS
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_no_tool_left_a_file_behind() -> None:
    assert [tree.name_of(path) for path in tree.files() if path.suffix in LEFT_BEHIND or path.name.endswith("~")] == []


def test_no_lock_file_names_an_address() -> None:
    for name in LOCKS:
        assert not REGISTRY.search((ROOT / name).read_text()), f"{name} must hold names, versions and hashes only"


def test_the_lock_pins_every_package_by_version_and_hash() -> None:
    text = re.sub(r"^#.*\n", "", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    for line in filter(None, text.splitlines()):
        assert re.fullmatch(r"[a-z0-9-]+==\S+( +--hash=sha256:[0-9a-f]{64})+", line), line


def test_the_lock_has_everything_that_the_project_asks_for() -> None:
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = tree.project()
    wanted = project["build-system"]["requires"] + project["project"]["dependencies"]
    extras = project["project"]["optional-dependencies"]
    wanted += [line for name in extras if name not in INSTALLED_APART for line in extras[name]]
    names = {re.split(r"[\[<>=;~! ]", line)[0] for line in wanted} | {"rust-just"}
    assert names - pinned == set(), "run `just lock`"


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        tree.name_of(path) for path in tree.sources() if path.read_text().strip() and not ast.get_docstring(tree.tree_of(path))
    ]
    assert not silent, "\n".join(silent)


def test_every_skip_has_a_reason() -> None:
    bare = []
    for path in tree.sources("tests"):
        for node in ast.walk(tree.tree_of(path)):
            if isinstance(node, ast.Attribute) and node.attr == "skip" and ast.unparse(node) == "pytest.mark.skip":
                bare.append(tree.name_of(path))  # a test that never runs is deleted
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.skip", "pytest.mark.skipif", "pytest.mark.xfail"):
                reason = [word.value for word in node.keywords if word.arg == "reason"] or node.args[:1]
                text = reason[0].value if reason and isinstance(reason[0], ast.Constant) else None
                if not isinstance(text, str | None) or (isinstance(text, str) and len(text) < 10) or not reason:
                    bare.append(f"{tree.name_of(path)}:{node.lineno}")
    assert not bare, "\n".join(bare)


def test_every_ignored_check_names_which() -> None:
    loose = re.compile(r"#\s*(type:\s*ignore(?!\[)|noqa(?!:))")
    found = [
        f"{tree.name_of(path)}:{number}"
        for path in tree.sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if loose.search(line) and tree.name_of(path) != THIS
    ]
    assert not found, "\n".join(found)


def test_no_shipped_code_swallows_every_error() -> None:
    found = []
    for path in tree.sources(*SHIPPED):
        for node in ast.walk(tree.tree_of(path)):
            if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) == "BaseException"):
                passes = all(isinstance(one, ast.Pass | ast.Continue) for one in node.body)
                if passes or node.type is None:
                    found.append(f"{tree.name_of(path)}:{node.lineno}")
    assert not found, "\n".join(found)

"""The checkout as data: its sources, its pages, its configuration. For the tidy tests."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ("schemas", "runtime", "services", "agent", "client")
"""Folders whose packages are in the wheel."""


@cache
def files() -> tuple[Path, ...]:
    """Return every file that git knows or would add, so that a new file is held to the rules before its commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    return tuple(sorted(path for path in paths if path.is_file()))


def sources(*folders: str) -> list[Path]:
    """Return the Python files of *folders*, or of the whole project."""
    return [path for path in files() if path.suffix == ".py" and (not folders or path.relative_to(ROOT).parts[0] in folders)]


def pages() -> list[Path]:
    """Return the Markdown pages."""
    return [path for path in files() if path.suffix == ".md"]


def name_of(path: Path) -> str:
    """Return the path from the root, as messages show it."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a source."""
    return ast.parse(path.read_text(), filename=str(path))


@cache
def project() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def module_path(module: str) -> Path:
    """Return the file of a module of ours, by its dotted name. Raises StopIteration when there is none."""
    parts = module.split(".")
    folder = next(ROOT / one for one in project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
                  if one.endswith("/" + parts[0]))
    path = folder.joinpath(*parts[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def contract(identifier: str) -> dict[str, Any]:
    """Return one import contract of pyproject.toml."""
    contracts: list[dict[str, Any]] = project()["tool"]["importlinter"]["contracts"]
    return next(one for one in contracts if one["id"] == identifier)

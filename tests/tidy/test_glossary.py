"""One word per idea: what docs/glossary.md forbids is found in no shipped name and on no page."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from fleetlog_testing import tree
from fleetlog_testing.tree import ROOT, SHIPPED

GLOSSARY = ROOT / "docs" / "glossary.md"


def rows(head: str) -> list[list[str]]:
    """Return the cells of the table whose first column is called *head*, and whose header row starts with it."""
    lines = GLOSSARY.read_text().splitlines()
    found: list[list[str]] = []
    inside = False
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith(f"| word | {head}"):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            found.append(cells)
    return found


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


FORBIDDEN_NAMES = {word: row[0] for row in rows("means") for word in quoted(row[2])}
FORBIDDEN_PROSE = {word: row[0] for row in rows("means") for word in quoted(row[3])}
ALLOWED = [(word, row[1].strip("`")) for row in rows("where") for word in quoted(row[0])]


def is_allowed(word: str, path: str) -> bool:
    return any(word == one and fnmatch(path, pattern) for one, pattern in ALLOWED)


def words_of(name: str) -> str:
    """Return snake_case of a name with a separator at both ends: `HostId` becomes `_host_id_`."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|-|\.", "_", name).lower()
    return f"_{snake}_"


def names_in(path: Path) -> Iterator[str]:
    """Yield every name that others see: modules, classes, functions, arguments, fields, constants."""
    yield path.stem
    tree_of = tree.tree_of(path)
    for node in ast.walk(tree_of):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        if isinstance(node, ast.ClassDef | ast.Module):
            for one in node.body:
                targets = one.targets if isinstance(one, ast.Assign) else [one.target] if isinstance(one, ast.AnnAssign) else []
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def columns_in(path: Path) -> Iterator[str]:
    """Yield the words of a page of SQL that are no comment and no text."""
    text = re.sub(r"--.*|'[^']*'", " ", path.read_text())
    yield from re.findall(r"[A-Za-z_][A-Za-z0-9_]*", text)


def test_the_glossary_can_be_read() -> None:
    assert {"task", "outcome", "host", "leadership"} <= {row[0] for row in rows("means")}
    assert FORBIDDEN_NAMES["job"] == "task"
    assert ALLOWED


def test_no_shipped_name_is_a_forbidden_word() -> None:
    found = set()
    places = [(p, names_in(p)) for p in tree.sources(*SHIPPED, "bench", "docs")]
    places += [(p, columns_in(p)) for p in tree.files() if p.suffix == ".sql"]
    for path, names in places:
        for name in set(names):
            for word, better in FORBIDDEN_NAMES.items():
                if words_of(word) in words_of(name) and not is_allowed(word, tree.name_of(path)):
                    found.add(f"{tree.name_of(path)}: {name} says {word!r}; the word is {better!r}")
    assert not found, "\n".join(sorted(found))


def test_no_page_and_no_help_text_says_a_forbidden_word() -> None:
    """Pages hold the help of the command line (docs/cli.md) and the whole API (docs/api.md) too."""
    found = []
    for path in [*tree.pages(), *tree.sources(*SHIPPED, "bench")]:
        if path == GLOSSARY:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for word, better in FORBIDDEN_PROSE.items():
                if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", line, re.IGNORECASE) and not is_allowed(
                    word, tree.name_of(path)
                ):
                    found.append(f"{tree.name_of(path)}:{number} says {word!r}; the word is {better!r}")
    assert not found, "\n".join(found)


def test_every_outside_word_is_still_needed() -> None:
    """An exception that nothing uses any more is deleted."""
    stale = []
    for word, pattern in ALLOWED:
        texts = [p for p in tree.files() if fnmatch(tree.name_of(p), pattern)]
        named = any(words_of(word) in words_of(n) for p in texts if p.suffix == ".py" for n in names_in(p))
        written = any(re.search(rf"\b{word}\b", p.read_text(errors="replace"), re.IGNORECASE) for p in texts)
        if not (named or written):
            stale.append(f"{word} in {pattern}")
    assert not stale, "\n".join(stale)

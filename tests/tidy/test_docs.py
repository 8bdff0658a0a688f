"""The pages are true where a machine can tell: generated parts are current, links lead somewhere, recipes exist."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from fleetlog_testing import tree
from fleetlog_testing.tree import ROOT

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6}\s+(.*)$", re.MULTILINE)
REQUIRED = (
    "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/getting-started.md", "docs/operating.md", "docs/backup.md",
    "docs/security.md", "docs/guarantees.md", "docs/scaling.md", "docs/glossary.md", "docs/reference.md", "docs/cli.md",
    "docs/api.md", "bench/README.md",
)


@cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets."""
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def test_every_page_is_there() -> None:
    assert [name for name in REQUIRED if not (ROOT / name).exists()] == []


def test_generated_parts_are_current() -> None:
    assert generator().outdated() == [], "run `just docs`"


def test_every_marker_is_closed_and_known() -> None:
    for page in tree.pages():
        text = page.read_text()
        opened = re.findall(r"^<!-- generated: (\S+) -->$", text, re.MULTILINE)
        assert len(opened) == len(re.findall(r"^<!-- end -->$", text, re.MULTILINE)), tree.name_of(page)
        assert set(opened) <= set(generator().PARTS), tree.name_of(page)


def test_links_lead_somewhere() -> None:
    broken = []
    for page in tree.pages():
        for target in LINK.findall(without_code(page.read_text())):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, fragment = target.partition("#")
            other: Path = (page.parent / path).resolve() if path else page
            if not other.exists():
                broken.append(f"{tree.name_of(page)}: {target}")
            elif fragment and fragment not in {anchor(one) for one in HEADING.findall(other.read_text())}:
                broken.append(f"{tree.name_of(page)}: {target} (no such heading)")
    assert not broken, "\n".join(broken)


def recipes() -> set[str]:
    just = shutil.which("just", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert just, "rust-just is one of the packages of `./run setup`"
    shown = subprocess.run([just, "--summary"], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(shown.stdout.split())


def test_recipes_that_pages_name_exist() -> None:
    known = recipes()
    missing = [
        f"{tree.name_of(page)}: {recipe}"
        for page in tree.pages()
        for recipe in re.findall(r"(?:\./run|`just) ([a-z][a-z-]*)", page.read_text())
        if recipe not in known
    ]
    assert not missing, "\n".join(missing)


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "./run demo" in text
    assert "./run test" in text


def test_each_decision_has_a_number_of_its_own() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1)), "a decision has the next number"

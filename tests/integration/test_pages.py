"""The pages that say how something is done, typed: each command on a real system, and each line shown of its answer.

How a page is written so, and added here, stands in `fleetlog_testing.typed_page`.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from fleetlog_testing.fleet import Fleet
from fleetlog_testing.tree import ROOT, pages
from fleetlog_testing.typed_page import File, Operator, commands_of, steps_of

Do = Callable[[Path], object]
"""Something that happens in the folder of whoever types."""


class Page(NamedTuple):
    """What a page needs besides itself."""

    hosts: Mapping[str, Mapping[str, str]]
    """Their names and labels."""
    first: Do = lambda _folder: None
    """What happens before anything is typed."""
    policies: Mapping[str, str] = {}
    """Host to its `policy.toml`."""
    before: Mapping[str, Do] = {}
    """What happens just before a command that begins so."""


def deploy_script(folder: Path) -> None:
    """Write the script that fails as long as there is a file `broken`."""
    broken = folder / "broken"
    broken.touch()
    (folder / "deploy.sh").write_text(
        f"#!/bin/sh\nif [ -e {shlex.quote(str(broken))} ]; then\n"
        "    echo 'proxy.conf, line 12: unknown directive'\n    exit 1\nfi\necho 'release 42 is up'\n"
    )


def check_script(folder: Path) -> None:
    """Write the program of the page's part `check`, whose suite `slow` fails until there is a file `fixed`."""
    fixed = shlex.quote(str(folder / "fixed"))
    (folder / "check.sh").write_text(f"#!/bin/sh\nS=$FLEETLOG_PARAM_SUITE\n[ $S != slow -o -e {fixed} ] && echo $S is fine\n")


OFFERS_FUNCTIONS = f"""
[functions]
modules = ["housekeeping"]
path = ["{ROOT / 'docs' / 'examples'}"]
queues = ["default", "notifications"]
"""
PAGES = {
    "definitions": Page({f"web{number:02}": {"role": "web"} for number in range(1, 4)}),
    "files": Page({"web01": {}}),
    "functions": Page(
        {"py01": {}}, policies={"py01": OFFERS_FUNCTIONS}, first=lambda folder: shutil.copy(ROOT / "docs" / "examples" / "nightly.toml", folder),
    ),
    "rollouts": Page(
        {f"web{number:02}": {"env": "prod", "role": "canary" if number == 8 else "web"} for number in range(1, 9)},
        first=deploy_script,
        before={"fleetlog resume": lambda folder: (folder / "broken").unlink()},
    ),
    "schedules": Page({"web01": {}}),
    "alerts": Page({"web01": {}}),
    "builds": Page({"ci01": {}}),
    "exports": Page({"db01": {}, "web01": {}}),
    "workflows": Page({"ci01": {}, "web01": {"role": "web"}, "web02": {"role": "web"}}, first=check_script),
}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    (folder := tmp_path / "fleet").mkdir()
    running = Fleet(folder, separate=False)
    try:
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("name", PAGES)
def test_it_goes_as_the_page_says(fleet: Fleet, tmp_path: Path, name: str) -> None:
    page = PAGES[name]
    page.first(tmp_path)

    async def day() -> None:
        await fleet.start()
        for host, labels in page.hosts.items():
            joined = fleet.join(host, **labels)
            (joined.folder / "policy.toml").write_text(page.policies.get(host, ""))
            joined.start()
        await fleet.online(*page.hosts)
        operator = Operator(fleet, tmp_path)
        for step in steps_of(ROOT / "docs" / f"{name}.md"):
            if isinstance(step, File):
                operator.writes(step)
                continue
            for begins, do in page.before.items():
                if step.line.startswith(begins):
                    do(tmp_path)
            await operator.sees(step)
        fleet.verify_projection()

    asyncio.run(day())


def test_every_page_that_says_it_is_typed_is_typed() -> None:
    says = {path.stem for path in pages() if re.search(r"(tests/integration/test_pages.py)|typed by a test", path.read_text())}
    assert says - {"CONTRIBUTING"} == set(PAGES)


def test_the_page_of_rollouts_has_what_its_title_promises() -> None:
    verbs = [typed.line.split()[1] for typed in commands_of(ROOT / "docs" / "rollouts.md")]
    assert {"why", "resume", "rerun", "freeze", "thaw", "window", "queue", "admission", "sql"} <= set(verbs)

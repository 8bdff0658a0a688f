"""docs/rollouts.md, typed: each command of the page on the real system, and each line that the page shows of its answer."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlog_testing.fleet import Fleet
from fleetlog_testing.tree import ROOT
from fleetlog_testing.typed_page import Operator, commands_of

PAGE = ROOT / "docs" / "rollouts.md"

@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    folder = tmp_path / "fleet"
    folder.mkdir()
    running = Fleet(folder)
    try:
        yield running
    finally:
        running.close()


def test_the_day_goes_as_the_page_says(fleet: Fleet, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    (tmp_path / "deploy.sh").write_text(
        f"#!/bin/sh\nif [ -e {shlex.quote(str(broken))} ]; then\n"
        "    echo 'proxy.conf, line 12: unknown directive'\n    exit 1\nfi\necho 'release 42 is up'\n"
    )

    async def day() -> None:
        await fleet.start()
        for number in range(1, 9):
            fleet.join(f"web{number:02}", env="prod", role="canary" if number == 8 else "web").start()
        await fleet.online(*fleet.hosts)
        operator = Operator(fleet, tmp_path)
        for typed in commands_of(PAGE):
            if typed.line.startswith("fleetlog resume"):
                broken.unlink()
            await operator.sees(typed)
        fleet.verify_projection()

    asyncio.run(day())


def test_the_page_has_what_its_title_promises() -> None:
    verbs = [typed.line.split()[1] for typed in commands_of(PAGE)]
    assert {"why", "resume", "rerun", "freeze", "thaw", "window", "queue", "admission", "sql"} <= set(verbs)

"""docs/schedules.md, typed on the real system."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlog_testing.fleet import Fleet
from fleetlog_testing.tree import ROOT
from fleetlog_testing.typed_page import Operator, commands_of

PAGE = ROOT / "docs" / "schedules.md"
FILE = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    folder = tmp_path / "fleet"
    folder.mkdir()
    running = Fleet(folder)
    try:
        yield running
    finally:
        running.close()


def test_schedules_go_as_the_page_says(fleet: Fleet, tmp_path: Path) -> None:
    (made,) = FILE.findall(PAGE.read_text())
    (tmp_path / "report.toml").write_text(made)

    async def day() -> None:
        await fleet.start("web01")
        operator = Operator(fleet, tmp_path)
        for typed in commands_of(PAGE):
            await operator.sees(typed)
        fleet.verify_projection()

    asyncio.run(day())

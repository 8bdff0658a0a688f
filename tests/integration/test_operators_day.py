"""docs/rollouts.md, typed: each command of the page on the real system, and each line that the page shows of its answer."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fleetlog_testing.fleet import END_S_MAX, Fleet
from fleetlog_testing.tree import ROOT
from fleetlog_testing.waiting import until

PAGE = ROOT / "docs" / "rollouts.md"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOOKS = frozenset({"why", "show", "admission", "events", "output", "sql"})
"""Verbs that are typed again until they show what the page shows: what they look at comes a moment later."""


class Typed(NamedTuple):
    """One command of the page, and the lines that it shows of the answer."""

    line: str
    shown: list[str]


def page() -> list[Typed]:
    found: list[Typed] = []
    for block in BLOCK.findall(PAGE.read_text()):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Typed(line[2:], []))
            else:
                found[-1].shown.append(line)
    return found


def stands_in(shown: str, said: str) -> bool:
    """Tell whether a line of the page stands in what was said: `…` is anything, and gaps may be wider."""
    pattern = ".*".join(r"\s+".join(map(re.escape, part.split())) for part in shown.split("…"))
    return any(re.search(pattern, line) for line in said.splitlines())


class Operator:
    """Somebody who types at a terminal of a folder."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self._fleet, self._folder = fleet, folder

    def type(self, line: str) -> str:
        """Return everything that a command line printed."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETLOG_")}
        argv = self._fleet.server.argv(*shlex.split(line)[1:])
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=END_S_MAX, env=environment, cwd=self._folder,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout + done.stderr

    async def sees(self, typed: Typed) -> None:
        """Type a command until its answer has every line that the page shows, or once if it does something."""
        said = ""

        def missing() -> list[str]:
            nonlocal said
            said = self.type(typed.line)
            return [line for line in typed.shown if line.strip(" …") and not stands_in(line, said)]

        if typed.line.split()[1] in LOOKS:
            try:
                await until(lambda: not missing(), 20, f"{typed.line} shows what the page shows", 0.3)
            except AssertionError:
                pytest.fail(f"$ {typed.line}\n{said}\nwithout {missing()}")
        else:
            left = missing()
            assert not left, f"$ {typed.line}\n{said}\nwithout {left}"


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
        for typed in page():
            if typed.line.startswith("fleetlog resume"):
                broken.unlink()
            await operator.sees(typed)
        fleet.verify_projection()

    asyncio.run(day())


def test_the_page_has_what_its_title_promises() -> None:
    verbs = [typed.line.split()[1] for typed in page()]
    assert {"why", "resume", "rerun", "freeze", "thaw", "window", "queue", "admission", "sql"} <= set(verbs)

"""Pages of the docs whose commands are typed: each on a real system, and each line that the page shows of its answer.

What a page does stands in the page itself: a block ```` ```console ```` holds commands (`$ ...`) and lines of their answers,
in which `…` is anything; a block with a name, like ```` ```toml report.toml ````, is a file that lies in the folder of whoever
types, from there on. To have a page typed, write it so and add a line to `PAGES` of `tests/integration/test_pages.py`, with
the hosts that it needs; each page has a new system to itself, so it may count everything and need not tidy up.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from fleetlog_testing.fleet import END_S_MAX, Fleet
from fleetlog_testing.waiting import until

BLOCK = re.compile(r"^```(console|[a-z]+ [\w./-]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOOKS = frozenset({"ls", "schedule ticks", "why", "show", "admission", "events", "output", "sql", "stats", "function ls", "function show"})
"""Verbs that are typed again until they show what the page shows: what they look at comes a moment later."""


class Typed(NamedTuple):
    """One command of the page, and the lines that it shows of the answer."""

    line: str
    shown: list[str]


class File(NamedTuple):
    """A file that the page shows."""

    name: str
    text: str


def steps_of(page: Path) -> list[Typed | File]:
    """Return the commands that a page types and the files that it shows, in order."""
    found: list[Typed | File] = []
    for kind, block in BLOCK.findall(page.read_text()):
        if kind != "console":
            found.append(File(kind.split()[1], block))
            continue
        shown: list[str] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Typed(line[2:], shown := []))
            else:
                shown.append(line)
    return found


def commands_of(page: Path) -> list[Typed]:
    """Return the commands that a page types, in order."""
    return [step for step in steps_of(page) if isinstance(step, Typed)]


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
        environment["FLEETLOG_DATA"] = str(self._fleet.home.path)
        typed = shlex.split(line.replace("$PWD", str(self._folder)))
        argv = self._fleet.server.argv(*typed[1:]) if typed[0] == "fleetlog" else typed
        if typed[0] == "python":
            argv = [sys.executable, *typed[1:]]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=END_S_MAX, env=environment, cwd=self._folder,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout + done.stderr

    def writes(self, file: File) -> None:
        """Make a file in the folder."""
        path = self._folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)

    async def sees(self, typed: Typed) -> None:
        """Type a command until its answer has every line that the page shows, or once if it does something."""
        said = ""

        def missing() -> list[str]:
            nonlocal said
            said = self.type(typed.line)
            return [line for line in typed.shown if line.strip(" …") and not stands_in(line, said)]

        if LOOKS & {typed.line.split()[1], " ".join(typed.line.split()[1:3])}:
            try:
                await until(lambda: not missing(), 20, f"{typed.line} shows what the page shows", 0.3)
            except AssertionError:
                pytest.fail(f"$ {typed.line}\n{said}\nwithout {missing()}")
        else:
            left = missing()
            assert not left, f"$ {typed.line}\n{said}\nwithout {left}"

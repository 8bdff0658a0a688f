"""A page of the docs whose commands are typed: each on the real system, and each line that the page shows of its answer."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from fleetlog_testing.fleet import END_S_MAX, Fleet
from fleetlog_testing.waiting import until

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOOKS = frozenset({"ls", "schedule ticks", "why", "show", "admission", "events", "output", "sql", "stats"})
"""Verbs that are typed again until they show what the page shows: what they look at comes a moment later."""


class Typed(NamedTuple):
    """One command of the page, and the lines that it shows of the answer."""

    line: str
    shown: list[str]


def commands_of(page: Path) -> list[Typed]:
    """Return the commands that a page types, in order."""
    found: list[Typed] = []
    for block in BLOCK.findall(page.read_text()):
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
        typed = shlex.split(line)
        argv = self._fleet.server.argv(*typed[1:]) if typed[0] == "fleetlog" else typed
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

        if LOOKS & {typed.line.split()[1], " ".join(typed.line.split()[1:3])}:
            try:
                await until(lambda: not missing(), 20, f"{typed.line} shows what the page shows", 0.3)
            except AssertionError:
                pytest.fail(f"$ {typed.line}\n{said}\nwithout {missing()}")
        else:
            left = missing()
            assert not left, f"$ {typed.line}\n{said}\nwithout {left}"

"""The exports that one reporter has made: files in its folder, each made once and kept while it is fetched.

Whoever asks for a piece either gets it, or learns that the file is being made and asks again: no question waits long.
A file that nobody asked for in a while goes; so do all of them when the reporter ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from fleetlog_schemas.exports import Selection

FILE_PREFIX = "export-"
"""Of the files beside the projection, so that what a kill leaves behind can be removed."""
MAKING_MAX = 2
"""Exports that are made at once: each reads as much as a person's question of everything."""
KEPT_MAX = 8
"""Files that are kept: each has at most EXPORT_BYTES_MAX."""
KEPT_SECONDS = 600.0
"""After the last piece was asked for."""
SECONDS_MAX = 600.0
"""Longest making of one export."""
WAIT_SECONDS = 1.5
"""How long a question waits for a file that is being made, before it says so."""


class Busy(Exception):
    """Enough is being made already."""


class BeingMade(Exception):
    """The file is not ready yet."""


class Made(msgspec.Struct, frozen=True):
    """An export that is ready."""

    path: Path
    size: int
    sha256: str
    rows: int
    missing: int


Make = Callable[[Path], Awaitable[Made]]


class Exports:
    """Every export of one reporter."""

    def __init__(self, folder: Path, seconds: Callable[[], float]) -> None:
        """Keep files in *folder*; *seconds* is a clock that only goes forward."""
        self._folder, self._seconds = folder, seconds
        self._numbers = itertools.count(1)
        self._making: dict[Selection, asyncio.Task[Made]] = {}
        """Also what is made: a task that is done."""
        self._asked_at: dict[Selection, float] = {}
        self._looks: asyncio.TimerHandle | None = None

    async def get(self, selection: Selection, make: Make) -> Made:
        """Return the export of a selection, which *make* writes to the path that it is given.

        Raises:
            BeingMade: ask again.
            Busy: ask again later.
            Exception: what *make* raised; whoever asks again has it made again.
        """
        self._drop_unused()
        making = self._making.get(selection)
        if making is None:
            if sum(not one.done() for one in self._making.values()) >= MAKING_MAX:
                raise Busy
            while len(self._making) >= KEPT_MAX:
                oldest = min((at, number) for number, (one, at) in enumerate(self._asked_at.items()) if self._making[one].done())
                self._forget(list(self._asked_at)[oldest[1]])
            path = self._folder / f"{FILE_PREFIX}{next(self._numbers)}"
            making = self._making[selection] = asyncio.create_task(_within(make, path))
        self._asked_at[selection] = self._seconds()
        self._look_later()
        done, _ = await asyncio.wait([making], timeout=WAIT_SECONDS)
        if not done:
            raise BeingMade
        try:
            return making.result()
        except BaseException:
            if self._making.get(selection) is making:
                self._forget(selection)
            raise

    def _drop_unused(self) -> None:
        self._drop(lambda _, asked_at: self._seconds() - asked_at > KEPT_SECONDS)

    def _look_later(self) -> None:
        """Look for what nobody asks for any more also when nobody asks for anything."""
        if self._looks is None and self._making:
            self._looks = asyncio.get_running_loop().call_later(KEPT_SECONDS / 2, self._look)

    def _look(self) -> None:
        self._looks = None
        self._drop_unused()
        self._look_later()

    def _drop(self, is_unused: Callable[[Selection, float], bool]) -> None:
        for selection, asked_at in list(self._asked_at.items()):
            if is_unused(selection, asked_at):
                self._forget(selection)

    def _forget(self, selection: Selection) -> None:
        making = self._making.pop(selection)
        del self._asked_at[selection]
        if not making.done():
            making.cancel()
        elif not making.cancelled() and making.exception() is None:
            making.result().path.unlink(missing_ok=True)

    async def close(self) -> None:
        """Stop what is being made and remove every file."""
        if self._looks is not None:
            self._looks.cancel()
        tasks = list(self._making.values())
        self._drop(lambda *_: True)
        await asyncio.gather(*tasks, return_exceptions=True)


async def _within(make: Make, path: Path) -> Made:
    """Make one within its time; what was begun is removed when it fails."""
    try:
        async with asyncio.timeout(SECONDS_MAX):
            return await make(path)
    except BaseException:
        with contextlib.suppress(OSError):
            await asyncio.shield(asyncio.to_thread(path.unlink, missing_ok=True))
        raise

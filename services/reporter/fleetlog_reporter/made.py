"""The exports that one reporter has made: files in its folder, each made once and kept while it is fetched.

Whoever asks for a piece either gets it, or learns that the file is being made and asks again: no question waits long.
A file that nobody asked for in a while goes; so do all of them when the reporter ends. While somebody fetches a file it
never gives way to another one, which waits instead: otherwise nine who fetch in turn would have each made again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
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
FETCHED_SECONDS = 30.0
"""How long after a piece its file is taken to be fetched, unless it was the last piece: a host asks again within 5 s."""
SECONDS_MAX = 600.0
"""Longest making of one export."""
WAIT_SECONDS = 1.5
"""How long a question waits for a file that is being made, before it says so."""


class Busy(Exception):
    """Enough is being made, or fetched, already."""


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


class _Kept:
    """One export, and who asks for it."""

    def __init__(self, making: asyncio.Task[Made]) -> None:
        self.making = making
        """Also of what is made: a task that is done."""
        self.asked_at = 0.0
        self.is_whole = False
        """Somebody has just got its last piece."""


class Exports:
    """Every export of one reporter."""

    def __init__(self, folder: Path, seconds: Callable[[], float]) -> None:
        """Keep files in *folder*; *seconds* is a clock that only goes forward."""
        self._folder, self._seconds = folder, seconds
        self._numbers = itertools.count(1)
        self._kept: dict[Selection, _Kept] = {}
        self._looks: asyncio.TimerHandle | None = None

    async def piece(self, selection: Selection, make: Make, offset: int, bytes_max: int) -> tuple[Made, bytes]:
        """Return a piece of the export of a selection, which *make* writes to the path that it is given.

        Raises:
            BeingMade: ask again.
            Busy: ask again later.
            Exception: what *make* raised; whoever asks again has it made again.
        """
        self._drop_unused()
        kept = self._kept.get(selection)
        if kept is None:
            self._make_room()
            path = self._folder / f"{FILE_PREFIX}{next(self._numbers)}"
            kept = self._kept[selection] = _Kept(asyncio.create_task(_within(make, path)))
        kept.asked_at, kept.is_whole = self._seconds(), False
        self._look_later()
        done, _ = await asyncio.wait([kept.making], timeout=WAIT_SECONDS)
        if not done:
            raise BeingMade
        try:
            made = kept.making.result()
        except BaseException:
            if self._kept.get(selection) is kept:
                self._forget(selection)
            raise
        data = await asyncio.to_thread(_read, made.path, offset, bytes_max)
        kept.is_whole = offset + len(data) >= made.size
        return made, data

    def _make_room(self) -> None:
        """Remove what nobody fetches, the longest unused first, until there is room for one more. Raises Busy."""
        if sum(not one.making.done() for one in self._kept.values()) >= MAKING_MAX:
            raise Busy
        now = self._seconds()
        spare = [
            selection for selection, one in self._kept.items()
            if one.making.done() and (one.is_whole or now - one.asked_at > FETCHED_SECONDS)
        ]
        spare.sort(key=lambda selection: self._kept[selection].asked_at)
        while len(self._kept) >= KEPT_MAX:
            if not spare:
                raise Busy
            self._forget(spare.pop(0))

    def _drop_unused(self) -> None:
        now = self._seconds()
        for selection in [selection for selection, one in self._kept.items() if now - one.asked_at > KEPT_SECONDS]:
            self._forget(selection)

    def _look_later(self) -> None:
        """Look for what nobody asks for any more also when nobody asks for anything."""
        if self._looks is None and self._kept:
            self._looks = asyncio.get_running_loop().call_later(KEPT_SECONDS / 2, self._look)

    def _look(self) -> None:
        self._looks = None
        self._drop_unused()
        self._look_later()

    def _forget(self, selection: Selection) -> None:
        making = self._kept.pop(selection).making
        if not making.done():
            making.cancel()
        elif not making.cancelled() and making.exception() is None:
            making.result().path.unlink(missing_ok=True)

    async def close(self) -> None:
        """Stop what is being made and remove every file."""
        if self._looks is not None:
            self._looks.cancel()
            self._looks = None
        makings = [one.making for one in self._kept.values()]
        for selection in list(self._kept):
            self._forget(selection)
        await asyncio.gather(*makings, return_exceptions=True)


def _read(path: Path, offset: int, bytes_max: int) -> bytes:
    """Return a piece of a file. Raises BeingMade when it has just been removed: whoever asks again has it made again."""
    try:
        with path.open("rb") as file:
            return os.pread(file.fileno(), bytes_max, offset)
    except FileNotFoundError:
        raise BeingMade from None


async def _within(make: Make, path: Path) -> Made:
    """Make one within its time; what was begun is removed when it fails."""
    try:
        async with asyncio.timeout(SECONDS_MAX):
            return await make(path)
    except BaseException:
        with contextlib.suppress(OSError):
            await asyncio.shield(asyncio.to_thread(path.unlink, missing_ok=True))
        raise

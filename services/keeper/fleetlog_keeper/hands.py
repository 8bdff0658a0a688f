"""What the keeper does outside: segments on the disk, pruning on the bus, questions to services, webhooks.

Every step can be cut off anywhere and done again. What cannot be done now is WorkFailed, with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fleetlog_keeper import works
from fleetlog_keeper.folder import Folder
from fleetlog_keeper.live import READERS, TOLD
from fleetlog_keeper.posting import Poster
from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.bus import ArchiveMissing, NoAnswer, NotFound, Stored
from fleetlog_runtime.pure.settings import KeeperSettings
from fleetlog_runtime.shell.archived_bus import ArchivedBus
from fleetlog_runtime.shell.loop import WorkFailed
from fleetlog_schemas import subjects
from fleetlog_schemas.archive_events import SegmentSealed
from fleetlog_schemas.subjects import EVENTS

PAGE = 2_000
"""Messages asked for at once; the bus gives fewer when they are large."""
COPY_SECONDS = 5.0
"""Between two looks at which segments this keeper's disk lacks."""
T = TypeVar("T")


class Hands:
    """One keeper's hands."""

    def __init__(self, bus: ArchivedBus, folder: Folder, settings: KeeperSettings, poster: Poster, log: Any) -> None:
        """Work on *folder* and *bus*, and send webhooks by *poster*."""
        self._poster = poster
        self._bus, self._folder, self._settings, self._log = bus, folder, settings, log
        self._known = bus.segments
        self._copied_through = 0

    async def __call__(self, what: object) -> object:
        """Do one work and return what came of it. Raises WorkFailed, NoAnswer."""
        match what:
            case works.Post():
                return await self._poster.post(what)
            case works.Look():
                return await self._look()
            case works.Make():
                return await self._make(what)
            case works.Check(first_seq=first_seq, through_seq=through_seq):
                await self._check(first_seq, through_seq)
            case works.Purge():
                await self._purge(what)
            case _:
                raise WorkFailed(f"nobody knows how to do {what!r}")
        return None

    async def _look(self) -> works.Room:
        for service in READERS:
            await self._bus.publish(subjects.ask(service, "health"), b"", TOLD)
        state = await self._bus.state(EVENTS)
        return works.Room(state.bytes, state.bytes_max)

    # --- segments -------------------------------------------------------------------------------------------

    async def _make(self, what: works.Make) -> SegmentSealed | None:
        messages: list[Stored] = []
        count: int | None = None
        while count is None:
            page = await self._bus.get_range(EVENTS, what.first_seq + len(messages), PAGE)
            page = [stored for stored in page if stored.seq <= what.through_seq]
            if not page:
                return None
            messages += page
            count = segments.full_at(messages, self._settings.segment_events, self._settings.segment_bytes)
        sealed, file = await self._on_disk(lambda: segments.pack(messages[:count], what.chain_before))
        await self._on_disk(lambda: self._folder.put(sealed, file))
        self._log.info("a segment was written", first_seq=sealed.first_seq, last_seq=sealed.last_seq, bytes=len(file))
        return sealed

    async def _on_disk(self, do: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(do)
        except OSError as error:
            raise WorkFailed(f"the archive {self._folder.path} cannot be written: {error.strerror}") from None
        except segments.Damaged as error:
            raise WorkFailed(f"a segment in {self._folder.path} is not as it must be: {error}") from None

    async def _check(self, first_seq: int, through_seq: int) -> None:
        """Read every segment of a range from this disk, whole; make those again that are missing or damaged."""
        archive = await self._known.refresh()
        next_seq = first_seq
        while next_seq <= through_seq:
            sealed = archive.at(next_seq)
            if sealed is None:
                raise WorkFailed(f"sequence {next_seq} is in no sealed segment")
            try:
                await asyncio.to_thread(self._folder.read, sealed)
            except (OSError, segments.Damaged) as error:
                self._log.error("a segment is made again", first_seq=sealed.first_seq, why=str(error), alarm=True)
                await self._make_again(sealed)
            next_seq = sealed.last_seq + 1

    async def _make_again(self, sealed: SegmentSealed) -> None:
        """Write a sealed segment from the stream or, where that was pruned, from another keeper's copy."""
        messages: list[Stored] = []
        while not messages or messages[-1].seq < sealed.last_seq:
            next_seq = sealed.first_seq + len(messages)
            try:
                page = await self._bus.get_range(EVENTS, next_seq, min(PAGE, sealed.last_seq - next_seq + 1))
            except ArchiveMissing as error:
                raise WorkFailed(str(error)) from None
            if not page:
                raise WorkFailed(f"the log ends before {sealed.last_seq}, which was sealed: it is another log")
            messages += page
        before = (await self._known.refresh()).chain_before(sealed)
        again, file = await self._on_disk(lambda: segments.pack(messages, before))
        if again != sealed:
            raise WorkFailed(f"the log from {sealed.first_seq} to {sealed.last_seq} is not what was sealed: look at the bus's disk")
        await self._on_disk(lambda: self._folder.put(sealed, file))

    async def copy(self) -> None:
        """Keep this disk's copy of the archive whole, for ever: for a standby, and for a keeper that is new."""
        while True:
            try:
                archive = await self._known.refresh()
                for sealed in archive.sealed:
                    if sealed.last_seq > self._copied_through:
                        if not await asyncio.to_thread(self._folder.has, sealed):
                            await self._make_again(sealed)
                        self._copied_through = sealed.last_seq
            except (NoAnswer, NotFound, WorkFailed) as error:
                self._log.warning("this keeper's copy of the archive is not whole yet", error=str(error))
            await asyncio.sleep(COPY_SECONDS)

    # --- pruning --------------------------------------------------------------------------------------------

    async def _purge(self, what: works.Purge) -> None:
        left = [subject for subject, below_seq in what.below.items() if await self._begins_below(subject, below_seq)]
        if not left:
            return
        # Nothing leaves the bus that was not, just now, read from this disk.
        await self._check(what.first_seq, what.through_seq)
        for subject in left:
            purged = await self._bus.purge(EVENTS, subject, what.below[subject])
            self._log.info("pruned", subject=subject, below_seq=what.below[subject], messages=purged)

    async def _begins_below(self, subject: str, below_seq: int) -> bool:
        """Tell whether the stream itself still has such messages; the archive always has."""
        found = await self._bus.stream.get_range(EVENTS, 1, 1, subject)
        return bool(found) and found[0].seq < below_seq

"""Segments as services get at them: from the archive's folder where there is one, else from the keeper over the bus.

What is sealed and how far the log was pruned is what `evt.archive` says, which never leaves the stream. A file is
believed only when it is, byte for byte, what the log says was sealed; a missing or damaged one is an error that says
what to do, never a hole that nobody sees.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import msgspec

from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.bus import ArchiveMissing, Bus, NoAnswer, NotFound, Stored
from fleetlog_schemas import archive, codec, events, subjects
from fleetlog_schemas.archive_events import SegmentSealed

CACHED_MAX = 4
"""Segments kept unpacked for each reader: a page of the log after another is of one segment."""
PAGE = 500
CHUNK_BYTES = 512 * 1024
"""Of a segment in one answer over the bus, which carries a megabyte."""
ASK_MS_MAX = 5_000
ASK_TRIES_MAX = 6
"""A keeper that is being started again answers within these."""
ASK_AGAIN_SECONDS = 0.2


class SegmentAsked(msgspec.Struct, frozen=True):
    """A question to the keeper: the file of the segment that begins here, from an offset on."""

    first_seq: int
    offset: int = 0


def folder_of(home: Path, archive_path: str) -> Path:
    """Return where the segments are: the setting `keeper.archive_path`, or `archive/`, in the home unless it is absolute."""
    return home / (archive_path or "archive")


class LogReader(Protocol):
    """What of a bus is needed to know the log's own word."""

    async def get_last(self, stream: str, subject: str) -> Stored:
        """Return the last message of a subject. Raises NotFound."""
        ...

    async def get_range(self, stream: str, from_seq: int, count: int, subject: str = "") -> list[Stored]:
        """Return up to *count* messages from *from_seq* on, of one subject."""
        ...


class Known:
    """What the log says of its archive: what is sealed, and how far it was pruned."""

    def __init__(self, bus: LogReader) -> None:
        """Read it from *bus*, when it is asked for."""
        self._reader = bus
        self._reading = asyncio.Lock()
        self._position = 0
        self.archive = archive.Archive()

    async def refresh(self) -> archive.Archive:
        """Return what the log says now. Raises NoAnswer."""
        try:
            last = await self._reader.get_last(subjects.EVENTS, events.ARCHIVE)
        except NotFound:
            return self.archive
        if last.seq > self._position:
            async with self._reading:
                await self._read_on(last.seq)
        return self.archive

    async def _read_on(self, through_seq: int) -> None:
        while self._position < through_seq:
            page = await self._reader.get_range(subjects.EVENTS, self._position + 1, PAGE, events.ARCHIVE)
            if not page:
                return
            for stored in page:
                try:
                    event = codec.decode(stored.body, seq=stored.seq, subject=stored.subject, time_ms=stored.time_ms)
                except (codec.Malformed, codec.TooNew):
                    pass  # whoever folds the log has parked it, with an alarm
                else:
                    archive.apply(self.archive, event)
                self._position = stored.seq


class Segments(Known):
    """What the log says of its archive, and the messages in it."""

    def __init__(self, bus: Bus, folder: Path) -> None:
        """Read the log's own word from *bus*, and files from *folder*."""
        super().__init__(bus)
        self._bus = bus
        self._folder = folder
        self._lock = asyncio.Lock()
        self._cached: OrderedDict[int, list[Stored]] = OrderedDict()

    async def holding(self, seq: int) -> SegmentSealed | None:
        """Return the segment that holds a sequence, None when nothing says that it was archived. Raises NoAnswer."""
        return (await self.refresh()).at(seq)

    async def messages(self, sealed: SegmentSealed) -> list[Stored]:
        """Return every message of a sealed segment. Raises ArchiveMissing."""
        async with self._lock:
            if sealed.first_seq in self._cached:
                self._cached.move_to_end(sealed.first_seq)
                return self._cached[sealed.first_seq]
            file = await self.file(sealed)
            try:
                found = (await asyncio.to_thread(segments.unpack, file, sealed)).messages
            except segments.Damaged as error:
                raise ArchiveMissing(
                    f"the archive's segment {self._path(sealed)} is damaged: {error}. Put back a good copy (from a"
                    " backup, or from another keeper's folder); `fleetlog archive verify` checks all of them"
                ) from None
            self._cached[sealed.first_seq] = found
            if len(self._cached) > CACHED_MAX:
                self._cached.popitem(last=False)
            return found

    def _path(self, sealed: SegmentSealed) -> Path:
        return self._folder / segments.name(sealed.first_seq)

    async def file(self, sealed: SegmentSealed) -> bytes:
        """Return the file of a segment, unchecked. Raises ArchiveMissing."""
        try:
            return await asyncio.to_thread(self._path(sealed).read_bytes)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ArchiveMissing(f"the archive's segment {self._path(sealed)} cannot be read: {error.strerror}") from None
        why = ""
        for number in range(ASK_TRIES_MAX):
            try:
                return await self._asked(sealed)
            except NoAnswer as error:
                why = str(error)
                await asyncio.sleep(ASK_AGAIN_SECONDS * number)
        raise ArchiveMissing(
            f"sequences {sealed.first_seq} to {sealed.last_seq} of the log are archived: {self._path(sealed)} does not"
            f" exist, and the keeper does not give it ({why}). Put the file back from a backup, set"
            " keeper.archive_path to where the archive is, or start a keeper that has it"
        )

    async def _asked(self, sealed: SegmentSealed) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while size <= sealed.bytes + 2 * CHUNK_BYTES:  # a file is hardly larger than its content
            body = msgspec.json.encode(SegmentAsked(sealed.first_seq, size))
            piece = await self._bus.request(subjects.ask("keeper", "segment"), body, ASK_MS_MAX)
            if piece[:1] != b"+":
                raise NoAnswer(piece[1:500].decode(errors="replace") or "an empty answer")
            pieces.append(piece[1:])
            size += len(piece) - 1
            if len(piece) - 1 < CHUNK_BYTES:
                break
        return b"".join(pieces)


def chunk_of(folder: Path, body: bytes) -> bytes:
    """Return the keeper's answer to a SegmentAsked: `+` and bytes, fewer than CHUNK_BYTES at the end; or `-` and why."""
    try:
        asked = msgspec.json.decode(body, type=SegmentAsked)
        with (folder / segments.name(asked.first_seq)).open("rb") as file:
            file.seek(max(0, asked.offset))
            return b"+" + file.read(CHUNK_BYTES)
    except FileNotFoundError:
        return b"-this keeper has no such segment"
    except (msgspec.MsgspecError, OSError, OverflowError) as error:
        return b"-" + str(error).encode()[:400]

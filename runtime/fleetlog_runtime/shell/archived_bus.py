"""The Bus with the archive behind it: the log reads as one, from sequence 1 on, however much of it was pruned.

The log has no holes: sequences are dense and only the keeper's pruning removes any. So a reader that finds one missing
knows, at that moment and whatever is pruned meanwhile, that the archive has it, and reads on there until the stream
has everything again. Pruning is in the log before it happens, and never takes a subject's last message, so a hole is
always seen and always explained. What is missing for another reason (a damaged disk) is read from the archive if it
was sealed by then; otherwise it is unreadable, said with an alarm, and kept as that by every reader.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import structlog

from fleetlog_runtime.pure.bus import (
    ArchiveMissing,
    Batch,
    Bus,
    Handler,
    NoAnswer,
    NotFound,
    Stored,
    StreamState,
    Taken,
)
from fleetlog_runtime.shell.archive import Segments
from fleetlog_runtime.shell.memory import subject_matches
from fleetlog_schemas import archive_events
from fleetlog_schemas.subjects import EVENTS

RETRY_SECONDS = 0.2
CHUNK_MESSAGES = 1_000
"""Of a segment in one chunk, so that a reader's other work gets its turn."""
_T = TypeVar("_T")


def without_hole(messages: list[Stored], next_seq: int) -> list[Stored]:
    """Return the beginning of *messages* that follows on without a missing sequence."""
    if messages and messages[0].seq == next_seq and messages[-1].seq == next_seq + len(messages) - 1:
        return messages
    count = 0
    while count < len(messages) and messages[count].seq == next_seq + count:
        count += 1
    return messages[:count]


def to_batch_end(messages: list[Stored]) -> list[Stored]:
    """Return *messages* up to the last that ends an atomic batch."""
    count = len(messages)
    while count and not messages[count - 1].batch_end:
        count -= 1
    return messages[:count]


async def patiently(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask until there is an answer: whoever follows the log survives a bus that is away. Raises ArchiveMissing."""
    while True:
        try:
            return await ask()
        except ArchiveMissing:
            raise
        except NoAnswer:
            await asyncio.sleep(RETRY_SECONDS)


def unreadable(seq: int) -> Stored:
    """Return what stands for a message that nobody has any more: readers park it like one that is no event."""
    return Stored(seq=seq, subject="", time_ms=0, body=b"", batch_end=True)


def chunks(messages: list[Stored]) -> list[list[Stored]]:
    """Cut the messages of a segment at batch ends."""
    found: list[list[Stored]] = [[]]
    for stored in messages:
        if len(found[-1]) >= CHUNK_MESSAGES and found[-1][-1].batch_end:
            found.append([])
        found[-1].append(stored)
    return found


class ArchivedBus:
    """Implements `fleetlog_runtime.pure.bus.Bus` on another bus and an archive."""

    def __init__(self, bus: Bus, folder: Path) -> None:
        """Read the log from *bus*, and what was pruned from segments in *folder*, or from the keeper."""
        self.stream = bus
        """The bus alone: what it still has."""
        self.segments = Segments(bus, folder)

    # --- the log --------------------------------------------------------------------------------------------

    async def read(self, stream: str, from_seq: int, *, ahead: bool = True) -> AsyncIterator[list[Stored]]:
        """Follow a stream; see the Bus contract. Raises ArchiveMissing."""
        if stream != EVENTS:
            async for chunk in self.stream.read(stream, from_seq, ahead=ahead):
                yield chunk
            return
        next_seq, first, missing_seq = max(1, from_seq), True, 0
        while True:
            async for chunk in self._past(next_seq, missing_seq):
                yield chunk
                next_seq, first = chunk[-1].seq + 1, False
            async with contextlib.aclosing(cast("Any", self.stream.read(EVENTS, next_seq, ahead=ahead))) as following:
                async for chunk in following:
                    whole = without_hole(chunk, next_seq)
                    holed = len(whole) < len(chunk)
                    if holed:
                        missing_seq = next_seq + len(whole)
                        archived = await patiently(partial(self.segments.holding, missing_seq)) is not None
                        whole = to_batch_end(whole) if archived else [*whole, self._lost(missing_seq)]
                    if whole or (first and not chunk):
                        yield await patiently(partial(self._healed, whole))
                        next_seq, first = next_seq + len(whole), False
                    if holed:
                        break

    async def _past(self, from_seq: int, missing_seq: int) -> AsyncIterator[list[Stored]]:
        """Yield what was pruned, or may be at this moment, from a sequence on, and what the stream was found to lack."""
        next_seq = from_seq
        while next_seq <= max(missing_seq, (await patiently(self.segments.refresh)).pruned_through):
            messages = await patiently(partial(self._messages, next_seq))
            for chunk in chunks(messages):
                yield chunk
                # A segment is many chunks without a wait between them, and other work of this loop wants its turn.
                await asyncio.sleep(0)
            next_seq = messages[-1].seq + 1

    async def _messages(self, from_seq: int) -> list[Stored]:
        """Return the rest of a segment. Raises ArchiveMissing."""
        sealed = await self.segments.holding(from_seq)
        if sealed is None:
            raise ArchiveMissing(f"nothing says where sequence {from_seq} of the log was archived, although it was pruned")
        messages = await self.segments.messages(sealed)
        return messages[from_seq - messages[0].seq :]

    async def _healed(self, messages: list[Stored]) -> list[Stored]:
        """Return *messages*, with what the stream could not read taken from the archive where it was sealed."""
        if all(stored.subject for stored in messages):
            return messages
        found = []
        for stored in messages:
            archived = not stored.subject and await self.segments.holding(stored.seq) is not None
            found.append((await self._messages(stored.seq))[0] if archived else stored)
        return found

    def _lost(self, seq: int) -> Stored:
        structlog.get_logger("bus").error("a message of the log is missing and is in no archive", alarm=True, seq=seq)
        return unreadable(seq)

    async def get(self, stream: str, seq: int) -> Stored:
        """Return one message. Raises NotFound, ArchiveMissing."""
        try:
            return await self.stream.get(stream, seq)
        except NotFound:
            if stream != EVENTS or await self.segments.holding(seq) is None:
                raise
        return (await self._messages(seq))[0]

    async def get_last(self, stream: str, subject: str) -> Stored:
        """Return the last message of a subject, which is never pruned. Raises NotFound."""
        return await self.stream.get_last(stream, subject)

    async def get_range(self, stream: str, from_seq: int, count: int, subject: str = "") -> list[Stored]:
        """Return up to *count* messages from a sequence on, optionally of one subject only. Raises ArchiveMissing."""
        if stream != EVENTS:
            return await self.stream.get_range(stream, from_seq, count, subject)
        if subject:
            return await self._range_of_subject(from_seq, count, subject)
        found: list[Stored] = []
        next_seq = max(1, from_seq)
        while len(found) < count:
            if next_seq > self.segments.archive.pruned_through:
                page = await self.stream.get_range(EVENTS, next_seq, count - len(found))
                whole = without_hole(page, next_seq)
                found += whole
                next_seq += len(whole)
                if len(whole) == len(page):
                    break
            if await self.segments.holding(next_seq) is None:
                found.append(self._lost(next_seq))
            else:
                found += (await self._messages(next_seq))[: count - len(found)]
            next_seq = found[-1].seq + 1
        return found

    async def _range_of_subject(self, from_seq: int, count: int, subject: str) -> list[Stored]:
        if not any(subject_matches(subject, one) for one in archive_events.PRUNABLE):
            return await self.stream.get_range(EVENTS, from_seq, count, subject)
        while True:
            through_seq = (await self.segments.refresh()).pruned_through
            found: list[Stored] = []
            next_seq = max(1, from_seq)
            while next_seq <= through_seq and len(found) < count:
                messages = await self._messages(next_seq)
                found += [stored for stored in messages if subject_matches(subject, stored.subject)]
                next_seq = messages[-1].seq + 1
            if len(found) < count:
                found += await self.stream.get_range(EVENTS, next_seq, count - len(found), subject)
            # What was pruned while this read the stream is missing from it, and nothing else would show that.
            if (await self.segments.refresh()).pruned_through == through_seq:
                return found[:count]

    async def seq_at(self, stream: str, time_ms: int) -> int:
        """Return the first sequence stored at or after a time. Raises ArchiveMissing."""
        seq = await self.stream.seq_at(stream, time_ms)
        if stream != EVENTS:
            return seq
        archive = await self.segments.refresh()
        for sealed in archive.sealed:
            if sealed.last_seq > archive.pruned_through or sealed.first_seq > seq:
                break
            if sealed.last_ms >= time_ms:
                messages = await self.segments.messages(sealed)
                return min(seq, next(stored.seq for stored in messages if stored.time_ms >= time_ms))
        return seq

    async def state(self, stream: str) -> StreamState:
        """Return where a stream begins and ends; with its archive the log begins at 1."""
        state = await self.stream.state(stream)
        return msgspec.structs.replace(state, first_seq=1) if stream == EVENTS else state

    # --- everything else is the bus's own -------------------------------------------------------------------

    async def append(self, batch: Batch) -> int:
        """Store a batch; see the Bus contract."""
        return await self.stream.append(batch)

    async def purge(self, stream: str, subject: str, below_seq: int) -> int:
        """Remove the messages of one subject below a sequence. Raises NoAnswer."""
        return await self.stream.purge(stream, subject, below_seq)

    def take(self, stream: str, consumer: str) -> AsyncIterator[list[Taken]]:
        """Share a work queue; see the Bus contract."""
        return self.stream.take(stream, consumer)

    async def ack(self, taken: list[Taken]) -> None:
        """Tell the work queue that these are done."""
        await self.stream.ack(taken)

    async def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        """Send a core message."""
        await self.stream.publish(subject, body, reply)

    async def request(self, subject: str, body: bytes, timeout_ms: int) -> bytes:
        """Send a core message and return its answer. Raises NoAnswer."""
        return await self.stream.request(subject, body, timeout_ms)

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Callable[[], Awaitable[None]]:
        """Hear core messages; returns how to stop."""
        return await self.stream.subscribe(subject, handler, queue)

    async def put_blob(self, body: bytes) -> str:
        """Keep content and return its SHA-256."""
        return await self.stream.put_blob(body)

    async def get_blob(self, sha256: str) -> bytes:
        """Return content, verified. Raises NotFound, NoAnswer."""
        return await self.stream.get_blob(sha256)

    async def close(self) -> None:
        """Flush and disconnect."""
        await self.stream.close()

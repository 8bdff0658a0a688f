"""The newest events of the log in memory: read once, shared by every live stream and by the folded hosts.

One reader, one bounded ring. Streams do not get queues of their own: each keeps its position and takes from the
ring, so a slow one costs nothing and is noticed when the ring has moved past it.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable
from functools import cached_property

import msgspec

from fleetlog_gateway import limits, touches
from fleetlog_runtime.pure.bus import Bus, Stored
from fleetlog_schemas import codec, questions, subjects


class _Head(msgspec.Struct, frozen=True):
    type: str


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_any = msgspec.json.Decoder().decode


class Entry:
    """One stored event, and what streams want of it, worked out once and only when somebody wants it."""

    def __init__(self, stored: Stored) -> None:
        """Wrap a message of the log."""
        self.stored = stored
        self.seq = stored.seq

    @property
    def task_ids(self) -> frozenset[str]:
        """The tasks that it touches; none when it cannot be read."""
        return self._touched[0]

    @property
    def every_task(self) -> bool:
        """Whether it acts on every task that is open."""
        return self._touched[1]

    @cached_property
    def _touched(self) -> tuple[frozenset[str], bool]:
        try:
            data = codec.decode(self.stored.body).data
        except (codec.Malformed, codec.TooNew):
            return frozenset(), False
        return touches.task_ids(data), touches.every_task(data)

    @cached_property
    def json(self) -> msgspec.Raw:
        """The StoredEvent as JSON of one line; what is not JSON is given as text."""
        stored = self.stored
        try:
            content = _decode_any(stored.body)
            # Only a stranger writes line breaks between tokens; they would end a line of the stream.
            event = msgspec.Raw(msgspec.json.encode(content) if b"\n" in stored.body or b"\r" in stored.body else stored.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            event = msgspec.Raw(msgspec.json.encode({"malformed": stored.body[:200].decode("utf-8", "replace")}))
        return msgspec.Raw(
            msgspec.json.encode(
                questions.StoredEvent(
                    seq=stored.seq, subject=stored.subject, stored_at=codec.rfc3339(stored.time_ms), event=event
                )
            )
        )

    @cached_property
    def server_sent(self) -> bytes:
        """The event as a live stream carries it."""
        try:
            name = " ".join(_decode_head(self.stored.body).type.split())[:200]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            name = "malformed"
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (self.seq, name.encode("utf-8", "replace"), bytes(self.json))


class Tail:
    """The ring, and everybody who waits for the log to grow."""

    def __init__(self, bus: Bus, from_seq: int, on_stored: Callable[[Stored], None]) -> None:
        """Read the log from *from_seq* on, and give each message to *on_stored* as well."""
        self._bus = bus
        self._on_stored = on_stored
        self._entries: list[Entry] = []
        self._bytes = 0
        self._grown = asyncio.Event()
        self.next_seq = from_seq
        """One past the last sequence read."""

    @property
    def first_seq(self) -> int:
        """The first sequence that the ring can give; everything older is in the log only."""
        return self._entries[0].seq if self._entries else self.next_seq

    async def run(self) -> None:
        """Read for ever."""
        async for chunk in self._bus.read(subjects.EVENTS, self.next_seq):
            for stored in chunk:
                self._on_stored(stored)
                self._entries.append(Entry(stored))
                self._bytes += len(stored.body)
                self.next_seq = stored.seq + 1
            self._trim()
            if chunk:
                self.wake()

    def _trim(self) -> None:
        drop = max(0, len(self._entries) - limits.TAIL_EVENTS_MAX)
        size = self._bytes - sum(len(entry.stored.body) for entry in self._entries[:drop])
        while size > limits.TAIL_BYTES_MAX:
            size -= len(self._entries[drop].stored.body)
            drop += 1
        if drop:
            del self._entries[:drop]
        self._bytes = size

    def wake(self) -> None:
        """Let everybody who waits look again."""
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    def since(self, seq: int, count: int) -> list[Entry]:
        """Return up to *count* entries from *seq* on, which the ring must still have."""
        start = bisect.bisect_left(self._entries, seq, key=lambda entry: entry.seq)
        return self._entries[start : start + count]

    def find(self, event_id: str, from_seq: int) -> int | None:
        """Return the sequence of the event with this id, if it was read since *from_seq*.

        Raises:
            LookupError: the ring does not go back that far, so nobody can tell.
        """
        if from_seq < self.first_seq:
            raise LookupError(f"the tail begins at {self.first_seq}, after {from_seq}")
        mark = b'"id":"%s"' % event_id.encode()
        return next((entry.seq for entry in self.since(from_seq, len(self._entries)) if mark in entry.stored.body), None)

    async def grown_past(
        self, seq: int, timeout_seconds: float, unless: Callable[[], bool] = lambda: False
    ) -> bool:
        """Wait until the log was read past *seq*, *unless* says stop, or time is over; tell whether it was read."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.next_seq <= seq and not unless():
                    await self._grown.wait()
        except TimeoutError:
            pass
        return self.next_seq > seq

"""The contract between units and the bus. NATS and memory implement it; one suite holds both to it.

A *stored* message went through `append` and has a sequence; a *core* message is sent to whoever listens now and
may be lost. Everything a unit needs of the bus is here; nothing else of NATS is used above the shell.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import msgspec


class Stored(msgspec.Struct, frozen=True):
    """One message of a stream as it was read."""

    seq: int
    subject: str
    time_ms: int
    """The server's time of storing it."""
    body: bytes
    batch_end: bool = True
    """Whether the atomic batch that carried it ends here (a message alone is a batch of one)."""


class Draft(msgspec.Struct, frozen=True):
    """One message to be stored."""

    subject: str
    body: bytes
    headers: dict[str, str] = {}


class Batch(msgspec.Struct, frozen=True):
    """Messages that are stored together or not at all. Once made it is never cut differently."""

    drafts: tuple[Draft, ...]
    message_id: str
    """Dedup id of the batch, on its first message."""
    expected_subject: str = ""
    expected_seq: int | None = None
    """When set, nothing is stored unless this is the last sequence of `expected_subject`."""
    also_expected: tuple[tuple[str, int], ...] = ()
    """Further subjects and their last sequences, by the same rule; a batch of n messages carries at most n in all."""


class AppendRefused(Exception):
    """The bus stored nothing of this batch, or had stored it before; reading the log tells which.

    `actual_seq` is the last sequence of the subject when the expected one did not match, else None.
    """

    def __init__(self, message: str, actual_seq: int | None = None) -> None:
        super().__init__(message)
        self.actual_seq = actual_seq


class AppendUnsettled(Exception):
    """No answer in time: the batch may be stored. Send it again, byte for byte, or read the log."""


class NotSent(AppendUnsettled):
    """The bus cannot be reached, or no stream listens: surely nothing was sent. Sending it again later is right."""


class BusFull(Exception):
    """The stream has no room: nothing was stored."""


class NoAnswer(Exception):
    """Nobody answered a request in time, or nobody listens."""


class ArchiveMissing(NoAnswer):
    """A part of the log was pruned and cannot be read from the archive either; the message says what to do."""


class NotFound(Exception):
    """There is no such message or blob."""


class Taken(msgspec.Struct, frozen=True):
    """One message taken from a work queue; it comes again unless `ack` is called with it."""

    subject: str
    body: bytes
    time_ms: int
    ack_token: str


Handler = Callable[[str, bytes, str], Awaitable[None]]
"""Called with subject, body and reply subject (empty when no answer is wanted)."""


class StreamState(msgspec.Struct, frozen=True):
    """Where a stream begins and ends, and how full it is."""

    first_seq: int
    last_seq: int
    bytes: int
    bytes_max: int


class Bus(Protocol):
    """What units do with the bus."""

    async def append(self, batch: Batch) -> int:
        """Store a batch durably and return the sequence of its last message.

        Raises:
            AppendRefused: expected sequence or dedup said no.
            AppendUnsettled: no answer in time.
            BusFull: no room.
        """
        ...

    def read(self, stream: str, from_seq: int, *, ahead: bool = True) -> AsyncIterator[list[Stored]]:
        """Yield messages from *from_seq* on, for ever, in chunks that end at batch ends.

        The first chunk is empty when nothing is there yet; later chunks are not. A chunk that ends at the
        stream's last message is yielded at once. Survives reconnects.

        Not *ahead*: nothing is fetched before it is asked for, so that a reader that rests between two chunks costs the
        bus and itself one exchange for all that came meanwhile, instead of one for each message.
        """
        ...

    async def get(self, stream: str, seq: int) -> Stored:
        """Return one message. Raises NotFound."""
        ...

    async def get_last(self, stream: str, subject: str) -> Stored:
        """Return the last message of a subject. Raises NotFound."""
        ...

    async def get_range(self, stream: str, from_seq: int, count: int, subject: str = "") -> list[Stored]:
        """Return up to *count* messages from *from_seq* on, optionally of one subject only."""
        ...

    async def seq_at(self, stream: str, time_ms: int) -> int:
        """Return the first sequence stored at or after a time; one past the last when there is none."""
        ...

    async def state(self, stream: str) -> StreamState:
        """Return where a stream begins and ends."""
        ...

    async def purge(self, stream: str, subject: str, below_seq: int) -> int:
        """Remove the messages of one subject below a sequence and return how many; only the keeper may. Raises NoAnswer."""
        ...

    def take(self, stream: str, consumer: str) -> AsyncIterator[list[Taken]]:
        """Yield messages of a work queue in chunks; several takers share them."""
        ...

    async def ack(self, taken: list[Taken]) -> None:
        """Tell the work queue that these are done."""
        ...

    async def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        """Send a core message."""
        ...

    async def request(self, subject: str, body: bytes, timeout_ms: int) -> bytes:
        """Send a core message and return its answer. Raises NoAnswer."""
        ...

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Callable[[], Awaitable[None]]:
        """Hear core messages; returns how to stop. Subscribers of one queue share them."""
        ...

    async def put_blob(self, body: bytes) -> str:
        """Keep content and return its SHA-256 in hexadecimal; keeping it twice is keeping it once."""
        ...

    async def get_blob(self, sha256: str) -> bytes:
        """Return content, verified. Raises NotFound."""
        ...

    async def close(self) -> None:
        """Flush and disconnect."""
        ...

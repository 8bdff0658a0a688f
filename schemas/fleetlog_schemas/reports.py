"""What an agent says: session requests, heartbeats, reports, output frames and requests for content.

MessagePack on the wire; the host id is never inside, for it comes from the subject, which the bus enforces.
Anything read here may come from a broken or hostile host: decode with `wire.decode`, which bounds and checks.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from fleetlog_schemas.events import Artifact, OutputSummary
from fleetlog_schemas.limits import BLOB_CHUNK_BYTES
from fleetlog_schemas.outcomes import Outcome, Ran

Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]
"""A Unix time up to the year 9999, or a duration: what every reader can store and show."""
SmallNumber = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]
"""An exit code, a signal, a slot: C's `int`."""
Finite = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
"""JSON has neither infinity nor NaN: an event with one could be written and never read."""


class HeldState(StrEnum):
    """Where an attempt stands in an agent's journal."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    ENDED = "ended"


class Held(msgspec.Struct, frozen=True, array_like=True):
    """One attempt that an agent holds: from its journal entry until it is told to forget."""

    task_id: str
    attempt: int
    state: HeldState
    slot: int = 0


class OpenSession(msgspec.Struct, frozen=True):
    """Ask for a session."""

    nonce: str
    ticket: str
    """The last one received; empty when there never was one."""
    boot_id: str
    version: str
    counter: int
    held: tuple[Held, ...]
    asked_ms: int = 0
    """By the boot clock of `boot_id`: a request that was overtaken by a later one is told by it."""


class Load(msgspec.Struct, frozen=True):
    """How busy a host is."""

    cpu_ratio: float
    """0 to 1 over all cores, since the last heartbeat."""
    memory_ratio: float
    disk_ratio: float
    """Of the file system that holds the agent's data."""
    load_1m: float


class Heartbeat(msgspec.Struct, frozen=True):
    """I live, this is what I hold."""

    epoch: int
    boot_id: str
    counter: int
    newest_seq: int
    load: Load
    held: tuple[Held, ...]
    goodbye: bool = False
    spool_full: bool = False


class FarReported(msgspec.Struct, frozen=True):
    """How far a function says that it is."""

    done: Finite
    total: Finite | None = None
    note: str = ""


class ReportStarted(msgspec.Struct, frozen=True, tag="started", tag_field="report", omit_defaults=True):
    """The process of an attempt exists; and again, while it runs, how far it is."""

    task_id: str
    attempt: int
    token: str
    token_key_id: str
    started_ms: Milliseconds
    slot: SmallNumber = 0
    output_first_seq: int = 0
    progress: FarReported | None = None


class ReportEnded(msgspec.Struct, frozen=True, tag="ended", tag_field="report", omit_defaults=True):
    """How an attempt ended; implies that it started unless `ran` is no."""

    task_id: str
    attempt: int
    token: str
    token_key_id: str
    outcome: Outcome
    ran: Ran
    exit_code: SmallNumber | None = None
    signal: SmallNumber | None = None
    started_ms: Milliseconds | None = None
    ended_ms: Milliseconds | None = None
    duration_ms: Milliseconds | None = None
    error: str = ""
    tail: str = ""
    output: OutputSummary | None = None
    return_value: str | None = None
    """JSON text."""
    traceback: str = ""
    artifacts: tuple[Artifact, ...] = ()


class ReportFacts(msgspec.Struct, frozen=True, tag="facts", tag_field="report"):
    """What the host is made of, when that changed."""

    facts: dict[str, str | int | Finite | bool]


ReportItem = ReportStarted | ReportEnded | ReportFacts


class Report(msgspec.Struct, frozen=True):
    """Several items in one message. Sent again, byte for byte, until each end is told to be forgotten."""

    report_id: str
    epoch: int
    counter: int
    items: tuple[ReportItem, ...]


class Stream(StrEnum):
    """Which of a process's two outputs."""

    STDOUT = "stdout"
    STDERR = "stderr"


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A piece of output. Duplicates are recognised by attempt, stream and offset."""

    task_id: str
    attempt: int
    stream: Stream
    offset: int
    """Of its first byte among the bytes this stream wrote."""
    line: int
    """Number of its first line, from 1, counted over both streams in frame order."""
    time_ms: int
    data: bytes
    gap_bytes: int = 0
    """Bytes dropped before this frame because the quota was reached."""
    last: bool = False
    """The end marker: no frame of this attempt follows."""


class ArtifactChunk(msgspec.Struct, frozen=True, array_like=True):
    """A piece of an artifact. Duplicates are recognised by attempt, name and offset."""

    task_id: str
    attempt: int
    name: str
    offset: int
    data: bytes


class BlobRequest(msgspec.Struct, frozen=True):
    """Ask for one chunk of a blob, or of an export."""

    sha256: str
    """The digest of a blob, or the name of a task's export (`exports.blob_name`)."""
    token: str
    offset: int
    bytes_max: int = BLOB_CHUNK_BYTES
    """No more at once: on a narrow line, a large answer holds up everything behind it."""


class BlobChunk(msgspec.Struct, frozen=True):
    """The answer: bytes from `offset`, or why not."""

    data: bytes
    size: int
    error: str = ""
    again: bool = False
    """It cannot be had now; asking again is right."""
    sha256: str = ""
    """Of all of an export, which nobody knew before it was made."""
    rows: int = 0
    """Of all of an export."""
    at_ms: int = 0
    """The time for which an export stands."""

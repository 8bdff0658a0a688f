"""The stored events of the archive: where the log's past is.

Part of the format that `events.py` begins, by the same rules. See `docs/archive.md`.
"""

from __future__ import annotations

from typing import Literal

from fleetlog_schemas.events import ALERT, ARCHIVE, DISPATCH, REQUEST, RESULT, TICK, Data, event


@event("fleetlog.segment.sealed.v1", ARCHIVE, "keeper", "keeper", "dispatcher", "reporter", "gateway")
class SegmentSealed(Data, frozen=True):
    """The next part of the log is in a file of the archive, byte for byte. See `docs/archive.md`."""

    first_seq: int
    last_seq: int
    """Of the last message in it, which ends an atomic batch; a segment holds every sequence between."""
    first_ms: int
    last_ms: int
    """When its first and last message were stored."""
    bytes: int
    """Of its content before compression."""
    sha256: str
    """Of its content before compression."""
    chain_head: str
    """The head of the hash chain after its last message."""


@event("fleetlog.log.pruned.v1", ARCHIVE, "keeper", "keeper", "dispatcher", "reporter", "gateway", minreader=2)
class LogPruned(Data, frozen=True):
    """Messages that are in sealed segments are about to leave the stream; the last one of a subject stays.

    Who knows of no archive would read a log with holes: it stops here.
    """

    through_seq: int
    """The last sequence of a sealed segment."""
    below: dict[str, int]
    """Subject to the sequence below which its messages go."""
    reason: Literal["age", "room"]
    """They are older than `keeper.keep_days`, or the log is fuller than `keeper.full_ratio`."""


PRUNABLE = (REQUEST, DISPATCH, RESULT, TICK, ALERT)
"""The only subjects that are ever pruned. What readers load by subject, and what is small, stays in the stream."""

"""What the log says of its own past: which parts are sealed in segments, and how far it was pruned.

One fold for the keeper, which decides by it, and for every reader, which must know what to read from where.
"""

from __future__ import annotations

import bisect

import msgspec

from fleetlog_schemas import archive_events, chain
from fleetlog_schemas.codec import Event


class Archive(msgspec.Struct):
    """The sealed segments in their order, without a hole between them, and the last pruning."""

    sealed: list[archive_events.SegmentSealed] = []
    pruned_through: int = 0
    """Up to here the stream may lack messages of PRUNABLE subjects; all of them are in segments."""
    below: dict[str, int] = {}
    """As the last pruning said: subject to the sequence below which its messages go."""

    @property
    def sealed_through(self) -> int:
        """The last sequence that is in a segment."""
        return self.sealed[-1].last_seq if self.sealed else 0

    @property
    def chain_head(self) -> str:
        """The head of the hash chain at `sealed_through`."""
        return self.sealed[-1].chain_head if self.sealed else chain.START

    def at(self, seq: int) -> archive_events.SegmentSealed | None:
        """Return the segment that holds a sequence."""
        index = bisect.bisect_right(self.sealed, seq, key=lambda one: one.first_seq) - 1
        return self.sealed[index] if index >= 0 and seq <= self.sealed[index].last_seq else None

    def chain_before(self, sealed: archive_events.SegmentSealed) -> str:
        """Return the head of the hash chain before a segment's first message."""
        before = self.at(sealed.first_seq - 1)
        return before.chain_head if before else chain.START


def apply(archive: Archive, event: Event) -> bool:
    """Fold one event; tell whether it changed anything. What does not follow on what is sealed is void."""
    match event.data:
        case archive_events.SegmentSealed() as sealed:
            fits = sealed.first_seq == archive.sealed_through + 1 and sealed.first_seq <= sealed.last_seq < event.seq
            if fits:
                archive.sealed.append(sealed)
            return fits
        case archive_events.LogPruned(through_seq=through_seq, below=below):
            ends = archive.at(through_seq)
            fits = ends is not None and ends.last_seq == through_seq > archive.pruned_through and all(
                subject in archive_events.PRUNABLE and seq <= through_seq + 1 for subject, seq in below.items()
            )
            if fits:
                archive.pruned_through, archive.below = through_seq, below
            return fits
        case _:
            return False


class ArchiveStatus(msgspec.Struct, frozen=True):
    """What the active keeper says of the archive, when asked."""

    position: int
    """The last sequence that it has read."""
    sealed_through: int
    segments: int
    pruned_through: int
    log_bytes: int
    log_bytes_max: int
    held_back: str = ""
    """Why what should be pruned is not."""
    error: str = ""
    """Why the last thing it tried could not be done."""

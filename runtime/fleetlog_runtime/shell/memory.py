"""Streams in memory with the same rules as the server's: order, atomic batches, expected sequence, dedup, limits.

Synchronous and without a clock, so that the simulation can drive it in virtual time; `memory_bus.py` puts the
asynchronous Bus contract on top. The contract suite holds both to what the real server does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from fleetlog_runtime.pure.bus import AppendRefused, Batch, BusFull, NotFound, Stored, StreamState
from fleetlog_schemas import limits, subjects

DEDUP_WINDOW_MS = 120_000
"""How long a message id is remembered: the server's `duplicate_window`."""


def subject_matches(pattern: str, subject: str) -> bool:
    """Tell whether a NATS subject pattern (`*` one token, `>` the rest) covers a subject."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(given) > index
        if index >= len(given) or part not in ("*", given[index]):
            return False
    return len(wanted) == len(given)


class MemoryStream:
    """One stream: its messages by sequence, which never repeats even after removal."""

    def __init__(self, definition: subjects.Stream) -> None:
        """Make an empty stream of this definition."""
        self.definition = definition
        self.messages: dict[int, Stored] = {}
        self.last_seq = 0
        self.last_by_subject: dict[str, int] = {}
        self.bytes = 0
        self.recent_ids: dict[str, tuple[int, int]] = {}
        """Message id to (time it was stored, sequence of the batch's last message)."""

    @property
    def first_seq(self) -> int:
        """The lowest sequence kept; one past the last when the stream is empty."""
        return next(iter(self.messages), self.last_seq + 1)

    def remove(self, seq: int) -> None:
        """Drop one message (a work queue's acknowledgement, or age)."""
        gone = self.messages.pop(seq, None)
        if gone is not None:
            self.bytes -= len(gone.body)


class MemoryStore:
    """Every stream, and the blobs."""

    def __init__(self, now_ms: Callable[[], int], streams: tuple[subjects.Stream, ...] = subjects.STREAMS) -> None:
        """Make empty streams; *now_ms* stands for the server's clock."""
        self.now_ms = now_ms
        self.streams = {definition.name: MemoryStream(definition) for definition in streams}
        self.blobs: dict[str, bytes] = {}

    def stream_of(self, subject: str) -> MemoryStream:
        """Return the stream that stores a subject. Raises NotFound."""
        for stream in self.streams.values():
            if any(subject_matches(pattern, subject) for pattern in stream.definition.subjects):
                return stream
        raise NotFound(f"no stream stores {subject}")

    def append(self, batch: Batch) -> int:
        """Store a batch and return its last sequence.

        Raises:
            AppendRefused: the expected sequence or a batch's dedup said no.
            BusFull: it does not fit.
        """
        stream = self.stream_of(batch.drafts[0].subject)
        if len(batch.drafts) > limits.BATCH_MESSAGES_MAX:
            raise AppendRefused(f"more than {limits.BATCH_MESSAGES_MAX} messages in one batch")
        if any(self.stream_of(draft.subject) is not stream for draft in batch.drafts):
            raise AppendRefused("a batch belongs to one stream")
        # The server looks at the expected sequence before it looks for duplicates.
        if batch.expected_seq is not None:
            actual = stream.last_by_subject.get(batch.expected_subject, 0)
            if actual != batch.expected_seq:
                raise AppendRefused(f"wrong last sequence: {actual}", actual)
        for subject, expected_seq in batch.also_expected:
            actual = stream.last_by_subject.get(subject, 0)
            if actual != expected_seq:
                raise AppendRefused(f"wrong last sequence: {actual}", actual)
        known = self._known_id(stream, batch.message_id)
        if known is not None:
            if len(batch.drafts) > 1:
                raise AppendRefused("duplicate message id in batch")
            return known
        self._make_room(stream, batch)
        return self._store(stream, batch)

    def _known_id(self, stream: MemoryStream, message_id: str) -> int | None:
        now_ms = self.now_ms()
        while stream.recent_ids:
            oldest, (stored_ms, _) = next(iter(stream.recent_ids.items()))
            if now_ms - stored_ms < DEDUP_WINDOW_MS:
                break
            del stream.recent_ids[oldest]
        known = stream.recent_ids.get(message_id)
        return known[1] if known else None

    def _make_room(self, stream: MemoryStream, batch: Batch) -> None:
        definition = stream.definition
        if any(len(draft.body) > definition.message_bytes_max for draft in batch.drafts):
            raise BusFull(f"a message exceeds the {definition.message_bytes_max} bytes of {definition.name}")
        size = sum(len(draft.body) for draft in batch.drafts)
        for draft in batch.drafts if definition.per_subject_max else ():
            kept = [seq for seq, one in stream.messages.items() if one.subject == draft.subject]
            if len(kept) >= definition.per_subject_max:
                if definition.discard_new:
                    raise BusFull(f"{draft.subject} has its share of {definition.name}")
                stream.remove(kept[0])
        if stream.bytes + size > definition.bytes_max and definition.discard_new:
            raise BusFull(f"{definition.name} is full")
        while stream.messages and stream.bytes + size > definition.bytes_max:
            stream.remove(stream.first_seq)

    def _store(self, stream: MemoryStream, batch: Batch) -> int:
        now_ms = self.now_ms()
        for index, draft in enumerate(batch.drafts):
            stream.last_seq += 1
            stream.messages[stream.last_seq] = Stored(
                seq=stream.last_seq, subject=draft.subject, time_ms=now_ms, body=draft.body,
                batch_end=index == len(batch.drafts) - 1,
            )
            stream.last_by_subject[draft.subject] = stream.last_seq
            stream.bytes += len(draft.body)
        if batch.message_id:
            stream.recent_ids[batch.message_id] = (now_ms, stream.last_seq)
        return stream.last_seq

    def read(self, stream_name: str, from_seq: int, count: int, subject: str = "") -> list[Stored]:
        """Return up to *count* messages from a sequence on, optionally of subjects that match."""
        stream = self.streams[stream_name]
        found: list[Stored] = []
        for seq in range(max(from_seq, stream.first_seq), stream.last_seq + 1):
            message = stream.messages.get(seq)
            if message is not None and (not subject or subject_matches(subject, message.subject)):
                found.append(message)
                if len(found) >= count:
                    break
        return found

    def purge(self, stream_name: str, subject: str, below_seq: int) -> int:
        """Remove the messages of one subject below a sequence; a subject that loses its last one forgets its sequence."""
        stream = self.streams[stream_name]
        gone = [seq for seq, one in stream.messages.items() if seq < below_seq and one.subject == subject]
        for seq in gone:
            stream.remove(seq)
        if stream.last_by_subject.get(subject, below_seq) < below_seq:
            del stream.last_by_subject[subject]
        return len(gone)

    def state(self, stream_name: str) -> StreamState:
        """Return where a stream begins and ends."""
        stream = self.streams[stream_name]
        return StreamState(
            first_seq=stream.first_seq, last_seq=stream.last_seq, bytes=stream.bytes,
            bytes_max=stream.definition.bytes_max,
        )

    def put_blob(self, body: bytes) -> str:
        """Keep content under its digest."""
        sha256 = hashlib.sha256(body).hexdigest()
        self.blobs[sha256] = body
        return sha256

    def get_blob(self, sha256: str) -> bytes:
        """Return content. Raises NotFound."""
        try:
            return self.blobs[sha256]
        except KeyError:
            raise NotFound(f"no blob {sha256}") from None

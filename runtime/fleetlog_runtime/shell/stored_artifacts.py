"""Read an artifact from the stream OUTPUT, in which the agent that made it has stored it.

The log names an artifact by digest, size and two sequences between which its chunks are. Chunks are taken in the order
of their offsets, so what is stored twice, or by an interrupted upload, is passed over. The last chunk is handed out only
when the digest of the whole is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from fleetlog_runtime.pure.bus import Bus
from fleetlog_schemas import reports, subjects, wire
from fleetlog_schemas.events import Artifact

CHUNKS_AT_ONCE = 8
"""Chunks read together: two megabytes."""


class Gone(Exception):
    """An artifact that the log names and of which not everything is kept, or as it was; the message says which."""


async def content(bus: Bus, host_id: str, task_id: str, attempt: int, artifact: Artifact) -> AsyncIterator[bytes]:
    """Yield the bytes of an artifact. Raises Gone, NoAnswer."""
    digest, held, offset = hashlib.sha256(), b"", 0
    from_seq, subject = artifact.first_seq, subjects.artifacts(host_id)
    while offset < artifact.size:
        found = await bus.get_range(subjects.OUTPUT, from_seq, CHUNKS_AT_ONCE, subject)
        for stored in found:
            chunk = _chunk(stored.body) if stored.seq <= artifact.last_seq else None
            if chunk is None or (chunk.task_id, chunk.attempt, chunk.name, chunk.offset) != (task_id, attempt, artifact.name, offset):
                continue
            if held:
                yield held
            held = chunk.data
            digest.update(held)
            offset += len(held)
        if not found or (found[-1].seq >= artifact.last_seq and offset < artifact.size):
            raise Gone(
                f"{artifact.name} is not kept any more: artifacts go with output, the oldest first, after 30 days at the latest."
                f" Its digest was {artifact.sha256}: run the build again and compare"
            )
        from_seq = found[-1].seq + 1
    if digest.hexdigest() != artifact.sha256:
        raise Gone(f"what is stored of {artifact.name} does not have its digest: it was damaged")
    if held:
        yield held


def _chunk(body: bytes) -> reports.ArtifactChunk | None:
    try:
        chunk: reports.ArtifactChunk = wire.decode(body, reports.ArtifactChunk)
    except wire.BadMessage:
        return None
    return chunk

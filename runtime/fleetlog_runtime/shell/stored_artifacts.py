"""Read an artifact from the stream OUTPUT, in which the agent that made it has stored it.

The log names an artifact by digest, size and two sequences between which its chunks are. Chunks are taken in the order
of their offsets, so what is stored twice, or by an interrupted upload, is passed over. The last chunk is handed out only
when the digest of the whole is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from fleetlog_runtime.pure.bus import Bus
from fleetlog_runtime.shell.clock import Clock
from fleetlog_schemas import reports, subjects, wire
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.events import Artifact

CHUNKS_AT_ONCE = 8
"""Chunks read together: two megabytes."""


FULL_RATIO = 0.9
"""From here on what is missing went for room."""
DAY_MS = 86_400_000
AGE_MS_MAX = next(stream.age_seconds_max for stream in subjects.STREAMS if stream.name == subjects.OUTPUT) * 1_000
"""Artifacts are kept for so long at most."""


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
            raise Gone(f"{artifact.name} is not kept any more: {await _why_gone(bus, artifact)}. Its digest was {artifact.sha256}:"
                       " run the build again and compare")
        from_seq = found[-1].seq + 1
    if digest.hexdigest() != artifact.sha256:
        raise Gone(f"what is stored of {artifact.name} does not have its digest: it was damaged")
    if held:
        yield held


async def _why_gone(bus: Bus, artifact: Artifact) -> str:
    """Return why OUTPUT does not have an artifact, and since which time it has what it has."""
    state = await bus.state(subjects.OUTPUT)
    oldest = await bus.get_range(subjects.OUTPUT, state.first_seq, 1)
    since = f"what is kept begins at {rfc3339(oldest[0].time_ms)}" if oldest else "nothing is kept now"
    if artifact.first_seq >= state.first_seq:
        return f"output was removed by hand, or restored from a backup that did not have all of it; {since}"
    if state.bytes >= FULL_RATIO * state.bytes_max > 0:
        return f"output and artifacts have {state.bytes_max // 1024**3} GiB, which are full, and the oldest went for newer ones; {since}"
    if oldest and oldest[0].time_ms <= Clock().now_ms() - (AGE_MS_MAX - DAY_MS):
        return f"artifacts are kept for {AGE_MS_MAX // DAY_MS} days, as output is; {since}"
    return (
        f"it was older than the {AGE_MS_MAX // DAY_MS} days for which artifacts are kept, or this server was restored from a backup without"
        f" output; {since}"
    )


async def kept_since_seq(bus: Bus) -> int:
    """Return the first sequence of OUTPUT that is kept: what begins before it is gone. Raises NoAnswer."""
    return (await bus.state(subjects.OUTPUT)).first_seq


def _chunk(body: bytes) -> reports.ArtifactChunk | None:
    try:
        chunk: reports.ArtifactChunk = wire.decode(body, reports.ArtifactChunk)
    except wire.BadMessage:
        return None
    return chunk

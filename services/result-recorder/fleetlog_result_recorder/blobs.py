"""Serve content to agents, chunk by chunk: only what a push to that host named, proved by a keyed hash."""

from __future__ import annotations

from collections import OrderedDict

from fleetlog_runtime.pure.bus import Bus, NoAnswer, NotFound
from fleetlog_schemas import limits, reports, subjects, tokens, wire

CACHE_BYTES_MAX = 64 * 1024 * 1024
"""Content kept in memory: a fleet asks for the same script at the same moment."""


class BlobServer:
    """Answers requests on `blob.<host_id>`."""

    def __init__(self, bus: Bus, key: bytes) -> None:
        """Serve from *bus*; *key* is the blob key that the dispatcher makes tokens with."""
        self._bus = bus
        self._key = key
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0

    async def asked(self, subject: str, body: bytes, reply: str) -> None:
        """Answer one request with a chunk, or with why not."""
        if reply:
            await self._bus.publish(reply, wire.encode(await self._chunk(subjects.host_of(subject), body)))

    async def _chunk(self, host_id: str, body: bytes) -> reports.BlobChunk:
        try:
            request: reports.BlobRequest = wire.decode(body, reports.BlobRequest)
        except wire.BadMessage as error:
            return reports.BlobChunk(data=b"", size=0, error=f"the request cannot be read: {error}")
        if not tokens.matches(tokens.blob_token(self._key, host_id, request.sha256), request.token):
            return reports.BlobChunk(data=b"", size=0, error="this host was not given this content")
        try:
            content = await self._content(request.sha256)
        except NotFound:
            return reports.BlobChunk(data=b"", size=0, error="the content is gone: it was erased, or never stored")
        except NoAnswer:
            return reports.BlobChunk(data=b"", size=0, error="the content cannot be read now", again=True)
        offset, size = max(0, request.offset), min(max(request.bytes_max, 1), limits.BLOB_CHUNK_BYTES)
        return reports.BlobChunk(data=content[offset : offset + size], size=len(content))

    async def _content(self, sha256: str) -> bytes:
        content = self._cache.get(sha256)
        if content is not None:
            self._cache.move_to_end(sha256)
            return content
        content = await self._bus.get_blob(sha256)
        self._cached_bytes += len(content)
        self._cache[sha256] = content
        while self._cached_bytes > CACHE_BYTES_MAX and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)
        return content

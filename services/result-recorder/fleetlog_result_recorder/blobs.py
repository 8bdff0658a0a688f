"""Serve content to agents, chunk by chunk: only what a push to that host named, proved by a keyed hash.

An export is content that the reporter makes when it is first asked for; it is handed on, not kept here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import msgspec

from fleetlog_runtime.pure.bus import Bus, NoAnswer, NotFound
from fleetlog_schemas import exports, limits, questions, reports, subjects, tokens, wire

CACHE_BYTES_MAX = 64 * 1024 * 1024
"""Content kept in memory: a fleet asks for the same script at the same moment."""
EXPORTS_AT_ONCE_MAX = 16
"""Pieces of exports that are asked for at once; who asks for more is told to ask again."""
EXPORT_MS_MAX = 4_000
"""Longest wait for a piece; the reporter says within two seconds that an export is being made."""


class _Answered(msgspec.Struct, frozen=True):
    """The reporter's answer, as far as it is needed."""

    data: exports.ExportPiece | None = None
    problem: questions.Problem | None = None


class BlobServer:
    """Answers requests on `blob.<host_id>`."""

    def __init__(self, bus: Bus, key: bytes) -> None:
        """Serve from *bus*; *key* is the blob key that the dispatcher makes tokens with."""
        self._bus = bus
        self._key = key
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._exporting: set[asyncio.Task[None]] = set()

    async def asked(self, subject: str, body: bytes, reply: str) -> None:
        """Answer one request with a chunk, or with why not."""
        if not reply:
            return
        chunk = await self._chunk(subjects.host_of(subject), body)
        if isinstance(chunk, reports.BlobChunk):
            await self._bus.publish(reply, wire.encode(chunk))
            return
        # Answered beside the subscription: the reporter may take its time, and other hosts ask for small things.
        answering = asyncio.create_task(self._export(chunk, reply))
        self._exporting.add(answering)
        answering.add_done_callback(self._exporting.discard)

    async def close(self) -> None:
        """Leave what is being asked of the reporter: whoever waits for it asks again."""
        for answering in self._exporting:
            answering.cancel()
        await asyncio.gather(*self._exporting, return_exceptions=True)

    async def _export(self, request: reports.BlobRequest, reply: str) -> None:
        await self._bus.publish(reply, wire.encode(await self._exported(request)))

    async def _exported(self, request: reports.BlobRequest) -> reports.BlobChunk:
        question = exports.ExportQuestion(
            of_task=request.sha256.removeprefix(exports.BLOB_PREFIX), offset=max(0, request.offset),
            limit_bytes=min(max(request.bytes_max, 1), limits.BLOB_CHUNK_BYTES),
        )
        try:
            body = await self._bus.request(subjects.ask("reporter", "export"), msgspec.json.encode(question), EXPORT_MS_MAX)
            answer = msgspec.json.decode(questions.unpack_answer(body), type=_Answered)
        except NoAnswer:
            return reports.BlobChunk(data=b"", size=0, error="no reporter answers", again=True)
        except (msgspec.MsgspecError, ValueError) as error:
            return reports.BlobChunk(data=b"", size=0, error=f"the reporter answered what cannot be read: {error}")
        if answer.data is None:
            problem = answer.problem or questions.Problem(status=500, code="internal", message="the reporter said nothing")
            # 404: it has not read so far in the log as to know of the task.
            again = problem.status in (404, 503, 504)
            return reports.BlobChunk(data=b"", size=0, error=problem.message, again=again)
        piece = answer.data
        return reports.BlobChunk(data=piece.data, size=piece.size, sha256=piece.sha256, rows=piece.rows, at_ms=piece.at_ms)

    async def _chunk(self, host_id: str, body: bytes) -> reports.BlobChunk | reports.BlobRequest:
        """Return the answer, or the request when it is a good one for an export."""
        try:
            request: reports.BlobRequest = wire.decode(body, reports.BlobRequest)
        except wire.BadMessage as error:
            return reports.BlobChunk(data=b"", size=0, error=f"the request cannot be read: {error}")
        if not tokens.matches(tokens.blob_token(self._key, host_id, request.sha256), request.token):
            return reports.BlobChunk(data=b"", size=0, error="this host was not given this content")
        if request.sha256.startswith(exports.BLOB_PREFIX):
            if len(self._exporting) >= EXPORTS_AT_ONCE_MAX:
                return reports.BlobChunk(data=b"", size=0, error="other exports are being fetched", again=True)
            return request
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

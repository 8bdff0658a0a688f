"""Content by digest: asked for chunk by chunk on the host's own subject, verified, and kept for a while.

An export is content of one task that is made when it is first asked for: it has its digest only then.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from fleetlog_agent.pace import Pace
from fleetlog_runtime.pure.bus import Bus, NoAnswer
from fleetlog_runtime.shell.files import private_folder, write_atomic
from fleetlog_schemas import subjects, wire
from fleetlog_schemas.exports import BLOB_PREFIX, blob_name
from fleetlog_schemas.limits import BLOB_BYTES_MAX, BLOB_CHUNK_BYTES
from fleetlog_schemas.reports import BlobChunk, BlobRequest
from fleetlog_schemas.spec import Blob

CACHE_BYTES_MAX = 256 * 1024 * 1024
"""Kept content beyond this goes, longest unused first."""
PATIENCE_SECONDS = 30.0
"""Per chunk, while it cannot be had: a bus or a recorder that restarts, and nodes that elect a leader, are back by then."""
EXPORT_PATIENCE_SECONDS = 700.0
"""The same for an export, which the reporter may take ten minutes to make."""
EXPORT_TRIES_MAX = 3
"""An export that another reporter made anew, and otherwise, is fetched from its beginning; so often."""
ANSWER_MS_MAX = 5_000
RETRY_SECONDS = 1.0


class BlobFailed(Exception):
    """Content could not be had; the message says why."""


class Exported(msgspec.Struct, frozen=True):
    """An export that was fetched."""

    size: int
    sha256: str
    rows: int
    at_ms: int


def _called(request: BlobRequest) -> str:
    """Return what is asked for, in words for people."""
    return "the export" if request.sha256.startswith(BLOB_PREFIX) else f"content {request.sha256[:12]}"


class _Differs(Exception):
    """A piece belongs to another making of the export."""


class Blobs:
    """The content of one host."""

    def __init__(self, host_id: str, folder: Path, bus: Callable[[], Bus | None]) -> None:
        """Keep content in *folder*; *bus* is asked anew for each try, for it comes and goes."""
        self._host_id = host_id
        self._bus = bus
        self._folder = private_folder(folder)

    async def cached(self, blob: Blob, token: str) -> bytes:
        """Return content, from the cache if it is there. Raises BlobFailed."""
        path = self._folder / blob.sha256
        try:
            body = path.read_bytes()
            if hashlib.sha256(body).hexdigest() == blob.sha256:
                path.touch()
                return body
        except FileNotFoundError:
            pass
        body = await self.fetch(blob, token)
        try:
            write_atomic(path, body)
            self._trim()
        except OSError:
            path.unlink(missing_ok=True)  # a cache that does not fit is no cache; the content is here
        return body

    async def fetch(self, blob: Blob, token: str) -> bytes:
        """Return content without keeping it: environment and stdin may be secret. Raises BlobFailed."""
        if blob.size > BLOB_BYTES_MAX:
            raise BlobFailed(f"content of {blob.size} bytes exceeds the {BLOB_BYTES_MAX} of one blob")
        body = bytearray()
        pace = Pace(BLOB_CHUNK_BYTES)
        while len(body) < blob.size:
            chunk = await self._chunk(BlobRequest(sha256=blob.sha256, token=token, offset=len(body)), pace, PATIENCE_SECONDS)
            if not chunk.data or chunk.size != blob.size:
                raise BlobFailed(f"content {blob.sha256[:12]} is not what was announced: {chunk.size} bytes")
            body += chunk.data
        if hashlib.sha256(body).hexdigest() != blob.sha256:
            raise BlobFailed(f"content {blob.sha256[:12]} does not have its digest: it was damaged or replaced")
        return bytes(body)

    async def export(self, task_id: str, token: str, path: Path, is_stopped: Callable[[], bool]) -> Exported:
        """Write what a task exports to *path*. Raises BlobFailed, OSError."""
        for _ in range(EXPORT_TRIES_MAX):
            try:
                return await self._export(BlobRequest(sha256=blob_name(task_id), token=token, offset=0), path, is_stopped)
            except _Differs:
                continue
        raise BlobFailed("the export was made anew each time, and differs: something of it expires meanwhile")

    async def _export(self, request: BlobRequest, path: Path, is_stopped: Callable[[], bool]) -> Exported:
        digest, offset, pace = hashlib.sha256(), 0, Pace(BLOB_CHUNK_BYTES)
        first: BlobChunk | None = None
        with await asyncio.to_thread(path.open, "wb") as file:
            while first is None or offset < first.size:
                chunk = await self._chunk(
                    msgspec.structs.replace(request, offset=offset), pace, EXPORT_PATIENCE_SECONDS, is_stopped
                )
                first = first or chunk
                if chunk.sha256 != first.sha256 or (not chunk.data and offset < first.size):
                    raise _Differs
                digest.update(chunk.data)
                offset += len(chunk.data)
                await asyncio.to_thread(file.write, chunk.data)
        if digest.hexdigest() != first.sha256:
            raise BlobFailed("the export does not have its digest: it was damaged on its way")
        return Exported(first.size, first.sha256, first.rows, first.at_ms)

    async def _chunk(
        self, request: BlobRequest, pace: Pace, patience_seconds: float, is_stopped: Callable[[], bool] = lambda: False
    ) -> BlobChunk:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_seconds
        while True:
            if is_stopped():
                raise BlobFailed("it was stopped before it ran")
            chunk, why = await self._ask(request, pace)
            if chunk is not None:
                return chunk
            if loop.time() > deadline:
                raise BlobFailed(f"{_called(request)} could not be fetched: {why}")
            await asyncio.sleep(RETRY_SECONDS)

    async def _ask(self, request: BlobRequest, pace: Pace) -> tuple[BlobChunk | None, str]:
        """Return a chunk, or why it cannot be had now. Raises BlobFailed."""
        bus = self._bus()
        if bus is None:
            return None, "the bus is not there"
        asked = wire.encode(msgspec.structs.replace(request, bytes_max=pace.bytes))
        pace.begins()
        try:
            answer = await bus.request(subjects.blob(self._host_id), asked, ANSWER_MS_MAX)
            chunk: BlobChunk = wire.decode(answer, BlobChunk)
        except NoAnswer:
            pace.unanswered()
            return None, "no recorder answers"
        except wire.BadMessage as error:
            raise BlobFailed(f"{_called(request)} came as something else: {error}") from None
        pace.answered()
        if chunk.error and not chunk.again:
            raise BlobFailed(f"{_called(request)} was refused: {chunk.error}")
        return (None, chunk.error) if chunk.again else (chunk, "")

    def _trim(self) -> None:
        files = sorted(((path.stat(), path) for path in self._folder.iterdir()), key=lambda one: one[0].st_mtime)
        spare = sum(stat.st_size for stat, _ in files) - CACHE_BYTES_MAX
        for stat, path in files:
            if spare <= 0:
                return
            path.unlink(missing_ok=True)
            spare -= stat.st_size

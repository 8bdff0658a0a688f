"""Content by digest: asked for chunk by chunk on the host's own subject, verified, and kept for a while."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from fleetlog_agent.pace import Pace
from fleetlog_runtime.pure.bus import Bus, NoAnswer
from fleetlog_runtime.shell.files import private_folder, write_atomic
from fleetlog_schemas import subjects, wire
from fleetlog_schemas.limits import BLOB_BYTES_MAX, BLOB_CHUNK_BYTES
from fleetlog_schemas.reports import BlobChunk, BlobRequest
from fleetlog_schemas.spec import Blob

CACHE_BYTES_MAX = 256 * 1024 * 1024
"""Kept content beyond this goes, longest unused first."""
TRIES_MAX = 5
"""Per chunk, when nobody answers: a recorder that restarts is back in a few seconds."""
ANSWER_MS_MAX = 5_000
RETRY_SECONDS = 1.0


class BlobFailed(Exception):
    """Content could not be had; the message says why."""


class Blobs:
    """The content of one host."""

    def __init__(self, host_id: str, folder: Path) -> None:
        """Keep content in *folder*."""
        self._host_id = host_id
        self._folder = private_folder(folder)

    async def cached(self, bus: Bus | None, blob: Blob, token: str) -> bytes:
        """Return content, from the cache if it is there. Raises BlobFailed."""
        path = self._folder / blob.sha256
        try:
            body = path.read_bytes()
            if hashlib.sha256(body).hexdigest() == blob.sha256:
                path.touch()
                return body
        except FileNotFoundError:
            pass
        body = await self.fetch(bus, blob, token)
        try:
            write_atomic(path, body)
            self._trim()
        except OSError:
            path.unlink(missing_ok=True)  # a cache that does not fit is no cache; the content is here
        return body

    async def fetch(self, bus: Bus | None, blob: Blob, token: str) -> bytes:
        """Return content without keeping it: environment and stdin may be secret. Raises BlobFailed."""
        if blob.size > BLOB_BYTES_MAX:
            raise BlobFailed(f"content of {blob.size} bytes exceeds the {BLOB_BYTES_MAX} of one blob")
        body = bytearray()
        pace = Pace(BLOB_CHUNK_BYTES)
        while len(body) < blob.size:
            chunk = await self._chunk(bus, blob.sha256, token, len(body), pace)
            if not chunk.data or chunk.size != blob.size:
                raise BlobFailed(f"content {blob.sha256[:12]} is not what was announced: {chunk.size} bytes")
            body += chunk.data
        if hashlib.sha256(body).hexdigest() != blob.sha256:
            raise BlobFailed(f"content {blob.sha256[:12]} does not have its digest: it was damaged or replaced")
        return bytes(body)

    async def _chunk(self, bus: Bus | None, sha256: str, token: str, offset: int, pace: Pace) -> BlobChunk:
        why = "the bus is not there"
        for attempt in range(TRIES_MAX):
            if attempt:
                await asyncio.sleep(RETRY_SECONDS)
            if bus is None:
                continue
            request = BlobRequest(sha256=sha256, token=token, offset=offset, bytes_max=pace.bytes)
            pace.begins()
            try:
                answer = await bus.request(subjects.blob(self._host_id), wire.encode(request), ANSWER_MS_MAX)
                chunk: BlobChunk = wire.decode(answer, BlobChunk)
            except NoAnswer:
                pace.unanswered()
                why = "no recorder answers"
                continue
            except wire.BadMessage as error:
                raise BlobFailed(f"content {sha256[:12]} came as something else: {error}") from None
            pace.answered()
            if chunk.error:
                raise BlobFailed(f"content {sha256[:12]} was refused: {chunk.error}")
            return chunk
        raise BlobFailed(f"content {sha256[:12]} could not be fetched: {why}")

    def _trim(self) -> None:
        files = sorted(((path.stat(), path) for path in self._folder.iterdir()), key=lambda one: one[0].st_mtime)
        spare = sum(stat.st_size for stat, _ in files) - CACHE_BYTES_MAX
        for stat, path in files:
            if spare <= 0:
                return
            path.unlink(missing_ok=True)
            spare -= stat.st_size

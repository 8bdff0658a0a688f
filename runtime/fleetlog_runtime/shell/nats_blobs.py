"""Content by digest in the bucket BLOBS, in the layout of a NATS object store (ADR-20), so that its tools read it.

An object's name is its SHA-256. Keeping the same content twice writes nothing; two keepers at once write the
chunks twice under different names and one of them stands, which needs no right to delete anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from fleetlog_runtime.pure.bus import Batch, Draft, NotFound, Stored
from fleetlog_runtime.shell.nats_read import Reading
from fleetlog_schemas import limits, subjects

CHUNK_BYTES = 128 * 1024
"""The object store's own default."""
_STREAM = f"OBJ_{subjects.BLOBS}"
_CHUNKS = f"$O.{subjects.BLOBS}.C."
_META = f"$O.{subjects.BLOBS}.M."


class Blobs:
    """The bucket, through one connection."""

    def __init__(self, reading: Reading, append: Callable[[Batch], Awaitable[int]]) -> None:
        """Use a connection's reading half and its append."""
        self._reading = reading
        self._append = append

    async def put(self, body: bytes) -> str:
        """Keep content and return its SHA-256 in hexadecimal. Raises what `append` raises, or ValueError."""
        if len(body) > limits.BLOB_BYTES_MAX:
            raise ValueError(f"{len(body)} bytes are more than the {limits.BLOB_BYTES_MAX} of one blob")
        digest = hashlib.sha256(body)
        name = digest.hexdigest()
        try:
            await self._meta(name)
        except NotFound:
            pass
        else:
            return name
        unique = uuid.uuid4().hex
        chunks = [body[start : start + CHUNK_BYTES] for start in range(0, len(body), CHUNK_BYTES)]
        for chunk in chunks:
            await self._append(Batch(drafts=(Draft(subject=_CHUNKS + unique, body=chunk),), message_id=""))
        meta = {
            "name": name, "bucket": subjects.BLOBS, "nuid": unique, "size": len(body), "chunks": len(chunks),
            "digest": "SHA-256=" + base64.urlsafe_b64encode(digest.digest()).decode(),
            "options": {"max_chunk_size": CHUNK_BYTES},
        }
        draft = Draft(subject=_META + _encoded(name), body=json.dumps(meta).encode(), headers={"Nats-Rollup": "sub"})
        await self._append(Batch(drafts=(draft,), message_id=""))
        return name

    async def get(self, sha256: str) -> bytes:
        """Return content, verified. Raises NotFound."""
        meta = json.loads((await self._meta(sha256)).body)
        count, subject = meta["chunks"], _CHUNKS + meta["nuid"]
        for read in (self._reading.get_range, self._reading.get_range_from_leader):
            # The copy of one node may lack a chunk that was damaged on its disk.
            chunks = await read(_STREAM, 1, count, subject) if count else []
            body = b"".join(chunk.body for chunk in chunks)
            if hashlib.sha256(body).hexdigest() == sha256:
                return body
        raise NotFound(f"the stored bytes of blob {sha256} are damaged")

    async def _meta(self, sha256: str) -> Stored:
        try:
            stored = await self._reading.get_last(_STREAM, _META + _encoded(sha256))
        except NotFound:
            raise NotFound(f"there is no blob {sha256[:80]}") from None
        content: dict[str, Any] = json.loads(stored.body)
        if content.get("deleted"):
            raise NotFound(f"blob {sha256} was erased")
        return stored


def _encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()

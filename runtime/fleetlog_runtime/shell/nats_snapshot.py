"""Copy a stream to a file and back, by the server's own snapshots, as `nats stream backup` does.

Messages keep sequence, time and headers. The server sends a snapshot in chunks and waits for the acknowledgement of
each once a window is under way, so writing to a slow disk slows it down rather than filling memory. What is put back
goes the other way, one chunk and one answer at a time. Source: docs.nats.io, JetStream API, stream snapshot and restore.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from fleetlog_runtime.shell.files import new_private
from fleetlog_runtime.shell.streams import PERSIST_MODE

CHUNK_BYTES = 128 * 1024
"""Of one message: the server's own default, far below what the bus carries."""
PUT_BACK_BYTES = 16 * 1024
"""Of one message on the way back: the server stores all messages of a chunk before it answers, and gives up on the whole
after 5 s of that. A chunk is compressed and may hold thousands; with a flush for each that is too long on any disk, so
the server that takes them must flush late."""
WINDOW_BYTES = 8 * 1024**2
"""Sent by the server before it waits for an acknowledgement: the server's own default."""
BEGIN_SECONDS_MAX = 3_600
"""Until the first answer; before it the server may check every message of the stream."""
CHUNK_SECONDS_MAX = 60
"""Between two chunks; the server itself gives up after a few seconds without an acknowledgement."""
_DONE_STATUS = ("", "204")

TAKE_RIGHTS = ("$JS.API.STREAM.SNAPSHOT.*", "$JS.API.STREAM.INFO.*", "$JS.SNAPSHOT.ACK.>")
PUT_BACK_RIGHTS = ("$JS.API.>", "$JS.SNAPSHOT.RESTORE.>")


class SnapshotError(Exception):
    """A stream cannot be copied or put back; the message carries the server's reason, *code* and *number* what it answered."""

    def __init__(self, message: str, code: int = 0, number: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.number = number


class StreamCopy(msgspec.Struct, frozen=True):
    """What a copied stream was: its configuration and state as the server gave them, and the file."""

    name: str
    config: dict[str, Any]
    state: dict[str, Any]
    bytes: int
    sha256: str

    @property
    def last_seq(self) -> int:
        """The last sequence that surely is in the copy."""
        return int(self.state.get("last_seq", 0))


async def take(client: Client, stream: str, path: Path, *, check: bool) -> StreamCopy:
    """Write a snapshot of a stream to *path*, a new file.

    With *check* the server reads and checks every message first; meanwhile it takes none for this stream.

    Raises:
        SnapshotError: the server refused, or fell silent.
        OSError: the file cannot be written.
    """
    chunks: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=chunks.put)
    try:
        request = {
            "deliver_subject": inbox, "no_consumers": True, "chunk_size": CHUNK_BYTES, "window_size": WINDOW_BYTES,
            "jsck": check,
        }
        answer = await _ask(client, f"$JS.API.STREAM.SNAPSHOT.{stream}", request, BEGIN_SECONDS_MAX)
        with new_private(path) as file:
            size, digest = await _receive(client, stream, chunks, file)
    finally:
        await subscription.unsubscribe()
    return StreamCopy(stream, answer["config"], answer["state"], size, digest)


async def _receive(client: Client, stream: str, chunks: asyncio.Queue[Msg], file: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while True:
        try:
            chunk = await asyncio.wait_for(chunks.get(), CHUNK_SECONDS_MAX)
        except TimeoutError:
            raise SnapshotError(f"{stream}: the bus sent nothing for {CHUNK_SECONDS_MAX} s") from None
        if not chunk.data:
            status = (chunk.headers or {}).get("Status", "")
            if status not in _DONE_STATUS:
                reason = (chunk.headers or {}).get("Description", "")
                raise SnapshotError(f"{stream}: the bus gave up: {status} {reason}".rstrip())
            return size, digest.hexdigest()
        await asyncio.to_thread(file.write, chunk.data)
        digest.update(chunk.data)
        size += len(chunk.data)
        if chunk.reply:
            await client.publish(chunk.reply, b"")


async def put_back(client: Client, copy: StreamCopy, path: Path, bytes_max: int, replicas: int = 1) -> dict[str, Any]:
    """Make a stream anew from a snapshot, with *bytes_max* as its limit, on *replicas* nodes, and return its state.

    Raises:
        SnapshotError: the server refused it, such as because the stream exists.
    """
    # A stream that is synced late cannot have copies on other nodes.
    config = {key: value for key, value in copy.config.items() if key != PERSIST_MODE or replicas == 1}
    request = {"config": config | {"max_bytes": bytes_max, "num_replicas": replicas}, "state": copy.state}
    answer = await _ask(client, f"$JS.API.STREAM.RESTORE.{copy.name}", request, CHUNK_SECONDS_MAX)
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, PUT_BACK_BYTES):
            reply = await client.request(answer["deliver_subject"], chunk, timeout=CHUNK_SECONDS_MAX)
            _refused(copy.name, reply.data)
    reply = await client.request(answer["deliver_subject"], b"", timeout=BEGIN_SECONDS_MAX)
    return dict(_refused(copy.name, reply.data).get("state", {}))


async def _ask(client: Client, subject: str, body: dict[str, Any], seconds: float) -> dict[str, Any]:
    reply = await client.request(subject, json.dumps(body).encode(), timeout=seconds)
    return _refused(subject.rpartition(".")[2], reply.data)


def _refused(stream: str, body: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(body) if body.strip() else {}
    if "error" in answer:
        error = answer["error"]
        numbers = int(error.get("code", 0)), int(error.get("err_code", 0))
        raise SnapshotError(f"{stream}: the bus refused: {error.get('description', error)}", *numbers)
    return answer

"""Put a stream back until it is whole, however often that was interrupted.

A cluster takes the name of a stream before it has the first byte of it, and keeps the name when the restore stops: by
a timeout of five seconds on a busy machine, or because somebody died. What is left is a stream that is not found and
cannot be made ("name already in use"), or, once its nodes have chosen a leader, one that is there and empty. Nothing
but removing it helps. It is removed only after it has stayed so for longer than the server waits for the next piece:
a restore whose last answer got lost may yet end well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError

from fleetlog_runtime.shell.nats_snapshot import SnapshotError, StreamCopy, put_back
from fleetlog_runtime.shell.streams import StreamError, call_api

TRIES_MAX = 5
"""Of one stream, which the server itself gave up; who dies or falls silent is waited for without end."""
ABANDONED_SECONDS = 10.0
"""A half-made stream has stayed so for this long. The server gives up a restore of which nothing comes for 5 s."""
LOOK_SECONDS = 0.25
_NOT_FOUND = 404
_AGAIN = frozenset({10048, 10062, 10130})
"""The server could not end the restore, or the name is taken by one that did not end."""

Say = Callable[[str], None]


async def put_back_whole(
    client: Client, copy: StreamCopy, path: Path, bytes_max: int, replicas: int, say: Say
) -> dict[str, Any]:
    """Return what the bus says of a stream that holds all of *copy*, putting it back from *path* where it does not.

    Whoever calls has seen to it that no one writes to the stream yet: what holds less than *copy* is removed.

    Raises:
        StreamError: the server refuses it, or gave it up too often.
        NatsError, TimeoutError: the bus does not answer; call again.
    """
    reason = ""
    for _ in range(TRIES_MAX):
        if found := await _whole(client, copy):
            return found
        try:
            await put_back(client, copy, path, bytes_max, replicas)
        except SnapshotError as error:
            reason = str(error)
            if error.number not in _AGAIN:
                raise StreamError(reason, error.code, error.number) from None
        except (NatsError, TimeoutError) as error:
            if not client.is_connected:
                raise
            reason = str(error) or type(error).__name__  # nobody took the next piece: the server gave up meanwhile
        if found := await _becomes_whole(client, copy):
            return found
        await _remove(client, copy.name)
        say(f"restoring {copy.name} was interrupted ({reason or 'it is not whole'}): what that left is removed, and it begins again")
    raise StreamError(f"{copy.name} was given up {TRIES_MAX} times: {reason or 'it is not whole'}")


async def _becomes_whole(client: Client, copy: StreamCopy) -> dict[str, Any] | None:
    deadline = asyncio.get_running_loop().time() + ABANDONED_SECONDS
    while not (found := await _whole(client, copy)):
        if asyncio.get_running_loop().time() >= deadline:
            return None
        await asyncio.sleep(LOOK_SECONDS)
    return found


async def _whole(client: Client, copy: StreamCopy) -> dict[str, Any] | None:
    """Return what the bus says of the stream, or None when it holds less than the copy."""
    try:
        found = await call_api(client, f"STREAM.INFO.{copy.name}", {})
    except StreamError as error:
        if error.code != _NOT_FOUND:
            raise
        return None
    return found if int(found["state"]["last_seq"]) >= copy.last_seq else None


async def _remove(client: Client, stream: str) -> None:
    try:
        await call_api(client, f"STREAM.DELETE.{stream}", {})
    except StreamError as error:
        if error.code != _NOT_FOUND:  # a name that is taken, and nothing under it: the name is free now
            raise

"""The live feed: server-sent events, read by a thread into a queue, resumed where they broke off.

The thread only reads and reconnects (full jitter, so that many clients do not return at once); whoever takes from
the queue does the rest and can be interrupted at any time. That is why it is a SimpleQueue: Ctrl-C between two steps of a
`queue.Queue` leaves its lock taken, and whoever closes the feed would wait for it for ever.
"""

from __future__ import annotations

import http.client
import queue
import random
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import msgspec

from fleetlog.exits import CliError, Exit
from fleetlog.http import Gateway, Stream

SILENCE_S_MAX = 45.0
"""The gateway sends a comment every 15 s: after three missed ones the connection is taken for dead."""
RECONNECT_S_MIN = 0.2
RECONNECT_S_MAX = 5.0
AWAY_S_MAX = 300.0
"""A gateway that stays away longer ends the feed with an error; whatever it followed goes on."""
QUEUED_MAX = 10_000
"""Events read ahead of whoever takes them; then the reader waits, and the gateway notices."""
ROOM_S = 0.05
"""How often a reader that waits for room looks for it."""
LINE_BYTES_MAX = 1024 * 1024
"""An event is at most 256 KiB; four times that covers its envelope."""


class Item(msgspec.Struct, frozen=True):
    """One event of the feed."""

    id: str
    event: str
    data: bytes


class Trouble(msgspec.Struct, frozen=True):
    """The feed is interrupted; it will be resumed."""

    message: str


class Readable(Protocol):
    """What is read: a response, or anything that gives bytes."""

    def read1(self, n: int = -1, /) -> bytes:
        """Return some bytes, none at the end."""
        ...


class Broken(Exception):
    """The bytes are not a stream of server-sent events."""


def parse(response: Readable) -> Iterator[Item]:
    """Yield the events of a stream until it ends.

    Raises:
        Broken: a line is longer than LINE_BYTES_MAX.
    """
    last_id, event, data = "", "message", list[bytes]()
    for line in _lines(response):
        if not line:
            if data:
                yield Item(last_id, event, b"\n".join(data))
            event, data = "message", []
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"id":
            last_id = value.decode("utf-8", "replace")
        elif field == b"event":
            event = value.decode("utf-8", "replace")


def _lines(response: Readable) -> Iterator[bytes]:
    pieces: list[bytes] = []
    held = 0
    while chunk := response.read1(65536):
        first, *rest = chunk.split(b"\n")
        pieces.append(first)
        held += len(first)
        if held > LINE_BYTES_MAX:
            raise Broken(f"a line of the live feed is longer than {LINE_BYTES_MAX} bytes")
        for start in rest:
            yield b"".join(pieces).removesuffix(b"\r")
            pieces, held = [start], len(start)


class Feed:
    """A live feed of one path, from one sequence on, until it is closed."""

    def __init__(self, gateway: Gateway, path: str, last_event_id: str = "") -> None:
        self._gateway = gateway.again()
        self._path = path
        self._last_id = last_event_id
        self._queue: queue.SimpleQueue[Item | Trouble | CliError] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._stream: Stream | None = None
        threading.Thread(target=self._run, name="live-feed", daemon=True).start()

    def take(self, timeout_s: float) -> Item | Trouble | None:
        """Return what came next, or None when nothing came in time.

        Raises:
            CliError: the feed has ended for good.
        """
        try:
            found = self._queue.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None
        if isinstance(found, CliError):
            raise found
        return found

    def take_ready(self) -> Item | Trouble | None:
        """Return what has already come, without waiting."""
        return self.take(0.0)

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        if (stream := self._stream) is not None:
            stream.abort()

    def _run(self) -> None:
        away_since: float | None = None
        tries = 0
        while not self._closed.is_set():
            try:
                if self._read():
                    away_since, tries = None, 0
            except CliError as error:
                if error.code is not Exit.UNREACHABLE:
                    self._put(error)
                    return
                message = error.message
            except (OSError, http.client.HTTPException, Broken, ValueError) as error:
                message = str(error) or type(error).__name__
            else:
                message = "the gateway ended the feed"
            now = time.monotonic()
            away_since = now if away_since is None else away_since
            if now - away_since > AWAY_S_MAX:
                self._put(CliError(Exit.UNREACHABLE, message))
                return
            self._put(Trouble(message))
            ceiling = min(RECONNECT_S_MAX, RECONNECT_S_MIN * 2**tries)
            tries = min(tries + 1, 10)
            self._closed.wait(random.uniform(RECONNECT_S_MIN / 2, ceiling))  # noqa: S311  # jitter, not a secret

    def _read(self) -> bool:
        """Read one connection to its end and tell whether anything came."""
        came = False
        stream = self._stream = self._gateway.open_stream(self._path, self._last_id, SILENCE_S_MAX)
        try:
            if self._closed.is_set():
                return came  # it was closed while this connection was made
            for item in parse(stream):
                came = True
                self._put(item)
                self._last_id = item.id or self._last_id
                if self._closed.is_set():
                    return came
        finally:
            self._stream = None
            stream.close()
        return came

    def _put(self, item: Item | Trouble | CliError) -> None:
        while self._queue.qsize() >= QUEUED_MAX and not self._closed.is_set():
            self._closed.wait(ROOM_S)
        self._queue.put(item)

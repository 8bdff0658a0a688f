"""A TCP path of our own between one part and the bus, that can be cut, slowed and broken; it needs no rights.

Each `Link` listens on a port of loopback and hands every connection on. While it is cut nothing passes and nobody is
told, as with a pulled cable: what was sent waits, also the end of a connection, and new connections hang.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import urlsplit

CHUNK_BYTES = 16 * 1024
CONNECT_S_MAX = 5.0
SLOW_MS = 200
SLOW_BYTES_PER_S = 10_000


class Link:
    """One path; `url` is where the part reaches the bus by it."""

    faults = ("partition", "slow", "half-close", "reset")

    def __init__(self, target: Callable[[], str]) -> None:
        """Prepare a path to the URL that *target* gives when a connection is made: a server may come back elsewhere."""
        self._target = target
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.delay_ms = 0
        """By which every chunk comes later."""
        self.bytes_per_s = 0
        """0 is no limit."""
        self.url = ""

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            parts = urlsplit(self._target())
            async with asyncio.timeout(CONNECT_S_MAX):
                other_reader, other_writer = await asyncio.open_connection(parts.hostname, parts.port)
        except (OSError, TimeoutError):
            writer.transport.abort()
            return
        pair = (writer, other_writer)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pump(reader, other_writer), self._pump(other_reader, writer))
        except OSError:
            pass  # one side is gone, and both are ended below
        finally:
            self._pairs.discard(pair)
            for one in pair:
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await reader.read(CHUNK_BYTES)
            await self._open.wait()
            if not data:
                break
            if self.delay_ms:
                await asyncio.sleep(self.delay_ms / 1000)
            if self.bytes_per_s:
                await asyncio.sleep(len(data) / self.bytes_per_s)
            writer.write(data)
            await writer.drain()
        # What was sent so far still goes the other way, as it does between two machines.
        if writer.can_write_eof():
            writer.write_eof()

    def suffer(self, fault: str) -> bool:
        """Have one of the *faults*; what lasts, lasts until `join`."""
        match fault:
            case "partition":
                self._open.clear()
            case "slow":
                self.delay_ms, self.bytes_per_s = SLOW_MS, SLOW_BYTES_PER_S
            case "half-close":
                for _, to_bus in list(self._pairs):
                    with contextlib.suppress(OSError, RuntimeError):
                        to_bus.write_eof()  # the part has nothing more to say; the other way stays open
            case "reset":
                for pair in list(self._pairs):
                    for one in pair:
                        one.transport.abort()
        return fault in self.faults

    def join(self) -> None:
        """Let everything pass again, at full speed."""
        self._open.set()
        self.delay_ms = self.bytes_per_s = 0

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

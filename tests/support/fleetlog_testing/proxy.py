"""A bad line between a host and the bus: a TCP proxy that delays, narrows, stalls and cuts what passes through it.

What IP loses, TCP sends again, so a lost segment shows as a stall of everything behind it: that is how loss is played
here. It runs in a thread of its own, so that a test that asks a service does not hold the line up. Seeded.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

SEGMENT_BYTES = 1_448
"""What one packet carries on an Ethernet: the unit of loss."""
UNDER_WAY_BYTES_MAX = 64 * 1024
"""Bytes under way in one direction, as in a socket's buffer: then whoever sends has to wait."""
RETRANSMISSION_S = 0.2
"""Shortest time until Linux sends a lost segment again, beside the round trip."""


class Line(NamedTuple):
    """How bad it is, in each direction."""

    delay_s: float = 0.0
    loss: float = 0.0
    """Share of segments that are lost at their first try."""
    bytes_per_s: float = 0.0
    """0: as fast as the machine."""


class Proxy:
    """The running proxy; `port` is where it listens."""

    def __init__(self, host: str, port: int, line: Line, seed: int) -> None:
        """Use `bad_line`."""
        self.port = 0
        self.connections = 0
        """Made so far."""
        self._target = (host, port)
        self._line = line
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._cut = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy")

    def cut(self) -> None:
        """End every connection, and refuse new ones."""
        self._loop.call_soon_threadsafe(self._set_cut, True)

    def mend(self) -> None:
        """Let connections through again."""
        self._loop.call_soon_threadsafe(self._set_cut, False)

    def _set_cut(self, cut: bool) -> None:
        self._cut = cut
        if cut:
            for writer in self._open:
                writer.transport.abort()

    # --- in the thread ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """End everything."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._set_cut(True)
        for pipe in self._pipes:
            pipe.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._pipes, return_exceptions=True))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        for one, other in ((reader, far_writer), (far_reader, writer)):
            self._open.add(other)
            pipe = self._loop.create_task(self._pipe(one, other))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY_BYTES_MAX // SEGMENT_BYTES)
        sending = self._loop.create_task(self._send(under_way, writer))
        free_s = arrives_s = 0.0
        try:
            with suppress(OSError):
                while data := await reader.read(SEGMENT_BYTES):
                    now_s = self._loop.time()
                    free_s = max(free_s, now_s)
                    if self._line.bytes_per_s:
                        free_s += len(data) / self._line.bytes_per_s
                    stall_s = 0.0
                    if self._random.random() < self._line.loss:
                        stall_s = RETRANSMISSION_S + 2 * self._line.delay_s
                    # Nothing overtakes on TCP: what comes behind a lost segment waits for it.
                    arrives_s = max(arrives_s, free_s + self._line.delay_s + stall_s)
                    await under_way.put((arrives_s, data))
            await under_way.put((arrives_s, b""))
            await sending
        finally:
            sending.cancel()
            self._open.discard(writer)
            writer.transport.abort()

    async def _send(self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                arrives_s, data = await under_way.get()
                await asyncio.sleep(max(arrives_s - self._loop.time(), 0))
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        while (await under_way.get())[1]:
            continue  # the other end is gone: take what is left, so that nobody waits for room


@contextmanager
def bad_line(port: int, line: Line = Line(), seed: int = 1, host: str = "127.0.0.1") -> Iterator[Proxy]:  # noqa: B008 - frozen
    """Give a proxy to *port*."""
    proxy = Proxy(host, port, line, seed)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()

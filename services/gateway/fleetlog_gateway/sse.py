"""Live streams: server-sent events from a log sequence on, first from the log, then from the tail.

A stream is a position. While it is older than the ring it reads bounded pages of the log; from then on it takes from
the ring. A client that cannot keep up is dropped, not buffered for: it falls out of the ring, or takes nothing for
too long. It loses nothing, because it resumes by Last-Event-ID.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import msgspec
import structlog
from aiohttp import ClientConnectionResetError, web, web_request

from fleetlog_gateway import limits
from fleetlog_gateway.problems import HEADERS, HttpProblem
from fleetlog_gateway.tail import Entry, Tail
from fleetlog_runtime.pure.bus import Bus
from fleetlog_schemas import subjects

LOOK_AGAIN_SECONDS = 0.05
CHUNK_BYTES = 256 * 1024
"""Written at once at most, so that one write is one step of the client and not the whole backlog."""


class StreamLimits(msgspec.Struct, frozen=True):
    """What tests make smaller."""

    heartbeat_seconds: float = limits.HEARTBEAT_SECONDS
    write_seconds_max: float = limits.STREAM_WRITE_SECONDS_MAX
    ahead_seconds_max: float = limits.STREAM_AHEAD_SECONDS_MAX
    streams_max: int = limits.STREAMS_MAX
    send_buffer_bytes: int = 0
    """Of the socket; 0: as the system has it."""


class Dropped(Exception):
    """The client is too slow."""


def wants_stream(request: web_request.BaseRequest) -> bool:
    """Tell whether the client asks for a live stream."""
    return request.method == "GET" and "text/event-stream" in request.headers.get("Accept", "")


def last_event_id(request: web_request.BaseRequest) -> int | None:
    """Return the sequence to resume after, None when there is none. Raises HttpProblem."""
    text = request.headers.get("Last-Event-ID", "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise HttpProblem("bad-header", "Last-Event-ID must be the `id` of an event: a log sequence")
    return int(text)


class Streams:
    """Every live stream of this gateway."""

    def __init__(self, bus: Bus, tail: Tail, stream_limits: StreamLimits) -> None:
        """Feed streams from *tail* and, for what is older, from the log."""
        self._bus = bus
        self._tail = tail
        self._limits = stream_limits
        self._log = structlog.get_logger("gateway")
        self._readers = asyncio.Semaphore(limits.LOG_READERS_MAX)
        self._stopping = False
        self.open = 0
        self.dropped = 0

    def stop(self) -> None:
        """End every stream: clients resume with the next gateway."""
        self._stopping = True
        self._tail.wake()

    async def serve(
        self, request: web_request.BaseRequest, from_seq: int, wanted: Callable[[Entry], bool], *, reset: bool
    ) -> web.StreamResponse:
        """Stream the *wanted* events from *from_seq* on until the client goes or the gateway stops.

        With *reset*, a client that resumes is told when the log does not reach back to where it was.

        Raises:
            HttpProblem: there are too many streams already.
        """
        if self._stopping:
            raise HttpProblem("stopping", "the gateway is stopping: connect again", headers={"Retry-After": "1"})
        if self.open >= self._limits.streams_max:
            raise HttpProblem(
                "too-many-streams", f"{self._limits.streams_max} live streams are open", headers={"Retry-After": "5"}
            )
        self.open += 1
        try:
            response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
            await self._run(request, response, from_seq, wanted, reset=reset)
        finally:
            self.open -= 1
        return response

    async def _run(
        self, request: web_request.BaseRequest, response: web.StreamResponse, from_seq: int,
        wanted: Callable[[Entry], bool], *, reset: bool,
    ) -> None:
        self._bound_buffers(request)
        state = await self._bus.state(subjects.EVENTS)
        await response.prepare(request)
        try:
            await self._write(response, b"retry: %d\n\n" % limits.RETRY_MS)
            position = from_seq
            end_seq = max(state.last_seq + 1, self._tail.next_seq)
            if position > end_seq:
                # It may have followed at a gateway that is ahead of this one, whose node has been cut off.
                await self._tail.grown_past(position - 1, self._limits.ahead_seconds_max)
                end_seq = max(end_seq, self._tail.next_seq)
            if position < state.first_seq or position > end_seq:
                # Older than the log keeps, or from another log: the client must look at the present state anew.
                position = state.first_seq if position < state.first_seq else end_seq
                if reset:
                    await self._write(response, b'event: reset\ndata: {"next_seq":%d}\n\n' % position)
            await self._follow(response, position, wanted)
        except Dropped:
            self.dropped += 1
            self._log.info("slow stream dropped", remote=request.remote, path=request.path)
            if request.transport is not None:
                request.transport.abort()
        except (ClientConnectionResetError, ConnectionResetError):
            pass  # the client went away, as clients do

    def _bound_buffers(self, request: web_request.BaseRequest) -> None:
        transport = request.transport
        if transport is None:
            return
        transport.set_write_buffer_limits(high=limits.STREAM_WRITE_BUFFER_BYTES)
        if self._limits.send_buffer_bytes:
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, self._limits.send_buffer_bytes
            )

    async def _follow(self, response: web.StreamResponse, position: int, wanted: Callable[[Entry], bool]) -> None:
        tail, live = self._tail, False
        silent_since = asyncio.get_running_loop().time()
        while not self._stopping:
            if position >= tail.first_seq:
                live, entries = True, tail.since(position, limits.LOG_PAGE_MAX)
            elif live:
                raise Dropped
            else:
                entries = await self._from_log(position)
            if entries:
                position = entries[-1].seq + 1
            elif position < tail.first_seq:
                await asyncio.sleep(LOOK_AGAIN_SECONDS)  # a server that is behind the others; the log has no holes
            if await self._send(response, [entry for entry in entries if wanted(entry)]):
                silent_since = asyncio.get_running_loop().time()
            else:
                await asyncio.sleep(0)  # much of the log may be about other tasks; the loop has other work
            left_seconds = silent_since + self._limits.heartbeat_seconds - asyncio.get_running_loop().time()
            if left_seconds <= 0:
                await self._write(response, b": hb\n\n")
                silent_since = asyncio.get_running_loop().time()
            elif not entries:
                await tail.grown_past(position, left_seconds, lambda: self._stopping)

    async def _from_log(self, position: int) -> list[Entry]:
        async with self._readers:
            found = await self._bus.get_range(subjects.EVENTS, position, limits.LOG_PAGE_MAX)
        return [Entry(stored) for stored in found]

    async def _send(self, response: web.StreamResponse, entries: list[Entry]) -> bool:
        pieces: list[bytes] = []
        size = 0
        for entry in entries:
            pieces.append(entry.server_sent)
            size += len(pieces[-1])
            if size >= CHUNK_BYTES:
                await self._write(response, b"".join(pieces))
                pieces, size = [], 0
        if pieces:
            await self._write(response, b"".join(pieces))
        return bool(entries)

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._limits.write_seconds_max):
                await response.write(data)
        except TimeoutError:
            raise Dropped from None

"""nats-py's client with some private methods overridden; pyproject pins the library's minor version.

Headers are parsed only when somebody looks: parsing them is more than half of the library's cost of receiving a
message, and a reader of the log only needs to know whether two of them are there.

What is only put somewhere when it comes is given on where it is read (`nats_wire.py`): the library's way, by a queue and
a task for each subscription, costs turns of the loop, in which everything else that is due goes first. What is sent in
one turn of the loop goes out at its end, without the library's queue and task for each.

A flush comes after what it flushes: the library writes its PING at once and the commands before it a moment later,
so that a subscription that was flushed may not be known to the server yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from fleetlog_runtime.shell.nats_wire import Hear, Wire

_PING = b"PING\r\n"
_VERSION = b"NATS/1.0"


class RawHeaders(Mapping[str, str]):
    """The headers of one message, parsed at the first look."""

    __slots__ = ("_parsed", "raw")

    def __init__(self, raw: bytes) -> None:
        """Keep the block as it came."""
        self.raw = raw
        self._parsed: dict[str, str] | None = None

    def _all(self) -> dict[str, str]:
        if self._parsed is None:
            first, *lines = self.raw.split(b"\r\n")
            status = first[len(_VERSION) :].decode("ascii", "replace").split(maxsplit=1)
            # Where the server itself says something, it says it in the first line: `NATS/1.0 408 Request Timeout`.
            self._parsed = dict(zip(("Status", "Description"), status, strict=False)) | {
                name.strip().decode("ascii", "replace"): value.strip().decode("utf-8", "replace")
                for name, colon, value in (line.partition(b":") for line in lines)
                if colon
            }
        return self._parsed

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


class LazyClient(Client):
    """A client whose messages carry RawHeaders, that hears where it reads, writes once a turn and flushes in order."""

    def __init__(self) -> None:
        super().__init__()
        self._hearers: dict[int, Hear] = {}
        """Who hears messages where they are read, by subscription."""
        self._writing = False
        """Whether what is to be sent goes out in this turn of the loop."""
        self._failures: set[asyncio.Future[None]] = set()

    # --- reading --------------------------------------------------------------------------------------------

    async def hear(self, subject: str, heard: Callable[[Msg], None]) -> Subscription:
        """Give every message of *subject* to *heard*, which must be short, as it is read.

        What comes before this returns may be lost: nobody else may know the subject yet.
        """
        subscription = await self.subscribe(subject)

        def hear(subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
            known = RawHeaders(headers) if headers else None
            try:
                heard(Msg(self, subject.decode(), reply.decode(), data, known))  # type: ignore[arg-type]  # a mapping does
            except Exception as error:  # noqa: BLE001 - as the library does with its callbacks: reading goes on
                self._failed(error)

        self._hearers[subscription._id] = hear  # noqa: SLF001 - the library names its subscriptions nowhere else
        return subscription

    def _failed(self, error: Exception) -> None:
        task = asyncio.ensure_future(self._error_cb(error))
        self._failures.add(task)
        task.add_done_callback(self._failures.discard)

    async def _read_loop(self) -> None:
        reader = getattr(self._transport, "_io_reader", None)
        if reader is not None:
            Wire(reader, self._ps, self._hearers)
        await super()._read_loop()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        hear = self._hearers.get(sid)
        if hear is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            hear(subject, reply, headers or b"", data)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._hearers.pop(sid, None)

    async def _process_headers(self, headers: bytes) -> Mapping[str, str] | None:  # type: ignore[override]  # a mapping does
        return RawHeaders(headers) if headers else None

    # --- writing --------------------------------------------------------------------------------------------

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if force_flush or not self.is_connected:
            return await super()._flush_pending(force_flush)
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._write)
        return None

    def _write(self) -> None:
        """Send what was gathered in this turn of the loop; what the socket does not take at once the library's task sends."""
        self._writing = False
        writer = getattr(self._transport, "_io_writer", None)
        if not self.is_connected or not self._pending_data_size:
            return
        if writer is None or writer.transport.is_closing() or writer.transport.get_write_buffer_size():
            if self._flush_queue is not None and self._flush_queue.empty():
                self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
            return
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        writer.writelines(pending)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        self._pongs.append(future if future is not None else asyncio.get_running_loop().create_future())
        await self._send_command(_PING)
        await self._flush_pending()

    # --- connecting -----------------------------------------------------------------------------------------

    def drop(self) -> None:
        """Close the socket. The library leaves it open when connecting is given up: it takes itself for closed then."""
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]  # the library's

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # The server's first line comes in the clear, and the library believes it when it asks for no TLS: whoever
        # stands in between could take TLS away and read everything.
        wants_tls = "tls" in self.options or (self._current_server and self._current_server.uri.scheme == "tls")
        if initial_connection and wants_tls and not info.get("tls_required"):
            raise NatsError("nats: the server speaks no TLS, but this address must: it is another server, or somebody"
                            " is in between")
        await super()._process_info(info, initial_connection)


def ends_batch(headers: Mapping[str, str] | None) -> bool:
    """Tell whether the atomic batch that carried a stored message ends with it."""
    if headers is None:
        return True
    if type(headers) is RawHeaders:
        raw = headers.raw
        return b"\nNats-Batch-Id:" not in raw or b"\nNats-Batch-Commit:" in raw
    return "Nats-Batch-Id" not in headers or "Nats-Batch-Commit" in headers

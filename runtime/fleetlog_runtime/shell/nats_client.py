"""nats-py's client with some private methods overridden; pyproject pins the library's minor version.

Headers are parsed only when somebody looks: parsing them is more than half of the library's cost of receiving a
message, and a reader of the log only needs to know whether two of them are there.

What is only put somewhere when it comes is given on where it is read: the library's way, by a queue and a task for
each subscription, costs a turn of the loop, in which everything else that is due goes first.

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

_PING = b"PING\r\n"
_PLAIN = b"NATS/1.0\r\n"


class RawHeaders(Mapping[str, str]):
    """The headers of one message, parsed at the first look."""

    __slots__ = ("_parsed", "raw")

    def __init__(self, raw: bytes) -> None:
        """Keep the block as it came."""
        self.raw = raw
        self._parsed: dict[str, str] | None = None

    def _all(self) -> dict[str, str]:
        if self._parsed is None:
            lines = (line.partition(b":") for line in self.raw[len(_PLAIN) :].split(b"\r\n"))
            self._parsed = {
                name.strip().decode("ascii", "replace"): value.strip().decode("utf-8", "replace")
                for name, colon, value in lines
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
    """A client whose messages carry RawHeaders, except where the server states a status, and that flushes in order."""

    def __init__(self) -> None:
        super().__init__()
        self._hearers: dict[int, Callable[[Msg], None]] = {}
        """Who hears messages where they are read, by subscription."""

    async def hear(self, subject: str, heard: Callable[[Msg], None]) -> Subscription:
        """Give every message of *subject* to *heard*, which must be short, as it is read.

        What comes before this returns may be lost: nobody else may know the subject yet.
        """
        subscription = await self.subscribe(subject)
        self._hearers[subscription._id] = heard  # noqa: SLF001 - the library names its subscriptions nowhere else
        return subscription

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        heard = self._hearers.get(sid)
        if heard is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        message = self._build_message(sid, subject, reply, data, await self._process_headers(headers))  # type: ignore[arg-type]
        try:
            heard(message)
        except Exception as error:  # noqa: BLE001 - as the library does with its callbacks: reading goes on
            await self._error_cb(error)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._hearers.pop(sid, None)

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

    async def _process_headers(self, headers: bytes) -> Mapping[str, str] | None:  # type: ignore[override]  # a mapping does
        if headers and headers.startswith(_PLAIN):
            return RawHeaders(headers)
        return await super()._process_headers(headers)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        self._pongs.append(future if future is not None else asyncio.get_running_loop().create_future())
        await self._send_command(_PING)
        await self._flush_pending()


def ends_batch(headers: Mapping[str, str] | None) -> bool:
    """Tell whether the atomic batch that carried a stored message ends with it."""
    if headers is None:
        return True
    if type(headers) is RawHeaders:
        raw = headers.raw
        return b"\nNats-Batch-Id:" not in raw or b"\nNats-Batch-Commit:" in raw
    return "Nats-Batch-Id" not in headers or "Nats-Batch-Commit" in headers

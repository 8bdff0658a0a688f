"""nats-py's client with two private methods overridden; pyproject pins the library's minor version.

Headers are parsed only when somebody looks: parsing them is more than half of the library's cost of receiving a
message, and a reader of the log only needs to know whether two of them are there.

A flush comes after what it flushes: the library writes its PING at once and the commands before it a moment later,
so that a subscription that was flushed may not be known to the server yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from nats.aio.client import Client
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

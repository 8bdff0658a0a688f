"""Overlapped pulls from one JetStream consumer into one plain subscription.

The next request is sent while the answers to the last still come, so the wire never idles (a fetch loop waits one
round trip each time); at most about two requests' worth is in memory, and nothing is asked for while the reader is
busy. Whatever may have been lost shows as a gap in the consumer's own numbers or as silence, and ends the pull.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from fleetlog_runtime.shell.nats_client import LazyClient

IDLE_SECONDS = 1
"""The server says at least this often that it is still there."""
SILENCE_SECONDS = 3 * IDLE_SECONDS
"""Longer than this without a word, and the pull counts as lost: its node may be gone, while ours is not."""
EXPIRES_SECONDS = 30
"""How long the server keeps a request, unless its maker says otherwise."""
_REQUEST_OVER = ("Batch Completed", "Message Size Exceeds MaxBytes")
_SECOND_NS = 1_000_000_000


class PullLost(Exception):
    """Messages may have been missed, or no more will come: begin again after the last one that was used."""


class Position:
    """Where a message stands, as its reply subject says (NATS ADR-15)."""

    __slots__ = ("consumer_seq", "seq", "time_ns")

    def __init__(self, reply: str) -> None:
        """Read `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<tries>.<seq>.<consumer seq>.<time>.<pending>`."""
        tokens = reply.split(".")
        offset = 0 if len(tokens) == 9 else 2
        self.seq = int(tokens[5 + offset])
        self.consumer_seq = int(tokens[6 + offset])
        self.time_ns = int(tokens[7 + offset])


class Pull:
    """One subscription on one consumer."""

    def __init__(
        self, client: LazyClient, stream: str, consumer: str, batch: int, bytes_max: int,
        expires_seconds: int = EXPIRES_SECONDS, *, ahead: bool = True,
    ) -> None:
        """Ask for *batch* messages or *bytes_max* bytes at a time; `open` comes first.

        Not *ahead*: ask only in `next`, for what is there by then, or else for the first that comes.
        """
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._batch = batch
        self._ahead = ahead
        self._request = json.dumps({
            "batch": batch, "max_bytes": bytes_max, "expires": expires_seconds * _SECOND_NS,
            "idle_heartbeat": IDLE_SECONDS * _SECOND_NS,
            # With a time to wait as well, the server ends the request with the last message that it has now.
            "no_wait": not ahead,
        }).encode()
        self._inbox = client.new_inbox()
        self._subscription: Subscription | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._buffer: list[Msg] = []
        self._outstanding = 0
        self._news = asyncio.Event()
        self._heard_at = 0.0
        self._lost = ""

    async def open(self) -> None:
        """Subscribe and ask for the first messages."""
        self._subscription = await self._client.hear(self._inbox, self._on_message)
        self._heard()
        self._look()
        await self._ask_in_time()

    async def close(self) -> None:
        """Stop hearing; what was not taken out is dropped."""
        if self._watch is not None:
            self._watch.cancel()
        if self._subscription is not None:
            with contextlib.suppress(NatsError):
                await self._subscription.unsubscribe()
            self._subscription = None

    def lose(self, reason: str) -> None:
        """End the pull: the connection was interrupted."""
        self._lost = self._lost or reason
        self._news.set()

    async def next(self) -> list[Msg]:
        """Return what has come, at least one message, in order. Raises PullLost."""
        while not self._buffer or self._is_coming:
            if self._lost:
                raise PullLost(self._lost)
            self._news.clear()
            if self._outstanding == 0 or self._ahead:
                await self._ask_in_time()
            await self._news.wait()
        messages, self._buffer = self._buffer, []
        if self._ahead:
            await self._ask_in_time()
        return messages

    @property
    def _is_coming(self) -> bool:
        """Whether more of what was asked for is on its way at this moment."""
        return not self._ahead and self._outstanding > 0 and not self._lost

    def rest(self) -> list[Msg]:
        """Return what has come and was not taken out."""
        messages, self._buffer = self._buffer, []
        return messages

    async def _ask_in_time(self) -> None:
        if self._outstanding < self._batch // 2 and not self._lost:
            await self._ask()

    async def _ask(self) -> None:
        self._outstanding += self._batch
        try:
            await self._client.publish(self._subject, self._request, reply=self._inbox)
        except NatsError as error:
            raise PullLost(f"cannot ask for messages: {error}") from error

    def _on_message(self, message: Msg) -> None:
        self._heard()
        if message.reply.startswith("$JS.ACK."):
            self._outstanding -= 1
            self._buffer.append(message)
            if self._ahead or self._outstanding == 0:
                self._news.set()
        else:
            self._on_status(message)

    def _on_status(self, message: Msg) -> None:
        headers = message.headers or {}
        status, description = headers.get("Status", ""), headers.get("Description", "")
        if status == "100":
            return
        if status == "404":
            self._outstanding = 0  # all that there was has come; there is one such request at a time
            self._news.set()
            return
        if status == "408" or (status == "409" and description in _REQUEST_OVER):
            # What this request did not deliver will not come.
            self._outstanding = max(0, self._outstanding - int(headers.get("Nats-Pending-Messages", "0")))
            self._news.set()
            return
        self.lose(f"the server ended the pull: {status} {description}")

    def _heard(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._heard_at > SILENCE_SECONDS and self._outstanding > 0:
            self.lose(f"nothing heard for {SILENCE_SECONDS} s")
        else:
            self._watch = loop.call_later(IDLE_SECONDS, self._look)

"""Answers to what one connection sent, told apart by their subject: one subscription for all of them.

nats-py has the same for single requests; atomic batches need two answers in flight without waiting in between, and
ranged reads need many answers to one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nats.aio.msg import Msg

from fleetlog_runtime.shell.nats_client import LazyClient


class Replies:
    """The inbox of one connection."""

    def __init__(self, client: LazyClient) -> None:
        """Belong to a connected client; `open` comes first."""
        self._client = client
        self._prefix = ""
        self._waiting: dict[str, Callable[[Msg], None]] = {}
        self._count = 0

    async def open(self) -> None:
        """Start to hear answers."""
        self._prefix = self._client.new_inbox()
        await self._client.hear(f"{self._prefix}.*", self._heard)

    def expect(self) -> tuple[str, asyncio.Future[Msg]]:
        """Return a reply subject and what will be the one answer to it; cancel it to stop waiting."""
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        def settle(message: Msg) -> None:
            if not future.done():
                future.set_result(message)

        subject = self.expect_many(settle)
        future.add_done_callback(lambda _: self.forget(subject))
        return subject, future

    def expect_many(self, heard: Callable[[Msg], None]) -> str:
        """Return a reply subject whose every answer is given to *heard*, until `forget`."""
        self._count += 1
        subject = f"{self._prefix}.{self._count}"
        self._waiting[subject] = heard
        return subject

    def forget(self, subject: str) -> None:
        """Stop hearing answers to a reply subject."""
        self._waiting.pop(subject, None)

    def _heard(self, message: Msg) -> None:
        heard = self._waiting.get(message.subject)
        if heard is not None:
            heard(message)

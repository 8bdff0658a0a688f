"""What recent Idempotency-Keys were used for, and what was answered. Bounded; forgets the oldest.

A key whose request is still being answered waits for that answer. A request that failed is forgotten, so that
it can be tried again; should its event be stored after all, the first submission of the id stands in the log.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from fleetlog_gateway import limits
from fleetlog_gateway.problems import HttpProblem

T = TypeVar("T")


def fingerprint(*parts: bytes) -> bytes:
    """Return a short stand-in for what was asked."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


class Recent(Generic[T]):
    """Keys to what they asked and the answer."""

    def __init__(self, keys_max: int = limits.RECENT_KEYS_MAX) -> None:
        """Remember up to *keys_max* keys."""
        self._keys_max = keys_max
        self._known: dict[str, tuple[bytes, asyncio.Future[T]]] = {}

    async def once(self, key: str, asked: bytes, answer: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to *asked* under *key*, made by *answer* the first time.

        Raises:
            HttpProblem: the key was used for something else, or *answer* raised it.
        """
        known = self._known.get(key)
        if known is not None:
            if known[0] != asked:
                raise HttpProblem(
                    "idempotency-key-reused", "this Idempotency-Key was used for another request: make a new one"
                )
            return await asyncio.shield(known[1])
        future: asyncio.Future[T] = asyncio.ensure_future(answer())
        self._known[key] = (asked, future)
        future.add_done_callback(lambda done: self._settle(key, done))
        return await asyncio.shield(future)

    def _settle(self, key: str, done: asyncio.Future[T]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._known.pop(key, None)
        for oldest in list(self._known)[: max(0, len(self._known) - self._keys_max)]:
            if self._known[oldest][1].done():
                del self._known[oldest]

"""The same client for programs on an event loop: `await client.submit(...)`, `await handle.value()`.

Each wait is a request of its own on a thread of its own: a program that waits for thousands of tasks at once should
gather them a few dozen at a time, or follow the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from fleetlog.client import Client
from fleetlog.functions import Handle
from fleetlog.http import Gateway
from fleetlog.place import Place
from fleetlog_schemas.view import HowFarView, TaskView

R = TypeVar("R")
WAITS_MAX = 32
"""Waits at once: each has a connection."""


class AsyncClient:
    """A client of one gateway, for one event loop."""

    def __init__(self, url: str, token: str, ca: str | None = None) -> None:
        self._at = (url, token, Path(ca) if ca else None)
        self._client = Client(url, token, ca)
        self._one_by_one = ThreadPoolExecutor(1, "fleetlog")
        self._waits = ThreadPoolExecutor(WAITS_MAX, "fleetlog-wait")

    @classmethod
    def here(cls) -> AsyncClient:
        """Return a client of the gateway that FLEETLOG_URL or the data folder names."""
        place = Place(None, None)
        return cls(place.url, place.token, str(place.ca) if place.ca else None)

    async def submit(self, name: str, *args: Any, **kwargs: Any) -> AsyncHandle:
        """Submit a function as `Client.submit` does."""
        handle = await self._run(lambda: self._client.submit(name, *args, **kwargs))
        return AsyncHandle(self, handle.task_id)

    async def submit_many(self, name: str, calls: Iterable[Sequence[Any]], **options: Any) -> list[AsyncHandle]:
        """Submit one task for each tuple of arguments as `Client.submit_many` does."""
        handles = await self._run(lambda: self._client.submit_many(name, calls, **options))
        return [AsyncHandle(self, handle.task_id) for handle in handles]

    async def _run(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._one_by_one, work)

    async def wait(self, work: Callable[[Client], Any]) -> Any:
        """Return what *work* returns, which is given a connection of its own on another thread."""

        def alone() -> Any:
            return work(Client.over(Gateway(*self._at)))

        return await asyncio.get_running_loop().run_in_executor(self._waits, alone)


class AsyncHandle:
    """One submitted task."""

    def __init__(self, client: AsyncClient, task_id: str) -> None:
        self._client, self.task_id = client, task_id

    async def value(self, timeout_s: float | None = None) -> Any:
        """Return what `Handle.value` returns, and raise what it raises."""
        return await self._client.wait(lambda client: Handle(client, self.task_id).value(timeout_s))

    async def wait(self, timeout_s: float | None = None) -> TaskView:
        """Return the task when it has ended."""
        view: TaskView = await self._client.wait(lambda client: Handle(client, self.task_id).wait(timeout_s))
        return view

    async def progress(self) -> HowFarView | None:
        """Return what `Handle.progress` returns."""
        found: HowFarView | None = await self._client.wait(lambda client: Handle(client, self.task_id).progress())
        return found

    async def cancel(self, reason: str = "") -> bool:
        """Do what `Handle.cancel` does."""
        done: bool = await self._client.wait(lambda client: Handle(client, self.task_id).cancel(reason))
        return done

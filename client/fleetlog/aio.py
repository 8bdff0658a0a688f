"""The same client for programs on an event loop: `await client.submit(...)`, `await handle.value()`.

Each wait is a request of its own on a thread of its own: a program that waits for thousands of tasks at once should
gather them a few dozen at a time, or follow the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, overload

from fleetlog.client import Client
from fleetlog.completed import as_completed
from fleetlog.functions import Handle, Options
from fleetlog.http import Gateway
from fleetlog.place import Place
from fleetlog.tasks import Task
from fleetlog_schemas.view import HowFarView, TaskView

P = ParamSpec("P")
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

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of threads and connections, once what they wait for has come."""
        self._one_by_one.shutdown(wait=False)
        self._waits.shutdown(wait=False)
        self._client.gateway.close()

    @overload
    async def submit(self, what: str, *args: Any, **kwargs: Any) -> AsyncHandle[Any]: ...
    @overload
    async def submit(self, what: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> AsyncHandle[R]: ...
    async def submit(self, what: Any, *args: Any, **kwargs: Any) -> Any:
        """Submit a function, or the one of this name, as `Client.submit` does."""
        return AsyncHandle(self, await self._run(lambda: self._client.submit(what, *args, **kwargs)))

    async def submit_many(
        self, what: str | Task[..., R], calls: Iterable[Sequence[Any] | Mapping[str, Any]], /, **options: Unpack[Options]
    ) -> list[AsyncHandle[R]]:
        """Submit one task for each tuple or dict of arguments as `Client.submit_many` does."""
        handles = await self._run(lambda: self._client.submit_many(what, calls, **options))
        return [AsyncHandle(self, handle) for handle in handles]

    async def as_completed(self, handles: Iterable[AsyncHandle[R]], timeout_s: float | None = None) -> AsyncIterator[AsyncHandle[R]]:
        """Yield each handle as soon as its task has ended, as `fleetlog.as_completed` does, and raise what it raises."""
        by_id = {one.task_id: one for one in handles}
        gateway = Gateway(*self._at)
        ended = as_completed([one.by(Client.over(gateway)) for one in by_id.values()], timeout_s)
        try:
            while (found := await asyncio.get_running_loop().run_in_executor(self._waits, next, ended, None)) is not None:
                by_id[found.task_id].take(found)
                yield by_id[found.task_id]
        finally:
            gateway.close()

    async def _run(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._one_by_one, work)

    async def wait(self, work: Callable[[Client], Any]) -> Any:
        """Return what *work* returns, which is given a connection of its own on another thread."""

        def alone() -> Any:
            gateway = Gateway(*self._at)
            try:
                return work(Client.over(gateway))
            finally:
                gateway.close()

        return await asyncio.get_running_loop().run_in_executor(self._waits, alone)


class AsyncHandle(Generic[R]):
    """One submitted task."""

    def __init__(self, client: AsyncClient, handle: Handle[R]) -> None:
        self._client, self._handle, self.task_id = client, handle, handle.task_id

    def __repr__(self) -> str:
        return f"AsyncHandle({self.task_id!r})"

    def by(self, client: Client) -> Handle[R]:
        """Return a handle of the same task for another thread, which asks by *client*."""
        return self._handle.by(client)

    def take(self, handle: Handle[R]) -> None:
        """Know of the task's end what another handle of it knows."""
        self._handle.ended = handle.ended

    async def _ask(self, work: Callable[[Handle[R]], Any]) -> Any:
        return await self._client.wait(lambda client: work(self._handle.by(client)))

    async def value(self, timeout_s: float | None = None) -> R:
        """Return what `Handle.value` returns, and raise what it raises."""
        value: R = await self._ask(lambda handle: handle.value(timeout_s))
        return value

    async def values(self, timeout_s: float | None = None) -> dict[str, R]:
        """Return what `Handle.values` returns, and raise what it raises."""
        values: dict[str, R] = await self._ask(lambda handle: handle.values(timeout_s))
        return values

    async def wait(self, timeout_s: float | None = None) -> TaskView:
        """Return the task when it has ended."""
        view: TaskView = await self._ask(lambda handle: handle.wait(timeout_s))
        return view

    async def progress(self) -> HowFarView | None:
        """Return what `Handle.progress` returns."""
        found: HowFarView | None = await self._ask(lambda handle: handle.progress())
        return found

    async def cancel(self, reason: str = "") -> bool:
        """Do what `Handle.cancel` does."""
        done: bool = await self._ask(lambda handle: handle.cancel(reason))
        return done

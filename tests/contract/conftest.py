"""Both implementations of the Bus, behind one fixture: each test runs on the real server and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from fleetlog_runtime.pure.bus import Bus
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.memory_bus import MemoryBroker, MemoryBus
from fleetlog_schemas import subjects
from fleetlog_testing.homes import Enrolled, connected, connected_agent
from fleetlog_testing.nats import real_server


class Reporting:
    """An agent's connection and the subject of its reports."""

    def __init__(self, bus: Bus, subject: str) -> None:
        self.bus = bus
        self.subject = subject


Connect = Callable[[str], AbstractAsyncContextManager[Bus]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One server for all tests of a file; each test looks only at what it appended itself."""
    folder: Path = tmp_path_factory.mktemp("bus")
    with real_server(folder) as running:
        yield running


@pytest.fixture(params=["nats", "memory"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Return a function that opens a connection as a service user."""
    if request.param == "memory":
        broker: list[MemoryBroker] = []

        @asynccontextmanager
        async def in_memory(_user: str) -> AsyncIterator[Bus]:
            if not broker:
                broker.append(MemoryBroker())
            bus = MemoryBus(broker[0])
            yield bus
            await bus.close()

        return in_memory
    home: Home = request.getfixturevalue("home")

    @asynccontextmanager
    async def real(user: str) -> AsyncIterator[Bus]:
        async with connected(home, user) as bus:
            yield bus

    return real


@pytest.fixture(params=["nats", "memory"])
def connect_reports(request: pytest.FixtureRequest) -> Callable[[], AbstractAsyncContextManager[tuple[Reporting, Bus]]]:
    """Return a function that connects an agent and a recorder."""
    if request.param == "memory":

        @asynccontextmanager
        async def in_memory() -> AsyncIterator[tuple[Reporting, Bus]]:
            broker = MemoryBroker()
            yield Reporting(MemoryBus(broker), subjects.report("h1")), MemoryBus(broker)

        return in_memory
    home: Home = request.getfixturevalue("home")

    @asynccontextmanager
    async def real() -> AsyncIterator[tuple[Reporting, Bus]]:
        host = Enrolled(home)
        async with connected_agent(home, host) as agent, connected(home, "result-recorder") as recorder:
            yield Reporting(agent, subjects.report(host.host_id)), recorder

    return real

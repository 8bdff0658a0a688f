"""What the bus says when there is no room, and what comes again. On NATS and in memory alike."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from fleetlog_runtime.pure.bus import Batch, Bus, BusFull, Draft
from fleetlog_runtime.shell.home import create_home
from fleetlog_runtime.shell.memory_bus import MemoryBroker, MemoryBus
from fleetlog_runtime.shell.supervisor import NatsServer
from fleetlog_schemas import subjects
from fleetlog_testing.homes import Enrolled, connected, connected_agent

EVENTS_BYTES = 1024 * 1024
REPORTS_PER_HOST = 20
ACK_WAIT_SECONDS = 1.0
SMALL = tuple(
    msgspec.structs.replace(stream, bytes_max=EVENTS_BYTES, per_subject_max=REPORTS_PER_HOST if stream.work_queue else 0)
    for stream in subjects.STREAMS
)
Open = Callable[[], AbstractAsyncContextManager[tuple[Bus, Bus, str, Bus]]]


@pytest.fixture(params=["nats", "memory"])
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return a function that opens a small bus: dispatcher, agent, the agent's report subject, recorder."""

    @asynccontextmanager
    async def in_memory() -> AsyncIterator[tuple[Bus, Bus, str, Bus]]:
        broker = MemoryBroker(SMALL, ACK_WAIT_SECONDS)
        yield MemoryBus(broker), MemoryBus(broker), "rpt.h1", MemoryBus(broker)

    @asynccontextmanager
    async def real() -> AsyncIterator[tuple[Bus, Bus, str, Bus]]:
        monkeypatch.setattr(subjects, "STREAMS", SMALL)
        monkeypatch.setattr("fleetlog_runtime.shell.streams.ACK_WAIT_SECONDS", int(ACK_WAIT_SECONDS))
        home = create_home(tmp_path / "home")
        sizes = {stream.name: stream.bytes_max for stream in SMALL} | {subjects.BLOBS: EVENTS_BYTES}
        (home.path / "nats" / "reserved.json").write_text(json.dumps(sizes))
        server = NatsServer(home)
        await server.start()
        host = Enrolled(home)
        try:
            async with (
                connected(home, "dispatcher") as dispatcher, connected_agent(home, host) as agent,
                connected(home, "result-recorder") as recorder,
            ):
                yield dispatcher, agent, subjects.report(host.host_id), recorder
        finally:
            await server.stop()

    return real if request.param == "nats" else in_memory


def message(subject: str, body: bytes) -> Batch:
    return Batch(drafts=(Draft(subject, body),), message_id="")


def test_a_full_log_refuses_a_message_and_a_batch_and_keeps_what_it_has(small):
    async def scenario():
        async with small() as (bus, _, _, _):
            large = Draft("evt.dispatch", b"x" * 50_000)
            stored = await fill(bus, large)
            with pytest.raises(BusFull):
                await bus.append(Batch(drafts=(large, large), message_id=""))
            state = await bus.state("EVENTS")
            assert (state.first_seq, state.last_seq) == (1, stored)
            assert stored >= 18

    async def fill(bus, large):
        for stored in range(100):
            try:
                await bus.append(Batch(drafts=(large,), message_id=""))
            except BusFull:
                return stored
        raise AssertionError("it never filled")

    asyncio.run(scenario())


def test_a_flood_of_reports_fills_only_its_own_hosts_share(small):
    async def scenario():
        async with small() as (_, agent, subject, recorder):
            for _ in range(REPORTS_PER_HOST):
                await agent.append(message(subject, b"r"))
            with pytest.raises(BusFull):
                await agent.append(message(subject, b"one too many"))
            assert (await recorder.state("REPORTS")).last_seq == REPORTS_PER_HOST

    asyncio.run(scenario())


def test_what_was_taken_and_not_acknowledged_comes_again(small):
    async def scenario():
        async with small() as (_, agent, subject, recorder):
            await agent.append(message(subject, b"r"))
            taking = recorder.take(subjects.REPORTS, subjects.RECORDER_CONSUMER)
            async with asyncio.timeout(10):
                first = await anext(taking)
                again = await anext(taking)
            assert [one.body for one in first] == [one.body for one in again] == [b"r"]
            await recorder.ack(again)
            await taking.aclose()

    asyncio.run(scenario())

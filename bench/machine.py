"""What this machine can do at all: process starts, durable appends, reads of the log. Without any of our services.

The bus is the same nats-server with the same settings (`sync always`), driven by our own publisher and log reader, so
that the distance between these figures and a task's is what the services cost.
"""

from __future__ import annotations

import asyncio
import os
import platform
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.figures import Figure
from fleetlog_runtime.pure.bus import Batch, Draft
from fleetlog_runtime.shell import nats_auth
from fleetlog_runtime.shell.home import Home, create_home
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_runtime.shell.supervisor import NatsServer
from fleetlog_schemas import subjects

STARTS_SECONDS = 2.0
APPEND_SECONDS = 2.0
MESSAGE_BYTES = 300
"""About one small event."""
BATCH_MESSAGES = 200
READ_MESSAGES = 50_000
TRUE = "/bin/true"


def about() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "python": platform.python_version(), "kernel": platform.release(), "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 1024**3, 1), "load_1m_before": os.getloadavg()[0],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def process_starts(rounds: int) -> Figure:
    """Return how many processes per second one Python process starts and waits for."""
    samples = []
    for _ in range(rounds):
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < STARTS_SECONDS:
            pids = [os.posix_spawn(TRUE, [TRUE], {}) for _ in range(16)]
            for pid in pids:
                os.waitpid(pid, 0)
            count += len(pids)
        samples.append(count / (time.perf_counter() - began))
    return Figure("machine: process starts (posix_spawn, one process)", "1/s", tuple(samples))


@asynccontextmanager
async def bare_bus(folder: Path) -> AsyncIterator[tuple[Home, NatsBus]]:
    """Run a nats-server on *folder* and connect as a user who may do everything in the services' account."""
    home = create_home(folder)
    server = NatsServer(home)
    url = await server.start()
    seed = nats_auth.new_seed("user")
    jwt = nats_auth.free_user_jwt(home.seed("account-core"), "bench", nats_auth.public_key(seed), [">"])
    try:
        bus = await NatsBus.connect(url, (jwt, seed), "bench", inbox_prefix="_INBOX_bench")
        try:
            yield home, bus
        finally:
            await bus.close()
    finally:
        await server.stop()


def _batch(messages: int, number: int) -> Batch:
    body = b"x" * MESSAGE_BYTES
    drafts = tuple(Draft(subject="evt.result", body=body) for _ in range(messages))
    return Batch(drafts=drafts, message_id=f"bench-{messages}-{number}")


async def _appends(bus: NatsBus, messages: int, first: int) -> tuple[float, list[float]]:
    began, seconds, number = time.perf_counter(), [], first
    while time.perf_counter() - began < APPEND_SECONDS:
        before = time.perf_counter()
        await bus.append(_batch(messages, number))
        seconds.append(time.perf_counter() - before)
        number += 1
    return messages * len(seconds) / (time.perf_counter() - began), seconds


async def _read_rate(bus: NatsBus) -> float:
    last = (await bus.state(subjects.EVENTS)).last_seq
    began, count = time.perf_counter(), 0
    reading = bus.read(subjects.EVENTS, max(1, last - READ_MESSAGES + 1))
    async for chunk in reading:
        count += len(chunk)
        if chunk and chunk[-1].seq >= last:
            break
    seconds = time.perf_counter() - began
    await reading.aclose()  # type: ignore[attr-defined]  # it is an async generator
    return count / seconds


async def bus_limits(rounds: int) -> list[Figure]:
    """Return what the bus does with durable appends and reads when nothing else runs."""
    singles, waits, batched, reads = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="fleetlog-bench-") as folder:
        async with bare_bus(Path(folder) / "home") as (_, bus):
            for number in range(rounds):
                rate, seconds = await _appends(bus, 1, number * 1_000_000)
                singles.append(rate)
                waits.append(sorted(seconds)[len(seconds) // 2] * 1000)
                rate, _ = await _appends(bus, BATCH_MESSAGES, number * 1_000_000 + 500_000)
                batched.append(rate)
            reads += [await _read_rate(bus) for _ in range(rounds)]
    return [
        Figure("machine: durable append, one at a time", "1/s", tuple(singles)),
        Figure("machine: durable append, wait of one (p50)", "ms", tuple(waits)),
        Figure(f"machine: durable append, batches of {BATCH_MESSAGES}", "msg/s", tuple(batched)),
        Figure("machine: log read, overlapped pulls", "msg/s", tuple(reads)),
    ]


def limits(rounds: int) -> list[Figure]:
    """Measure all of the machine's own limits."""
    return [process_starts(rounds), *asyncio.run(bus_limits(rounds))]

"""What a long history costs: the same small work on an empty log and after many events, and restarts of each.

The history is appended in whole stories (submitted, planned, dispatched, ended, task ended) of one host each, so that
every reader has as many tasks to remember as it would have in life.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

from bench import measure
from bench.figures import Figure
from bench.machine import bare_bus
from bench.projection import SPEC, stored
from bench.system import System
from fleetlog_runtime.pure.bus import Batch
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_schemas import events
from fleetlog_schemas.ids import new_id
from fleetlog_schemas.outcomes import Outcome, Ran

STORY_EVENTS = 5
STORIES_PER_BATCH = 200
"""1,000 messages, the most that one atomic batch takes."""


def _story(now_ms: int) -> list[tuple[events.Data, str]]:
    task_id = new_id(now_ms, os.urandom(10))
    host = events.PlannedHost("hpast", "past")
    end = events.End(
        task_id=task_id, host_id="hpast", attempt=1, outcome=Outcome.SUCCESS, ran=Ran.YES, exit_code=0,
        started_ms=now_ms, ended_ms=now_ms + 9, duration_ms=9,
    )
    return [
        (events.TasksSubmitted((events.Submission(task_id, SPEC),)), events.REQUEST),
        (events.TasksPlanned((events.Plan(task_id, (host,), "bench"),)), events.DISPATCH),
        (events.AttemptsDispatched((events.Dispatch(task_id=task_id, host_id="hpast", attempt=1, epoch=1),)), events.DISPATCH),
        (events.AttemptsEnded((end,)), events.RESULT),
        (events.TasksEnded((events.TaskEnd(task_id, Outcome.SUCCESS, {Outcome.SUCCESS: 1}),)), events.DISPATCH),
    ]


async def _append(folder: Path, count: int) -> None:
    """Append so many events to the log of a new home, before any service has seen it."""
    async with bare_bus(folder) as (_, bus):
        await append_history(bus, count)


async def append_history(bus: NatsBus, count: int) -> None:
    """Append so many events, in whole stories."""
    for _ in range(max(1, count // (STORY_EVENTS * STORIES_PER_BATCH))):
        now_ms = int(time.time() * 1000)
        drafts = tuple(
            stored(data, now_ms, subject) for _ in range(STORIES_PER_BATCH) for data, subject in _story(now_ms)
        )
        await bus.append(Batch(drafts=drafts, message_id=new_id(now_ms, os.urandom(10))))


def history(count: int, tasks: int, rounds: int) -> list[Figure]:
    """Measure restart and throughput on an empty log and after *count* events."""
    with tempfile.TemporaryDirectory(prefix="fleetlog-bench-") as folder:
        empty, restart_empty, _ = _measured(Path(folder) / "empty", tasks, rounds)
        asyncio.run(_append(Path(folder) / "full", count))
        full, restart_full, first = _measured(Path(folder) / "full", tasks, rounds)
    middle = sorted(empty)[len(empty) // 2]
    return [
        Figure("start of everything, few events", "s", (restart_empty,)),
        Figure(f"start of everything, {count:,} events", "s", (restart_full,)),
        Figure(f"start of everything, {count:,} events and nothing kept", "s", (first,), note="every event folded anew"),
        Figure(f"`true` as {tasks} tasks, few events", "tasks/s", tuple(empty)),
        Figure(f"`true` as {tasks} tasks, {count:,} events", "tasks/s", tuple(full), limit=middle),
    ]


def _measured(folder: Path, tasks: int, rounds: int) -> tuple[list[float], float, float]:
    """Return throughput, seconds of a restart, and seconds of the first start."""
    system = System(folder, "--set", "dispatcher.slots_per_host=64")
    try:
        first = system.start()
        rates = _throughput(system, tasks, rounds)
        system.stop()
        return rates, system.start(), first
    finally:
        system.stop()


def _throughput(system: System, tasks: int, rounds: int) -> list[float]:
    client = system.client()
    watcher = measure.Watcher(client)
    measure.throughput_once(client, watcher, min(tasks, 100), measure.spec_of("all", f"warm-{time.time_ns()}"))
    return [measure.throughput_once(client, watcher, tasks, measure.spec_of("all", f"round-{time.time_ns()}")) for _ in range(rounds)]

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
from bench.projection import SPEC, stored
from bench.system import System
from fleetlog_runtime.pure.bus import Batch
from fleetlog_runtime.shell.home import Home, admin_credentials
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


async def _append(home: Home, count: int) -> None:
    """Append so many events while the services follow."""
    bus = await NatsBus.connect(home.nats_url(), admin_credentials(home), "bench", append_seconds=60.0)
    try:
        for _ in range(max(1, count // (STORY_EVENTS * STORIES_PER_BATCH))):
            now_ms = int(time.time() * 1000)
            drafts = tuple(
                stored(data, now_ms, subject) for _ in range(STORIES_PER_BATCH) for data, subject in _story(now_ms)
            )
            await bus.append(Batch(drafts=drafts, message_id=new_id(now_ms, os.urandom(10))))
    finally:
        await bus.close()


def history(count: int, tasks: int, rounds: int) -> list[Figure]:
    """Measure restart and throughput on an empty log and after *count* events."""
    with tempfile.TemporaryDirectory(prefix="fleetlog-bench-") as folder:
        system = System(Path(folder) / "home", "--set", "dispatcher.slots_per_host=64")
        try:
            system.start()
            empty = _throughput(system, tasks, rounds)
            restart_empty = _restart(system)
            asyncio.run(_append(Home(system.folder), count))
            _caught_up(system)
            full = _throughput(system, tasks, rounds)
            restart_full = _restart(system)
        finally:
            system.stop()
    middle = sorted(empty)[len(empty) // 2]
    return [
        Figure("start of everything, few events", "s", (restart_empty,)),
        Figure(f"start of everything, {count:,} events", "s", (restart_full,)),
        Figure(f"`true` as {tasks} tasks, few events", "tasks/s", tuple(empty)),
        Figure(f"`true` as {tasks} tasks, {count:,} events", "tasks/s", tuple(full), limit=middle),
    ]


def _throughput(system: System, tasks: int, rounds: int) -> list[float]:
    client = system.client()
    watcher = measure.Watcher(client)
    measure.throughput_once(client, watcher, min(tasks, 100), f"warm-{time.time_ns()}")
    return [measure.throughput_once(client, watcher, tasks, f"round-{time.time_ns()}") for _ in range(rounds)]


def _caught_up(system: System) -> None:
    """One task more: its end comes after everything that was appended."""
    client = system.client()
    measure.throughput_once(client, measure.Watcher(client), 1, f"after-{time.time_ns()}")


def _restart(system: System) -> float:
    system.stop()
    return system.start()

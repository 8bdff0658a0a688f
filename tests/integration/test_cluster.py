"""Three nodes: one is killed, stopped, cut off, emptied or damaged in the middle of work, and nothing is lost or repeated."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from fleetlog_testing.cluster import Cluster
from fleetlog_testing.fleet import END_S_MAX
from fleetlog_testing.waiting import until

HOSTS = ("web01", "web02", "web03", "web04", "web05", "web06")
TASKS_AT_ONCE = 3
"""In flight at any time: enough that every moment of a fault meets some of them in every state."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        asyncio.run(running.start(*HOSTS))
        yield running
    finally:
        running.close()


@contextlib.asynccontextmanager
async def load(cluster: Cluster) -> AsyncIterator[list[str]]:
    """Submit tasks one after the other for as long as the block lasts; in the end wait for all, and judge them."""
    tasks: list[str] = []
    enough = asyncio.Event()

    async def one_after_the_other() -> None:
        while not enough.is_set():
            task_id = await cluster.submit(cluster.judge.command("sleep 0.3"))
            tasks.append(task_id)
            await cluster.began(task_id, len(HOSTS))

    submitting = [asyncio.create_task(one_after_the_other()) for _ in range(TASKS_AT_ONCE)]
    try:
        await until(lambda: len(tasks) >= TASKS_AT_ONCE, END_S_MAX, "tasks run")
        yield tasks
        until_now = len(tasks)
        await until(lambda: len(tasks) >= until_now + TASKS_AT_ONCE, END_S_MAX, "tasks run again")
    finally:
        enough.set()
        await asyncio.gather(*submitting)
    views = await cluster.ended(*tasks)
    assert {view.outcome for view in views} == {"success"}
    cluster.judge.agrees(views)


def test_what_was_acknowledged_survives_the_node_that_led_the_log(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with load(cluster) as tasks:
            first = await cluster.leader("EVENTS")
            before = len(tasks)
            with cluster.without(first) as server:
                server.lose()
                await until(lambda: len(tasks) > before + TASKS_AT_ONCE, END_S_MAX, "work goes on without that node")
                assert await cluster.leader("EVENTS") not in ("", first)
                await server.start()
        await cluster.in_step()
        cluster.verify_projection()

    asyncio.run(scenario())

"""Kill -9 of every part while twenty hosts work: every task ends, nothing runs twice, and what is said is what was."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from fleetlog_testing.agent_process import marked
from fleetlog_testing.fleet import Fleet
from fleetlog_testing.server import PARTS
from fleetlog_testing.waiting import until

NAMES = tuple(f"web{number:02}" for number in range(1, 21))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = Fleet(tmp_path_factory.mktemp("kill"))
    try:
        asyncio.run(running.start(*NAMES))
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_is_started_again_and_every_command_ran_once(fleet: Fleet, part: str) -> None:
    async def scenario() -> None:
        running = await fleet.submit(fleet.judge.command("sleep 2"))
        await fleet.began(running, len(NAMES) // 2)
        acknowledged = [record.event for record in fleet.client.read_log()]
        # One task is on its way through the part that dies, and one comes while it is away.
        passing = await fleet.submit(fleet.judge.command())
        former = fleet.kill(part)
        later = await fleet.submit(fleet.judge.command())
        await fleet.restarted(part, former)

        views = await fleet.ended(running, passing, later)
        assert [view.outcome for view in views] == ["success"] * 3
        assert {view.hosts for view in views} == {len(NAMES)}
        fleet.judge.agrees(views)
        kept = [record.event for record in fleet.client.read_log()]
        assert kept[: len(acknowledged)] == acknowledged
        fleet.verify_projection()

    asyncio.run(scenario())


def test_agents_that_are_killed_find_their_commands_again(fleet: Fleet) -> None:
    async def scenario() -> None:
        at_once, later = [fleet.hosts[name] for name in NAMES[:4]], [fleet.hosts[name] for name in NAMES[4:6]]
        running = await fleet.submit(fleet.judge.command("sleep 2"))
        await fleet.began(running, len(NAMES))
        passing = await fleet.submit(fleet.judge.command())
        for host in (*at_once, *later):
            host.kill()
        for host in at_once:
            host.start()
        # The others come back when their commands have ended and nobody was there to see it.
        await until(lambda: not any(marked(host.host_id, running) for host in later), 30)
        for host in later:
            host.start()

        views = await fleet.ended(running, passing)
        assert [view.outcome for view in views] == ["success"] * 2
        fleet.judge.agrees(views)
        fleet.verify_projection()

    asyncio.run(scenario())


def test_what_ran_under_a_killed_holder_is_lost_and_nothing_else(fleet: Fleet) -> None:
    async def scenario() -> None:
        victims = [fleet.hosts[name] for name in NAMES[6:9]]
        running = await fleet.submit(fleet.judge.command("sleep 2"))
        await fleet.began(running, len(NAMES))
        for host in victims:
            (holder,) = host.holders()
            os.kill(holder, signal.SIGKILL)
        after = await fleet.submit(fleet.judge.command())

        views = await fleet.ended(running, after)
        lost = {command.host_id for command in views[0].commands if command.outcome == "lost"}
        assert lost == {host.host_id for host in victims}
        assert views[0].counts == {"lost": 3, "success": len(NAMES) - 3}
        assert all(fleet.judge.lines()[f"{running} {host_id} 1 began"] == 1 for host_id in lost)
        assert views[1].outcome == "success"
        fleet.judge.agrees(views, lost_on=lost)
        fleet.verify_projection()

    asyncio.run(scenario())

"""A rolling upgrade of the server: services of the last release and of this version side by side, each taking over.

The last release runs as it was, from its archive. Whoever leads, no command is lost and none runs twice.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_schemas import events
from fleetlog_testing import releases
from fleetlog_testing.fleet import END_S_MAX, LOOK_S, Fleet, active
from fleetlog_testing.homes import connected
from fleetlog_testing.waiting import until

NAMES = ("web01", "web02", "web03")
LAST = releases.versions()[-1]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path)
    try:
        yield running
    finally:
        running.close()


def authors(fleet: Fleet, subject: str) -> set[int]:
    """Return the process ids of those who wrote events of a subject."""
    return {int(event.source.split("-")[-2]) for event in fleet.log() if event.subject == subject}


async def serves(fleet: Fleet, package: str) -> None:
    log = fleet.folder / f"{package}.log"
    await until(lambda: '"ready"' in log.read_text(), END_S_MAX, f"{package} of {LAST} is ready")


def test_dispatchers_of_both_versions_take_over_from_each_other(fleet: Fleet) -> None:
    tasks: list[str] = []

    async def task(between: str = "sleep 1", **fields: object) -> str:
        tasks.append(await fleet.submit(fleet.judge.command(between), **fields))
        return tasks[-1]

    async def leads(looker: NatsBus, pid: int) -> None:
        async def it_does() -> list[bool]:
            return [True] if await active(looker) == pid else []

        await until(it_does, END_S_MAX, f"{pid} leads")

    async def passes_on(looker: NatsBus, one: int, other: int) -> None:
        """Stop the one that leads in the middle of its work, until the other leads; then let it go on as standby."""
        await fleet.began(await task("sleep 2"), len(NAMES))
        await task("[ $FLEETLOG_ATTEMPT = 2 ] || exit 9", retry={"attempts_max": 2, "backoff_ms": 200})
        os.kill(one, signal.SIGSTOP)
        try:
            meanwhile = await task(priority=7, queue="upgrade", rollout={"waves": ["1", "100%"]})
            await leads(looker, other)
            await fleet.began(meanwhile, len(NAMES))
        finally:
            os.kill(one, signal.SIGCONT)
        await task()

    async def scenario() -> None:
        await fleet.start(*NAMES)
        now = fleet.pid("dispatcher")
        old = fleet.start_service("fleetlog_dispatcher", releases.unpacked(LAST, fleet.folder)).pid
        await serves(fleet, "fleetlog_dispatcher")
        async with connected(fleet.home, "operator") as looker:
            await leads(looker, now)
            await passes_on(looker, now, old)
            await passes_on(looker, old, now)
            await passes_on(looker, now, old)
            # The last step of an upgrade: the old one is gone for good, with work in hand.
            await fleet.began(await task("sleep 2"), len(NAMES))
            os.kill(old, signal.SIGKILL)
            await task()
            await leads(looker, now)
            views = await fleet.ended(*tasks)
        assert {view.outcome for view in views} == {"success"}
        lines = fleet.judge.lines()
        assert not [line for line, times in lines.items() if times > 1], "a command ran twice"
        retried = [view for view in views if any(len(command.attempts) > 1 for command in view.commands)]
        fleet.judge.agrees([view for view in views if view not in retried])
        assert len(retried) == 3
        assert authors(fleet, events.DISPATCH) == {now, old}
        fleet.verify_projection()

    asyncio.run(scenario())


def test_recorders_of_both_versions_share_what_hosts_report(fleet: Fleet) -> None:
    async def scenario() -> None:
        await fleet.start(*NAMES)
        now = fleet.pid("result-recorder")
        old = fleet.start_service("fleetlog_result_recorder", releases.unpacked(LAST, fleet.folder)).pid
        await serves(fleet, "fleetlog_result_recorder")
        tasks: list[str] = []

        async def both_write() -> bool:
            tasks.append(await fleet.submit(fleet.judge.command("true")))
            await fleet.ended(tasks[-1])
            return authors(fleet, events.RESULT) >= {now, old}

        await until(both_write, END_S_MAX, "both record ends", LOOK_S)
        running = await fleet.submit(fleet.judge.command("sleep 1"))
        await fleet.began(running, len(NAMES))
        os.kill(old, signal.SIGKILL)
        fleet.kill("result-recorder")
        await fleet.restarted("result-recorder", now)
        last = await fleet.submit(fleet.judge.command("true"))
        views = await fleet.ended(*tasks, running, last)
        assert {view.outcome for view in views} == {"success"}
        fleet.judge.agrees(views)
        fleet.verify_projection()

    asyncio.run(scenario())


@pytest.mark.skipif("0.2.0" not in releases.versions(), reason="the last release that does not know definitions is no longer kept")
def test_an_older_dispatcher_stops_at_what_it_cannot_read_and_the_newer_one_goes_on(fleet: Fleet) -> None:
    """A run of a definition, which the release before 0.3.0 does not know, while that release leads."""

    async def scenario() -> None:
        await fleet.start(*NAMES)
        now = fleet.pid("dispatcher")
        old = fleet.start_service("fleetlog_dispatcher", releases.unpacked("0.2.0", fleet.folder))
        await serves(fleet, "fleetlog_dispatcher")
        before = await fleet.submit(fleet.judge.command("sleep 2"))
        await fleet.began(before, len(NAMES))
        spec = {"payload": msgspec.to_builtins(fleet.judge.command("sleep 1")), "target": "all"}
        fleet.gateway.post("/definitions", {"definition": {"name": "restart", "spec": spec, "parameters": {}}})
        async with connected(fleet.home, "operator") as looker:
            os.kill(now, signal.SIGSTOP)
            try:
                async def old_leads() -> list[bool]:
                    return [True] if await active(looker) == old.pid else []

                await until(old_leads, END_S_MAX, "the old one leads")
                run = fleet.gateway.post("/definitions/restart/tasks", {})["task_id"]
                assert await asyncio.to_thread(old.wait, END_S_MAX) != 0
            finally:
                os.kill(now, signal.SIGCONT)
        assert "needs reader 2, this is reader 1: upgrade fleetlog" in (fleet.folder / "fleetlog_dispatcher.log").read_text()
        views = await fleet.ended(before, run)
        assert {view.outcome for view in views} == {"success"}
        fleet.judge.agrees(views)
        fleet.verify_projection()

    asyncio.run(scenario())

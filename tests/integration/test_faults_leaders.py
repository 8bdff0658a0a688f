"""Two dispatchers, one of them stopped in the middle of its work; and one that meets an event it must not decide over."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlog_runtime.pure.bus import Batch, Draft
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_schemas import events, pushes
from fleetlog_schemas.codec import READER
from fleetlog_testing.fleet import END_S_MAX, Fleet, active, overheard
from fleetlog_testing.homes import connected
from fleetlog_testing.waiting import until

NAMES = ("web01", "web02", "web03", "web04")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path)
    try:
        yield running
    finally:
        running.close()


def test_a_dispatcher_that_was_stopped_beyond_its_leadership_sends_nothing_that_is_not_in_the_log(fleet: Fleet) -> None:
    tasks: list[str] = []

    async def task(between: str = "sleep 1") -> str:
        tasks.append(await fleet.submit(fleet.judge.command(between)))
        return tasks[-1]

    async def depose(looker: NatsBus) -> None:
        """Stop the active dispatcher with work in hand until another has taken over, and let it go on."""
        stopped = await active(looker)
        await fleet.began(await task("sleep 2"), len(NAMES))
        for _ in range(3):
            await task()
        os.kill(stopped, signal.SIGSTOP)
        try:
            meanwhile = await task()

            async def successor() -> int:
                leads = await active(looker)
                return 0 if leads == stopped else leads

            leads: int = await until(successor, END_S_MAX, "the other dispatcher takes over")
            assert leads != stopped
            await fleet.began(meanwhile, len(NAMES))
        finally:
            os.kill(stopped, signal.SIGCONT)
        await task()

    async def scenario() -> None:
        await fleet.start(*NAMES)
        fleet.start_service("fleetlog_dispatcher")
        second_log = fleet.folder / "fleetlog_dispatcher.log"
        await until(lambda: '"ready"' in second_log.read_text(), END_S_MAX, "the second dispatcher is ready")
        async with connected(fleet.home, "operator") as looker, overheard(*fleet.hosts.values()) as pushed:
            await depose(looker)
            await depose(looker)
            views = await fleet.ended(*tasks)
        assert {view.outcome for view in views} == {"success"}
        fleet.judge.agrees(views)
        assert every_push_follows_from_the_log(fleet, pushed) >= len(tasks) * len(NAMES)
        assert turns(fleet) == 3, "each of the two wrote only while it led"
        fleet.verify_projection()

    asyncio.run(scenario())


def every_push_follows_from_the_log(fleet: Fleet, pushed: list[pushes.Push]) -> int:
    """Require that what was pushed was decided at or before the position that the push names; return the starts."""
    dispatched: dict[tuple[str, str, int], int] = {}
    ended: dict[tuple[str, str, int], int] = {}
    for event in fleet.log():
        if isinstance(event.data, events.AttemptsDispatched | events.AttemptsEnded):
            seen = dispatched if isinstance(event.data, events.AttemptsDispatched) else ended
            for entry in event.data.attempts:
                seen.setdefault((entry.task_id, entry.host_id, entry.attempt), event.seq)
    starts = 0
    for push in pushed:
        for named in push.attempts:
            key = (named.task_id, push.host_id, named.attempt)
            assert not isinstance(push, pushes.CancelPush), "nobody asked to cancel anything"
            if isinstance(push, pushes.StartPush):
                starts += 1
                assert dispatched[key] <= push.seq
            else:
                assert ended[key] <= push.seq
    return starts


def turns(fleet: Fleet) -> int:
    """Return how many unbroken runs of one author the dispatchers' events are."""
    authors = [event.source for event in fleet.log() if event.subject == events.DISPATCH]
    return len(list(itertools.groupby(authors)))


def test_an_event_that_asks_for_a_newer_reader_stops_who_decides_and_says_so(fleet: Fleet) -> None:
    body = json.dumps(
        {
            "specversion": "1.0", "id": "from-the-future", "source": "/fleetlog/gateway/newer", "minreader": READER + 1,
            "type": "fleetlog.task.held-back.v1", "time": "2030-01-01T00:00:00Z", "data": {},
        }
    ).encode()
    clear = f"fleetlog.task.held-back.v1 needs reader {READER + 1}, this is reader {READER}: upgrade fleetlog"

    async def scenario() -> None:
        await fleet.start()
        async with connected(fleet.home, "gateway") as bus:
            seq = await bus.append(Batch(drafts=(Draft(events.REQUEST, body),), message_id=""))
        former = fleet.pid("dispatcher")
        await until(lambda: fleet.diagnostics("dispatcher").count(clear) >= 2, END_S_MAX, "it stops, and stops again")
        assert fleet.pid("dispatcher") != former
        said = [json.loads(line) for line in fleet.diagnostics("dispatcher").splitlines()]
        assert {"reason": f"message {seq} of the log: event {clear}", "event": "stopped", "level": "error"}.items() <= next(
            line.items() for line in said if line["event"] == "stopped"
        )
        # Who only reads keeps what it does not know, and goes on.
        assert fleet.gateway.get("/tasks", limit=1)["seq"] >= seq
        fleet.verify_projection()
        doctor = fleet.run("doctor", "-o", "json")
        assert doctor.returncode == 1
        assert [one["state"] for one in json.loads(doctor.stdout) if one["check"] == "dispatcher"] == ["bad"]

    asyncio.run(scenario())

"""Schedules on a real system: each tick once, whatever is killed, stopped or paused meanwhile.

The books of this file are naive: a tick of these schedules is a whole second (or two of them), so what is expected is
counted without the code that fires. The judge says what ran, the log what was decided and submitted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fleetlog_schemas import events
from fleetlog_schemas import schedule_events as stored
from fleetlog_schemas.codec import Event
from fleetlog_schemas.spec import TaskSpec
from fleetlog_testing.clocks import MISSING, WrongClock
from fleetlog_testing.fleet import END_S_MAX, Fleet, active
from fleetlog_testing.homes import connected
from fleetlog_testing.waiting import until

SECOND_MS = 1_000
HOUR_S = 3_600
PAUSES = 12
"""Rounds of pause and resume, each around a tick of its own."""
STEP_S = 0.002


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = Fleet(tmp_path_factory.mktemp("schedules"))
    try:
        asyncio.run(begin(running))
        yield running
    finally:
        running.close()


async def begin(fleet: Fleet) -> None:
    await fleet.start("web01")
    spec = msgspec.to_builtins(TaskSpec(payload=fleet.judge.command("true"), target="all"))
    fleet.gateway.post("/definitions", {"definition": {"name": "tick", "spec": spec}})


def register(fleet: Fleet, name: str, every_ms: int = SECOND_MS, **policy: object) -> None:
    rule = {"definition": "tick", "kind": "interval", "interval_ms": every_ms, "policy": {"overlap": "allow", **policy}}
    fleet.gateway.put(f"/schedules/{name}", {"rule": rule})


class Books:
    """What the log says of one schedule."""

    def __init__(self, log: list[Event], name: str) -> None:
        self.changes: list[Event] = []
        self.fates: Counter[int] = Counter()
        self.fired: list[tuple[int, str]] = []
        self.submitted: list[tuple[int, str]] = []
        self.submitted_seqs: list[int] = []
        self.submitted_ms: dict[int, int] = {}
        self.outcomes: dict[int, str] = {}
        for event in log:
            if isinstance(event.data, stored.TicksDecided):
                for tick in event.data.ticks:
                    if tick.name == name:
                        self._decided(tick)
            elif isinstance(event.data, events.TasksSubmitted):
                for task in event.data.tasks:
                    if task.schedule == name:
                        self.submitted.append((task.nominal_ms, task.task_id))
                        self.submitted_seqs.append(event.seq)
                        self.submitted_ms[task.nominal_ms] = event.time_ms
            elif event.subject == events.SCHEDULE and getattr(event.data, "name", "") == name:
                self.changes.append(event)

    def _decided(self, tick: stored.TickDecision) -> None:
        for nominal_ms in range(tick.nominal_ms, (tick.until_ms or tick.nominal_ms) + 1, SECOND_MS):
            self.fates[nominal_ms] += 1
            self.outcomes[nominal_ms] = tick.outcome
        if tick.outcome == "fired":
            self.fired.append((tick.nominal_ms, tick.task_id))

    @property
    def expected(self) -> set[int]:
        """The ticks of every second from its registration until it was unregistered."""
        first, last = self.changes[0].time_ms, self.changes[-1].time_ms
        return set(range(first // SECOND_MS * SECOND_MS + SECOND_MS, last + 1, SECOND_MS))

    def check_fires(self) -> None:
        """Require that what fired is what was submitted, each tick once."""
        assert sorted(self.fired) == sorted(self.submitted)
        assert len({nominal_ms for nominal_ms, _ in self.fired}) == len(self.fired), "a tick fired twice"


async def fires(fleet: Fleet, name: str, count: int) -> Books:
    """Wait until the log has so many more fired ticks of a schedule."""
    before = len(Books(fleet.log(), name).fired)
    found: Books = await until(
        lambda: books if len((books := Books(fleet.log(), name)).fired) >= before + count else None,
        END_S_MAX, f"{name} fires", 0.2,
    )
    return found


async def settled(fleet: Fleet, name: str) -> Books:
    """Unregister a schedule and return its books, once each expected tick has its fate and each task has ended."""
    fleet.gateway.delete(f"/schedules/{name}")
    books: Books = await until(
        lambda: books if set((books := Books(fleet.log(), name)).fates) >= books.expected else None,
        END_S_MAX, f"every tick of {name} has its fate", 0.2,
    )
    assert books.fates == Counter(books.expected), "each expected tick has exactly one fate, and no other has any"
    books.check_fires()
    views = await fleet.ended(*(task_id for _, task_id in books.submitted))
    fleet.judge.agrees(views)
    assert {view.outcome for view in views} <= {"success"}
    return books


def test_schedules_of_seconds_fire_each_tick_once_and_not_before_its_time(fleet: Fleet) -> None:
    async def scenario() -> None:
        register(fleet, "each")
        register(fleet, "other", 2 * SECOND_MS)
        await asyncio.gather(fires(fleet, "each", 4), fires(fleet, "other", 2))
        fleet.gateway.delete("/schedules/other")
        books = await settled(fleet, "each")
        assert all(at_ms >= nominal_ms for nominal_ms, at_ms in books.submitted_ms.items())
        other = Books(fleet.log(), "other")
        other.check_fires()
        assert all(nominal_ms % (2 * SECOND_MS) == 0 for nominal_ms, _ in other.fired)

    asyncio.run(scenario())


def test_a_scheduler_that_is_killed_around_ticks_fires_nothing_twice_and_forgets_nothing(fleet: Fleet) -> None:
    async def scenario() -> None:
        register(fleet, "killed", misfire="all")
        for _ in range(3):
            await fires(fleet, "killed", 1)
            former = fleet.kill("scheduler")
            await fleet.restarted("scheduler", former)
        await fires(fleet, "killed", 2)
        books = await settled(fleet, "killed")
        # The last one may be cut off by the end of the schedule; all others are caught up, whoever was away.
        assert [books.outcomes[one] for one in sorted(books.outcomes)[:-2]] == ["fired"] * (len(books.outcomes) - 2)

    asyncio.run(scenario())


def test_a_scheduler_that_was_stopped_beyond_its_leadership_fires_no_tick_again(fleet: Fleet) -> None:
    async def scenario() -> None:
        register(fleet, "led")
        second = fleet.start_service("fleetlog_scheduler")
        second_log = fleet.folder / "fleetlog_scheduler.log"
        await until(lambda: '"ready"' in second_log.read_text(), END_S_MAX, "the second scheduler is ready")
        async with connected(fleet.home, "operator") as looker:
            for _ in range(2):
                await fires(fleet, "led", 1)
                stopped = await active(looker, "scheduler")
                os.kill(stopped, signal.SIGSTOP)
                try:

                    async def succeeded(stopped: int = stopped) -> bool:
                        return await active(looker, "scheduler") not in (0, stopped)

                    await until(succeeded, END_S_MAX, "the other scheduler takes over")
                    await fires(fleet, "led", 1)
                finally:
                    os.kill(stopped, signal.SIGCONT)
                await fires(fleet, "led", 2)
        await settled(fleet, "led")
        decided = [one for one in fleet.log() if isinstance(one.data, stored.TicksDecided)]
        assert len({one.source for one in decided}) >= 2, "both had their turn"
        second.kill()
        second.wait()

    asyncio.run(scenario())


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_a_scheduler_fires_nothing_by_a_wrong_clock_leads_when_it_is_set_and_is_moved_by_no_jump(fleet: Fleet) -> None:
    clock = WrongClock(fleet.folder / "offset")
    clock.set(HOUR_S)

    async def scenario() -> None:
        register(fleet, "clock", misfire="all")
        before = await fires(fleet, "clock", 1)
        main = fleet.pid("scheduler")
        os.kill(main, signal.SIGSTOP)
        other = fleet.start_service("fleetlog_scheduler", **clock.environment)
        try:
            said = fleet.folder / "fleetlog_scheduler.log"
            await until(lambda: "clock is wrong" in said.read_text(), END_S_MAX, "it says that its clock is wrong")
            assert len(Books(fleet.log(), "clock").fired) <= len(before.fired) + 1, "it fired, an hour too early"
            clock.set(0)
            await until(lambda: "clock was set" in said.read_text(), END_S_MAX, "it goes on by the clock that was set")
            await fires(fleet, "clock", 2)
            for jump_s in (HOUR_S, -HOUR_S, 0):
                clock.set(jump_s)
                await fires(fleet, "clock", 2)
        finally:
            os.kill(main, signal.SIGCONT)
        books = await settled(fleet, "clock")
        assert set(list(books.outcomes.values())[:-2]) == {"fired"}, "while nobody led, too: it is caught up"
        assert all(at_ms >= nominal_ms for nominal_ms, at_ms in books.submitted_ms.items()), "a jump let one come too early"
        sources = {one.source for one in fleet.log() if isinstance(one.data, stored.TicksDecided)}
        assert any(f"-{other.pid}-" in source for source in sources), "it had its turn"
        other.kill()
        other.wait()

    asyncio.run(scenario())


def test_no_tick_is_submitted_between_a_pause_and_its_resume(fleet: Fleet) -> None:
    async def scenario() -> None:
        register(fleet, "paused")
        await fires(fleet, "paused", 1)
        for number in range(PAUSES):
            # Around the tick of the second: in each round a little later, from before it to after it.
            await asyncio.sleep(1.0 - time.time() % 1.0 + (number - PAUSES // 2) * STEP_S)
            await asyncio.to_thread(fleet.gateway.post, "/schedules/paused/pause", {"reason": f"round {number}"})
            await asyncio.sleep(0.3)
            await asyncio.to_thread(fleet.gateway.post, "/schedules/paused/resume", {})
        await fires(fleet, "paused", 1)
        books = await settled(fleet, "paused")
        paused = [one for one in books.changes if isinstance(one.data, stored.SchedulePaused)]
        resumed = [one for one in books.changes if isinstance(one.data, stored.ScheduleResumed)]
        assert len(paused) == len(resumed) == PAUSES
        for begin, end in zip(paused, resumed, strict=True):
            assert not [seq for seq in books.submitted_seqs if begin.seq < seq < end.seq], "it fired while it was paused"
            for nominal_ms, outcome in books.outcomes.items():
                if begin.time_ms < nominal_ms <= end.time_ms:
                    assert outcome == "skipped"
        assert "skipped" in books.outcomes.values(), "no tick fell into a pause"

    asyncio.run(scenario())


def test_a_tick_that_was_missed_is_seen_by_whoever_lists_schedules(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "--set", "scheduler.late_ms=300")

    async def scenario() -> None:
        await begin(fleet)
        stopped = fleet.pid("scheduler")
        os.kill(stopped, signal.SIGSTOP)
        at_ms = int(time.time() * 1000) + 700
        rule = {"definition": "tick", "kind": "once", "begins_ms": at_ms, "policy": {"misfire": "skip"}}
        fleet.gateway.put("/schedules/once", {"rule": rule})
        fleet.gateway.put("/schedules/fine", {"rule": {"definition": "tick", "kind": "manual"}})
        assert ", missed" not in fleet.run("schedule", "ls").stdout
        await until(lambda: time.time() * 1000 > at_ms + 1_000, END_S_MAX, "the tick is late")
        os.kill(stopped, signal.SIGCONT)
        await until(lambda: "active, missed" in fleet.run("schedule", "ls").stdout, END_S_MAX, "the list says so", 0.3)
        lines = {line.split()[0]: line for line in fleet.run("schedule", "ls").stdout.splitlines()[1:]}
        assert ", missed" not in lines["fine"]
        assert "missed 1 tick, the first at" in fleet.run("schedule", "show", "once").stdout
        assert "missed" not in fleet.run("schedule", "show", "fine").stdout
        assert "missed 1 tick" in fleet.run("doctor").stdout
        # Whoever looks while nobody watches still gets the list.
        fleet.kill("keeper")
        assert "once" in fleet.run("schedule", "ls").stdout

    try:
        asyncio.run(scenario())
    finally:
        fleet.close()

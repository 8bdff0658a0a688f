"""What if a schedule had had another rule: asked of a reporter that has the log, ticks and runs of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fleetlog_schemas import events, limits
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.schedule_events import (
    Rule,
    SchedulePolicy,
    ScheduleRegistered,
    TickDecision,
    TicksDecided,
)
from fleetlog_schemas.spec import Shell, TaskSpec
from fleetlog_testing.reporter_rig import START_MS, LogBus, Running, reporter

MINUTE = 60_000
HOUR = 60 * MINUTE
GRID = START_MS // HOUR * HOUR + HOUR


@pytest.fixture
def bus() -> LogBus:
    """Return four hours of a schedule every ten minutes whose runs take 25, with an absence in the third hour."""
    bus = LogBus()
    bus.now_ms = GRID
    rule = Rule(definition="report", kind="interval", interval_ms=10 * MINUTE, policy=SchedulePolicy(overlap="skip"))
    bus.add(ScheduleRegistered("often", rule))
    bus.add(ScheduleRegistered("never", Rule(definition="report")))
    open_until, task_id = 0, ""
    for minute in range(10, 240, 10):
        at_ms = GRID + minute * MINUTE
        if open_until and open_until <= at_ms:
            bus.now_ms, open_until = open_until, 0
            bus.ended(task_id, "web01")
            bus.task_ended(task_id)
        if 120 < minute < 180:
            continue
        bus.now_ms = at_ms + 2_000
        if minute == 180:
            bus.add(TicksDecided(ticks=(TickDecision("often", "missed", GRID + 130 * MINUTE, GRID + 170 * MINUTE, 5, reason="late"),)))
        if open_until:
            bus.add(TicksDecided(ticks=(TickDecision("often", "skipped", at_ms, reason="overlap"),)))
            continue
        spec = TaskSpec(payload=Shell(("df",)), target="all")
        task_id, open_until = bus.make_id(), at_ms + 25 * MINUTE
        bus.add(
            TicksDecided(ticks=(TickDecision("often", "fired", at_ms, task_id=task_id),)),
            events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=spec, schedule="often", nominal_ms=at_ms),)),
            authid=None,
        )
        bus.add(events.TasksPlanned(plans=(events.Plan(task_id, (events.PlannedHost("h-web01", "web01"),), "hash"),)))
        bus.dispatched(task_id, "web01")
    bus.now_ms = GRID + 4 * HOUR
    return bus


def asked(tmp_path: Path, bus: LogBus, story: Any) -> None:
    async def scenario() -> None:
        async with reporter(bus, tmp_path) as running:
            await story(running)

    asyncio.run(scenario())


def test_the_past_is_weighed_as_it_was_and_as_it_would_have_been(tmp_path: Path, bus: LogBus) -> None:
    async def story(running: Running) -> None:
        period = {"since_ms": GRID, "until_ms": GRID + 4 * HOUR}
        before = bus.store.state("EVENTS").last_seq
        same = await running.data("what-if", schedules=["often"], **period)
        assert (same["was"]["fired"], same["was"]["missed"], same["was"]["peak"]) == (6, 5, 1)
        assert same["was"]["reasons"] == {"missed late": 5, "skipped overlap": same["was"]["skipped"]}
        assert same["was"]["delay_max_ms"] == 2_000
        assert same["since"] == rfc3339(GRID)
        assert {name: same["would_be"][name] for name in ("missed", "peak")} == {"missed": 5, "peak": 1}
        assert same["away_seconds"] == 50 * 60 + 2
        assert same["lengths_unknown"] == 0
        assert same["lengths_known"] > 0
        wide = await running.data("what-if", change={"overlap": "allow", "misfire": "all"}, **period)
        assert (wide["would_be"]["fired"], wide["would_be"]["missed"], wide["would_be"]["skipped"]) == (24, 0, 0)
        assert wide["would_be"]["peak"] > 3
        assert wide["would_be"]["delay_max_ms"] == 50 * MINUTE + 2_000
        assert [one["schedule"] for one in wide["schedules"]] == ["never", "often"]
        assert wide["was"] == same["was"], "what was does not depend on what is asked"
        assert bus.store.state("EVENTS").last_seq == before, "asking stores nothing"

    asked(tmp_path, bus, story)


def test_what_cannot_be_replayed_is_said(tmp_path: Path, bus: LogBus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(running: Running) -> None:
        period = {"since_ms": GRID, "until_ms": GRID + HOUR}
        assert (await running.problem("what-if", schedules=["nobody"], **period))["code"] == "schedule-not-found"
        assert (await running.problem("what-if", since_ms=GRID))["code"] == "bad-query"
        assert (await running.problem("what-if", change={"cron": "nonsense"}, **period))["code"] == "bad-query"
        monkeypatch.setattr(limits, "WHAT_IF_TICKS_MAX", 3)
        assert (await running.problem("what-if", **period))["code"] == "too-far"

    asked(tmp_path, bus, story)

"""Which schedule a task is a run of, and what became of each tick: lists, one task, SQL, and past moments."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fleetlog_schemas import events
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.schedule_events import TickDecision, TicksDecided
from fleetlog_schemas.spec import Shell, TaskSpec
from fleetlog_testing.reporter_rig import LogBus, Running, reporter

NOON = 1_790_000_000_000
HOUR = 3_600_000
SPEC = TaskSpec(payload=Shell(("df",)), target="web*")


def run(tmp_path: Path, bus: LogBus, story: Any) -> None:
    async def scenario() -> None:
        async with reporter(bus, tmp_path) as running:
            await story(running)

    asyncio.run(scenario())


def ticked(bus: LogBus, schedule: str, nominal_ms: int) -> str:
    """Submit a task as the scheduler does: nobody's name stands in the event."""
    one = events.Submission(task_id=bus.make_id(), spec=SPEC, schedule=schedule, nominal_ms=nominal_ms)
    bus.add(events.TasksSubmitted(tasks=(one,)), authid=None)
    return one.task_id


def test_a_task_says_for_which_tick_of_which_schedule_it_is_open_and_ended(tmp_path: Path) -> None:
    bus = LogBus()
    by_hand = bus.whole("web01")
    over, still = ticked(bus, "nightly", NOON), ticked(bus, "hourly", NOON + HOUR)
    bus.add(events.TasksRefused(refusals=(events.Refusal(over, "no-hosts", "none"),)))

    async def story(running: Running) -> None:
        page = await running.data("tasks")
        assert {item["task_id"]: (item["schedule"], item["nominal_at"]) for item in page["items"]} == {
            by_hand: (None, None), over: ("nightly", rfc3339(NOON)), still: ("hourly", rfc3339(NOON + HOUR)),
        }
        (item,) = (await running.data("tasks", schedule="nightly"))["items"]
        assert (item["task_id"], item["submitted_by"]) == (over, "schedule nightly")
        for task_id, schedule in ((over, "nightly"), (still, "hourly")):
            assert (await running.data("task", task_id=task_id))["schedule"] == schedule
        told = await running.data("sql", query="SELECT schedule, epoch_ms(nominal_at) FROM tasks WHERE schedule IS NOT NULL ORDER BY 1")
        assert told["rows"] == [["hourly", NOON + HOUR], ["nightly", NOON]]

    run(tmp_path, bus, story)


def test_the_ledger_is_paged_filtered_and_says_how_each_run_ended(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = bus.whole("web01", outcome=Outcome.FAILURE)
    first = bus.add(TicksDecided(ticks=(
        TickDecision("nightly", "missed", NOON - 9 * HOUR, until_ms=NOON - HOUR, count=9, reason="late"),
        TickDecision("nightly", "fired", NOON, task_id=task_id, version=3),
        TickDecision("hourly", "skipped", NOON, reason="paused", message="the disk is being changed"),
    )))
    bus.add(TicksDecided(ticks=(TickDecision("nightly", "fired", NOON + HOUR, task_id="t2", backfill_seq=7),)))

    async def story(running: Running) -> None:
        whole = await running.data("ticks", schedule="nightly")
        assert [(one["outcome"], one["count"], one["task_outcome"], one["backfill"]) for one in whole["items"]] == [
            ("fired", 1, None, True), ("fired", 1, "failure", False), ("missed", 9, None, False),
        ]
        assert whole["items"][2]["until"] == rfc3339(NOON - HOUR)
        assert (whole["items"][1]["version"], whole["items"][1]["seq"]) == (3, first)
        pages, cursor = [], ""
        while cursor is not None:
            page = await running.data("ticks", schedule="nightly", limit=1, cursor=cursor)
            pages += page["items"]
            cursor = page["next_cursor"]
        assert pages == whole["items"]
        assert [one["schedule"] for one in (await running.data("ticks", outcome="skipped"))["items"]] == ["hourly"]
        assert len((await running.data("ticks", schedule="nightly", since_ms=NOON))["items"]) == 2
        assert len((await running.data("ticks", schedule="nightly", until_ms=NOON))["items"]) == 1, "its first tick is before"
        past = await running.data("ticks", schedule="nightly", as_of_seq=first)
        assert [one["outcome"] for one in past["items"]] == ["fired", "missed"]
        told = await running.data("sql", query="SELECT schedule, sum(count) FROM ticks GROUP BY 1 ORDER BY 1")
        assert told["rows"] == [["hourly", 1], ["nightly", 11]]

    run(tmp_path, bus, story)

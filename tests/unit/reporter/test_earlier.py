"""`typical` and `previous`: what earlier tasks that ran the same say about a task, now and in the past."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fleetlog_reporter.rows import payload_key
from fleetlog_schemas import events
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Blob, Retry, Script
from fleetlog_testing.reporter_rig import LogBus, Running, reporter

SAME = ("deploy", "4.2")
PAYLOAD = {"kind": "shell", "argv": list(SAME)}


def with_reporter(tmp_path: Path, bus: LogBus, story: Callable[[Running], Awaitable[None]]) -> None:
    async def run() -> None:
        async with reporter(bus, tmp_path) as running:
            await story(running)

    asyncio.run(run())


def ran(bus: LogBus, *durations_ms: int | None, argv: tuple[str, ...] = SAME, **fields: Any) -> str:
    """Run one task, on a host for each duration."""
    names = [f"web{number:02d}" for number in range(len(durations_ms))]
    task_id = bus.planned(*names, argv=argv, **fields)
    bus.dispatched(task_id, *names)
    for name, duration_ms in zip(names, durations_ms, strict=True):
        bus.ended(task_id, name, duration_ms=duration_ms)
    bus.task_ended(task_id)
    return task_id


# --- typical -------------------------------------------------------------------------------------------------


def test_typical_is_how_long_the_commands_of_earlier_tasks_took_that_ran_the_same(tmp_path: Path) -> None:
    bus = LogBus()
    ran(bus, 1000, 2000, 3000)
    ran(bus, 5000, None)
    ran(bus, 900_000, argv=("deploy", "4.1"))
    open_one = bus.planned("web01", argv=SAME)
    ran(bus, 900_000)

    async def story(running: Running) -> None:
        expected = {"commands": 4, "p50_seconds": 2.5, "p95_seconds": 4.7}
        assert await running.data("typical", task_id=open_one) == expected
        bus.dispatched(open_one, "web01")
        bus.ended(open_one, "web01", duration_ms=1)
        bus.task_ended(open_one)
        assert await running.data("typical", task_id=open_one) == expected, "its own commands say nothing of what is typical"
        await running.data("sql", query="select 1")  # the rows are written
        assert await running.data("typical", task_id=open_one[-12:]) == expected

    with_reporter(tmp_path, bus, story)


def test_typical_counts_a_command_once_by_its_last_attempt(tmp_path: Path) -> None:
    bus = LogBus()
    retry = Retry(attempts_max=2, on=(Outcome.FAILURE,), backoff_ms=0)
    tried = bus.planned("web01", argv=SAME, retry=retry)
    bus.dispatched(tried, "web01")
    bus.ended(tried, "web01", outcome=Outcome.FAILURE, duration_ms=50)
    bus.dispatched(tried, "web01", attempt=2)
    bus.ended(tried, "web01", attempt=2, duration_ms=7000)
    bus.task_ended(tried)
    unreached = bus.planned("web01", argv=SAME)
    bus.ended(unreached, "web01", outcome=Outcome.UNREACHED, decided=True, ran=Ran.NO, duration_ms=None, ended_ms=None)
    bus.task_ended(unreached)
    again = bus.planned("web01", argv=SAME)

    async def story(running: Running) -> None:
        assert await running.data("typical", task_id=again) == {"commands": 1, "p50_seconds": 7.0, "p95_seconds": 7.0}

    with_reporter(tmp_path, bus, story)


def test_typical_looks_at_the_newest_ten_tasks_and_says_when_there_are_none(tmp_path: Path) -> None:
    bus = LogBus()
    first = ran(bus, 900_000)
    for _ in range(10):
        ran(bus, 1000)
    last = bus.planned("web01", argv=SAME)

    async def story(running: Running) -> None:
        assert await running.data("typical", task_id="last") == {"commands": 10, "p50_seconds": 1.0, "p95_seconds": 1.0}
        assert await running.data("typical", task_id=first) == {"commands": 0, "p50_seconds": None, "p95_seconds": None}
        assert (await running.problem("typical", task_id=bus.make_id()))["code"] == "task-not-found"
        assert last

    with_reporter(tmp_path, bus, story)


def test_typical_reflects_an_end_that_was_written_just_now_and_the_past_only_what_had_ended_by_then(tmp_path: Path) -> None:
    bus = LogBus()
    ran(bus, 1000)
    before = bus.planned("web01", argv=SAME)
    bus.dispatched(before, "web01")
    open_one = bus.planned("web01", argv=SAME)
    then = bus.store.state("EVENTS").last_seq

    async def story(running: Running) -> None:
        assert (await running.data("typical", task_id=open_one))["commands"] == 1
        bus.ended(before, "web01", duration_ms=3000)
        seq = bus.task_ended(before)
        answer = await running.ask("typical", task_id=open_one)
        assert (answer.seq, answer.data["commands"], answer.data["p50_seconds"]) == (seq, 2, 2.0)
        past = await running.ask("typical", task_id=open_one, as_of_seq=then)
        assert (past.seq, past.data["commands"], past.data["p50_seconds"]) == (then, 1, 1.0)
        assert (await running.problem("typical", task_id=open_one, as_of_seq=2))["code"] == "task-not-found"

    with_reporter(tmp_path, bus, story)


# --- previous ------------------------------------------------------------------------------------------------


def test_previous_is_the_task_submitted_last_that_ran_the_same_open_or_ended(tmp_path: Path) -> None:
    bus = LogBus()
    first = bus.planned("web02", "web01", argv=SAME, name="one")
    bus.dispatched(first, "web01", "web02")
    second = ran(bus, 1000, argv=SAME, name="two", tags=("blue",))
    bus.planned("web01", argv=("deploy", "4.1"))

    async def story(running: Running) -> None:
        found = await running.data("previous", payload=PAYLOAD)
        assert found == {
            "task_id": second, "submitted_at": "2026-09-21T14:13:20.000Z", "outcome": "success", "hosts": ["web00"],
            "spec": {"payload": PAYLOAD, "target": "web*", "name": "two", "tags": ["blue"]},
        }
        bus.ended(first, "web01", "web02")
        bus.task_ended(first)
        assert await running.data("previous", payload=PAYLOAD) == found, "the order is that of submission, not of the ends"
        third = bus.planned("web03", "web01", argv=SAME)
        for _ in range(2):
            newest = await running.data("previous", payload=PAYLOAD)
            assert (newest["task_id"], newest["outcome"], newest["hosts"]) == (third, None, ["web01", "web03"])
            await running.data("sql", query="select 1")
        bus.dispatched(third, "web01", "web03")
        bus.ended(third, "web01", "web03", outcome=Outcome.FAILURE)
        bus.task_ended(third)
        for _ in range(2):
            newest = await running.data("previous", payload=PAYLOAD)
            assert (newest["task_id"], newest["outcome"], newest["hosts"]) == (third, "failure", ["web01", "web03"])
            await running.data("sql", query="select 1")

    with_reporter(tmp_path, bus, story)


def test_previous_is_null_when_nothing_ran_the_same_and_refused_tasks_ran_nothing(tmp_path: Path) -> None:
    bus = LogBus()
    bus.planned("web01", argv=("deploy", "4.1"))
    refused = bus.submitted(argv=SAME)
    bus.add(events.TasksRefused((events.Refusal(refused, "target-empty", "no host fits", "/target"),)))
    bus.submitted(argv=SAME)

    async def story(running: Running) -> None:
        answer = await running.ask("previous", payload=PAYLOAD)
        assert (answer.seq, answer.data, answer.problem) == (bus.store.state("EVENTS").last_seq, None, None)
        assert (await running.problem("previous", payload={"kind": "moon"}))["code"] == "bad-query"

    with_reporter(tmp_path, bus, story)


def test_previous_in_the_past_is_what_had_been_submitted_by_then(tmp_path: Path) -> None:
    bus = LogBus()
    first = ran(bus, 1000)
    then = bus.store.state("EVENTS").last_seq
    second = ran(bus, 1000, 1000)

    async def story(running: Running) -> None:
        assert (await running.data("previous", payload=PAYLOAD))["task_id"] == second
        for seq, task_id, outcome in ((then, first, "success"), (then + 2, second, None), (3, first, None)):
            answer = await running.ask("previous", payload=PAYLOAD, as_of_seq=seq)
            assert (answer.seq, answer.data["task_id"], answer.data["outcome"]) == (seq, task_id, outcome)
        assert await running.data("previous", payload=PAYLOAD, as_of_seq=1) is None

    with_reporter(tmp_path, bus, story)


def test_every_version_of_a_task_file_counts_as_the_same_with_the_same_arguments() -> None:
    def key(name: str, digest: str, *args: str, interpreter: str = "python3") -> str:
        return payload_key(Script(Blob(digest * 64, 9, name), (interpreter,), args))

    first = key("jobs/clean.py@1", "a", "/")
    assert key("jobs/clean.py@2", "b", "/", interpreter="/bin/sh") == first
    assert key("jobs/clean.py@2", "b", "/tmp") != first
    assert key("jobs/other.py@1", "a", "/") != first
    assert key("clean.py", "a", "/") != key("clean.py", "b", "/"), "a script that is no task file is its content"

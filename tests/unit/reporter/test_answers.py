"""Every question that the reporter answers, on a log in memory and a real DuckDB file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleetlog_reporter.answers import desk
from fleetlog_reporter.answers import tasks as tasks_answers
from fleetlog_reporter.service import QUESTIONS
from fleetlog_runtime.pure.bus import Handler
from fleetlog_schemas import (
    codec,
    control_events,
    events,
    host_events,
    lifecycle,
    policy_events,
    records,
    subjects,
    view,
)
from fleetlog_schemas.limits import BUS_MESSAGE_BYTES_MAX
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Retry, Rollout
from fleetlog_testing.reporter_rig import DEADLINE_SECONDS, LogBus, Running, reporter


def with_reporter(tmp_path: Path, bus: LogBus, story: Callable[[Running], Awaitable[None]]) -> None:
    async def run() -> None:
        async with reporter(bus, tmp_path) as running:
            await story(running)

    asyncio.run(run())


def as_json(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


# --- tasks ---------------------------------------------------------------------------------------------------


def test_tasks_are_listed_newest_first_open_ones_among_the_ended(tmp_path: Path) -> None:
    bus = LogBus()
    first = bus.whole("web01", "web02", name="one")
    second = bus.planned("web01", name="two", argv=("echo", "a b"))
    third = bus.whole("web03", outcome=Outcome.FAILURE)

    async def story(running: Running) -> None:
        page = await running.data("tasks")
        assert [item["task_id"] for item in page["items"]] == [third, second, first]
        assert page["next_cursor"] is None
        assert page["items"][1] == {
            "task_id": second, "kind": "shell", "name": "two", "summary": "echo 'a b'", "state": "planned", "outcome": None,
            "target": "web*", "submitted_by": "ada", "submitted_at": "2026-09-21T14:13:21.000Z", "ended_at": None,
            "duration_seconds": None, "hosts": 1, "counts": {"waiting": 1}, "tags": [], "hold": None, "definition": None,
            "version": None, "schedule": None, "nominal_at": None, "part_of": None, "part": None,
        }
        assert page["items"][2]["counts"] == {"success": 2}
        assert page["items"][2]["duration_seconds"] == 1.0

    with_reporter(tmp_path, bus, story)


def test_a_list_says_which_tasks_are_on_hold(tmp_path: Path) -> None:
    bus = LogBus()
    paused, halted, resumed = bus.planned("web01"), bus.planned("web01"), bus.planned("web01")
    bus.add(control_events.PauseRequested(paused), control_events.PauseRequested(resumed), control_events.ResumeRequested(resumed))
    bus.add(events.TasksHalted((events.Halt(halted, 2, 1, 1),)))

    async def story(running: Running) -> None:
        for fields in ({}, {"host": "web01"}):
            items = (await running.data("tasks", **fields))["items"]
            assert {item["task_id"]: item["hold"] for item in items} == {paused: "paused", halted: "halted", resumed: None}

    with_reporter(tmp_path, bus, story)


def test_tasks_are_filtered_by_each_of_their_fields(tmp_path: Path) -> None:
    bus = LogBus()
    bad = bus.whole("web01", outcome=Outcome.FAILURE, name="deploy", tags=("prod", "blue"))
    good = bus.whole("web02", name="check", tags=("prod-2",))
    still = bus.planned("web02")
    gone = bus.submitted()
    bus.add(events.TasksRefused((events.Refusal(gone, "empty-target", "no host fits", "/target"),)))
    later_ms = bus.now_ms + 5000
    bus.now_ms = later_ms
    late = bus.submitted()

    async def story(running: Running) -> None:
        async def listed(**fields: Any) -> set[str]:
            return {item["task_id"] for item in (await running.data("tasks", **fields))["items"]}

        assert await listed(outcome="failure") == {bad}
        assert await listed(state="open") == {still, late}
        assert await listed(state="refused") == {gone}
        assert await listed(state="ended") == {bad, good}
        assert await listed(host="web02") == {good, still}
        assert await listed(host="h-web01") == {bad}
        assert await listed(tag="prod") == {bad}
        assert await listed(name="check") == {good}
        assert await listed(kind="script") == set()
        assert await listed(submitted_by="bob") == set()
        assert await listed(since_ms=later_ms) == {late}
        assert await listed(until_ms=later_ms) == {bad, good, still, gone}

    with_reporter(tmp_path, bus, story)


def test_pages_neither_repeat_nor_skip_a_task_while_new_ones_arrive(tmp_path: Path) -> None:
    bus = LogBus()
    known = [bus.whole("web01") for _ in range(5)] + [bus.planned("web01") for _ in range(2)]

    async def story(running: Running) -> None:
        seen: list[str] = []
        cursor = ""
        while True:
            page = await running.data("tasks", limit=2, cursor=cursor)
            seen += [item["task_id"] for item in page["items"]]
            bus.whole("web09")
            cursor = page["next_cursor"]
            if not cursor:
                break
        assert seen == known[::-1]

    with_reporter(tmp_path, bus, story)


@pytest.mark.parametrize("newest", [1, 7, 50_000])
def test_a_page_is_the_same_however_far_back_it_has_to_be_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest: int
) -> None:
    monkeypatch.setattr(tasks_answers, "NEWEST_EVENTS", newest)
    bus = LogBus()
    old_open = bus.planned("web09")
    rare = [bus.whole("web09"), bus.whole("web09")]
    many = [bus.whole("web01") for _ in range(12)]
    rare.append(bus.whole("web09", "web01"))

    async def story(running: Running) -> None:
        page = await running.data("tasks", host="web09", limit=3)
        assert [item["task_id"] for item in page["items"]] == [*reversed(rare)]
        rest = await running.data("tasks", host="web09", limit=3, cursor=page["next_cursor"])
        assert [item["task_id"] for item in rest["items"]] == [old_open]
        everywhere = await running.data("tasks", limit=5)
        assert [item["task_id"] for item in everywhere["items"]] == [rare[-1], *reversed(many[-4:])]
        assert len((await running.data("tasks", limit=50))["items"]) == 16

    with_reporter(tmp_path, bus, story)


def test_a_wrong_question_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    async def story(running: Running) -> None:
        for question, fields, pointer in (
            ("tasks", {"limit": 0}, "/limit"), ("tasks", {"limit": 501}, "/limit"), ("tasks", {"cursor": "x"}, "/cursor"),
            ("tasks", {"cursor": "%%%"}, "/cursor"), ("tasks", {"state": "dead"}, "/state"),
            ("tasks", {"outcome": "dead"}, "/outcome"), ("task", {"task_id": "xyz"}, "/task_id"),
            ("task", {"task_id": "abc"}, "/task_id"), ("stats", {"by": "moon"}, "/by"),
            ("hosts", {"presence": "near"}, "/presence"), ("tasks", {"as_of_seq": 1, "as_of_ms": 1}, "/as_of"),
            ("tasks", {"no_such_field": 1}, ""), ("tasks", {"limit": "many"}, ""), ("task", {}, ""),
            ("tasks", {"since_ms": 2**70}, "/since_ms"), ("events", {"after_seq": -1}, "/after_seq"),
            ("verify", {"as_of_seq": 1}, "/as_of"),
        ):
            problem = await running.problem(question, **fields)
            assert (problem["status"], problem["code"]) == (400, "bad-query"), (question, fields)
            assert problem.get("pointer", "") == pointer, (question, fields)

    with_reporter(tmp_path, LogBus(), story)


# --- one task ------------------------------------------------------------------------------------------------


def test_a_task_is_shown_alike_while_open_and_after_it_ended(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = bus.planned("web01", "web02")
    bus.dispatched(task_id, "web01", "web02")
    bus.ended(task_id, "web01")

    async def story(running: Running) -> None:
        assert await running.data("task", task_id=task_id) == as_json(view.task_view(bus.tasks.by_id[task_id]))
        bus.ended(task_id, "web02", outcome=Outcome.FAILURE, exit_code=3, tail="boom 17\n", error="")
        bus.task_ended(task_id)
        shown = await running.data("task", task_id=task_id)
        assert shown == as_json(view.task_view(bus.tasks.by_id[task_id]))
        assert shown["failures"][0]["line"] == "boom <n>"
        await running.data("sql", query="select 1")  # the rows are written
        assert await running.data("task", task_id=task_id) == shown

    with_reporter(tmp_path, bus, story)


def rolled_out(bus: LogBus) -> tuple[str, list[int]]:
    """Tell a rollout with all that admission knows; return its id, and where its story may be looked at."""
    seqs = []
    task_id = bus.planned(
        "web01", "web02", "web03", waves=(1, 1, 1), rollout=Rollout(waves=("1", "2"), approve=(2,)), failures_max="1",
        retry=Retry(attempts_max=2, on=(Outcome.FAILURE,), backoff_ms=0), priority=8, queue="night", key="deploy",
    )
    for step in (
        lambda: bus.waiting(task_id, "slot", "web01", message="all 4 slots of the host are taken"),
        lambda: bus.dispatched(task_id, "web01"),
        lambda: bus.ended(task_id, "web01", outcome=Outcome.FAILURE),
        lambda: bus.waiting(task_id, "backoff", "web01"),
        lambda: bus.dispatched(task_id, "web01", attempt=2),
        lambda: bus.ended(task_id, "web01", attempt=2),
        lambda: bus.waiting(task_id, "approval"),
        lambda: bus.add(control_events.PauseRequested(task_id, "look first")),
        lambda: bus.dispatched(task_id, "web02"),
        lambda: bus.add(control_events.ResumeRequested(task_id)),
        lambda: bus.dispatched(task_id, "web02"),
        lambda: bus.add(control_events.TaskApproved(task_id, 2)),
        lambda: bus.dispatched(task_id, "web02"),
        lambda: bus.ended(task_id, "web02", outcome=Outcome.FAILURE),
        lambda: bus.add(events.TasksHalted((events.Halt(task_id, 2, 1, 2),))),
        lambda: bus.add(control_events.SkipRequested(task_id, ("h-web02",), "it is gone")),
        lambda: bus.ended(task_id, "web03", outcome=Outcome.SKIPPED, decided=True, ran=Ran.NO, duration_ms=None),
        lambda: bus.task_ended(task_id),
    ):
        bus.now_ms += 1000
        seqs.append(step())
    return task_id, seqs


def test_a_rollout_is_shown_alike_from_memory_from_rows_and_in_the_past(tmp_path: Path) -> None:
    bus = LogBus()
    task_id, seqs = rolled_out(bus)
    pictures = {seq: _folded_to(bus, seq) for seq in seqs}

    async def story(running: Running) -> None:
        shown = await running.data("task", task_id=task_id)
        assert shown == as_json(view.task_view(bus.tasks.by_id[task_id]))
        assert [(wave["state"], wave["begun_at"] is None) for wave in shown["waves"]] == [("ended", False), ("ended", False), ("ended", True)]
        assert (shown["priority"], shown["queue"], shown["key"], shown["hold"], shown["failures_max"]) == (8, "night", "deploy", None, 1)
        assert [(command["wave"], [wait["reason"] for wait in command["waits"]]) for command in shown["commands"]] == [
            (1, ["slot", "backoff"]), (2, ["approval"]), (3, ["approval"]),
        ]
        await running.data("sql", query="select 1")  # the rows are written
        assert await running.data("task", task_id=task_id) == shown
        assert (await running.data("commands", task_id=task_id))["items"] == shown["commands"]
        for seq, expected in pictures.items():
            assert await running.data("task", task_id=task_id, as_of_seq=seq) == expected, seq
            hold = expected["hold"] and expected["hold"]["kind"]
            assert (await running.data("tasks", as_of_seq=seq))["items"][0]["hold"] == hold, seq
        holds = [picture["hold"] and picture["hold"]["kind"] for picture in pictures.values()]
        assert holds == [None] * 7 + ["paused"] * 2 + [None] * 5 + ["halted"] * 3 + [None]

    with_reporter(tmp_path, bus, story)


STOPS: list[Callable[[str], events.Data]] = [
    control_events.CancelRequested, lambda task_id: control_events.CancelRequested(task_id, ("h-web01",)),
    lambda task_id: control_events.AllCancelRequested("everything"), control_events.AbortRequested,
    lambda task_id: control_events.SkipRequested(task_id, ("h-web01",)), lambda task_id: events.TasksTimedOut((task_id,)),
    lambda task_id: events.TasksReplaced((events.Replacement(task_id, task_id),)),
]


@pytest.mark.parametrize("stop", STOPS)
def test_a_command_that_waited_for_a_retry_has_ended_with_the_event_that_stopped_it(
    tmp_path: Path, stop: Callable[[str], events.Data]
) -> None:
    bus = LogBus()
    retry = Retry(attempts_max=2, on=(Outcome.FAILURE,), backoff_ms=60_000)
    task_id = bus.planned("web01", "web02", retry=retry)
    bus.dispatched(task_id, "web01", "web02")
    bus.ended(task_id, "web01", outcome=Outcome.FAILURE)
    stopped = bus.add(stop(task_id))
    after = bus.ended(task_id, "web02", outcome=Outcome.SUCCESS)
    query = "select host, state, ended_seq from commands order by host"

    async def story(running: Running) -> None:
        expected = [["web01", "ended", stopped], ["web02", "ended", after]]
        assert (await running.data("sql", query=query))["rows"] == expected
        bus.task_ended(task_id)
        assert (await running.data("sql", query=query))["rows"] == expected

    with_reporter(tmp_path, bus, story)


def test_an_end_that_comes_after_the_task_ended_is_shown_as_late_and_its_repetition_is_not(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = bus.planned("web01")
    bus.dispatched(task_id, "web01")
    bus.ended(task_id, "web01", outcome=Outcome.LOST, ran=Ran.UNKNOWN, decided=True, ended_ms=None, duration_ms=None)
    bus.task_ended(task_id)

    async def story(running: Running) -> None:
        assert (await running.data("task", task_id=task_id))["commands"][0]["attempts"][0]["late"] == []
        await running.data("sql", query="select 1")
        seq = bus.ended(task_id, "web01", ended_ms=bus.now_ms)
        bus.ended(task_id, "web01", ended_ms=bus.now_ms)
        bus.ended(task_id, "web01", attempt=7)
        shown = await running.data("task", task_id=task_id)
        assert [late["seq"] for late in shown["commands"][0]["attempts"][0]["late"]] == [seq]
        assert shown == as_json(view.task_view(bus.tasks.by_id[task_id]))
        rows = (await running.data("sql", query="select task_id, outcome from late_results"))["rows"]
        assert rows == [[task_id, "success"]]

    with_reporter(tmp_path, bus, story)


def test_a_task_is_found_by_the_end_of_its_id_and_as_the_last_one(tmp_path: Path) -> None:
    bus = LogBus()
    ended, open_one = bus.whole("web01"), bus.planned("web01")

    async def story(running: Running) -> None:
        assert (await running.data("task", task_id=ended[-12:]))["task_id"] == ended
        assert (await running.data("task", task_id=open_one[-8:].upper()))["task_id"] == open_one
        assert (await running.data("progress", task_id="last"))["task_id"] == open_one
        assert (await running.problem("task", task_id="ffffffffff"))["code"] == "task-not-found"
        assert (await running.problem("task", task_id=bus.make_id()))["code"] == "task-not-found"

    with_reporter(tmp_path, bus, story)


def test_the_end_of_an_id_that_fits_several_tasks_names_them(tmp_path: Path) -> None:
    bus = LogBus()
    one = bus.submitted()
    twin = one[:8] + "-" + f"{int(one[9:13], 16) ^ 1:04x}" + one[13:]
    spec = bus.tasks.by_id[one].spec
    bus.add(events.TasksSubmitted((events.Submission(twin, spec),)))

    async def story(running: Running) -> None:
        problem = await running.problem("task", task_id=one[-10:])
        assert (problem["status"], problem["code"]) == (409, "ambiguous")
        assert one in problem["message"]
        assert twin in problem["message"]

    with_reporter(tmp_path, bus, story)


def test_last_says_so_when_there_is_no_task(tmp_path: Path) -> None:
    async def story(running: Running) -> None:
        problem = await running.problem("task", task_id="last")
        assert (problem["status"], problem["code"]) == (404, "task-not-found")

    with_reporter(tmp_path, LogBus(), story)


def test_commands_come_by_host_name_in_pages_with_filters_open_and_ended(tmp_path: Path) -> None:
    bus = LogBus()
    names = [f"web{number:02d}" for number in (5, 3, 1, 4, 2)]
    task_id = bus.planned(*names)
    bus.dispatched(task_id, *names)
    bus.ended(task_id, "web03", outcome=Outcome.FAILURE, exit_code=1)
    bus.ended(task_id, "web01", "web02")

    async def story(running: Running) -> None:
        async def walk(**fields: Any) -> list[str]:
            found, cursor = [], ""
            while True:
                page = await running.data("commands", task_id=task_id, cursor=cursor, **fields)
                found += [item["host"] for item in page["items"]]
                cursor = page["next_cursor"]
                if not cursor:
                    return found

        assert await walk(limit=2) == sorted(names)
        assert await walk(state="dispatched") == ["web04", "web05"]
        bus.ended(task_id, "web04", "web05")
        bus.task_ended(task_id)
        for _ in range(2):
            assert await walk(limit=2) == sorted(names)
            assert await walk(outcome="failure") == ["web03"]
            assert await walk(host="h-web05") == ["web05"]
            assert await walk(host="nowhere") == []
            await running.data("sql", query="select 1")
        page = await running.data("commands", task_id=task_id, host="web03")
        assert page["items"] == as_json([view.command_view(bus.tasks.by_id[task_id].commands["h-web03"])])

    with_reporter(tmp_path, bus, story)


# --- progress ------------------------------------------------------------------------------------------------


def test_progress_estimates_from_what_has_ended_or_from_what_ran_the_same_before(tmp_path: Path) -> None:
    bus = LogBus()
    fresh = bus.planned("web01", argv=("sleep", "5"))
    bus.dispatched(fresh, "web01")

    async def story(running: Running) -> None:
        progress = await running.data("progress", task_id=fresh)
        assert (progress["percent"], progress["eta_seconds"], progress["counts"]) == (0.0, None, {"dispatched": 1})
        bus.ended(fresh, "web01", duration_ms=4000)
        bus.task_ended(fresh)
        done = await running.data("progress", task_id=fresh)
        assert (done["state"], done["outcome"], done["percent"], done["eta_seconds"]) == ("ended", "success", 100.0, 0.0)
        await running.data("sql", query="select 1")

        again = bus.planned("web01", "web02", "web03", argv=("sleep", "5"), parallel=1)
        bus.dispatched(again, "web01")
        bus.now_ms += 1000
        assert (await running.data("progress", task_id=again))["eta_seconds"] == 11.0
        bus.ended(again, "web01", duration_ms=2000)
        bus.dispatched(again, "web02")
        progress = await running.data("progress", task_id=again)
        assert (progress["ended"], progress["percent"], progress["eta_seconds"]) == (1, 33.3, 4.0)

    with_reporter(tmp_path, bus, story)


def test_progress_estimates_wave_after_wave_and_not_at_all_while_a_person_is_waited_for(tmp_path: Path) -> None:
    bus = LogBus()
    names = [f"web{number:02d}" for number in range(10)]
    task_id = bus.planned(*names, waves=(1, 2, 7), rollout=Rollout(waves=("1", "3"), soak_ms=60_000, approve=(3,)), parallel=3)

    async def story(running: Running) -> None:
        async def eta() -> float | None:
            return (await running.data("progress", task_id=task_id))["eta_seconds"]

        bus.dispatched(task_id, names[0])
        bus.ended(task_id, names[0], duration_ms=10_000)
        assert await eta() is None, "the third wave waits for a person"
        bus.add(control_events.TaskApproved(task_id, 3))
        assert await eta() == 60 + 10 + 60 + 30, "both at once, then seven of which three may run at once"
        bus.now_ms += 20_000
        assert await eta() == 40 + 10 + 60 + 30
        bus.now_ms += 40_000
        bus.dispatched(task_id, names[1])
        assert await eta() == 10 + 10 + 60 + 30, "one runs; the other waits, by all that is known behind it"
        bus.add(control_events.PauseRequested(task_id))
        assert await eta() is None
        bus.add(control_events.ResumeRequested(task_id))
        bus.dispatched(task_id, names[2])
        assert await eta() == 10 + 60 + 30

    with_reporter(tmp_path, bus, story)


# --- events --------------------------------------------------------------------------------------------------


def test_events_of_admission_are_found_by_every_task_and_host_that_they_name(tmp_path: Path) -> None:
    bus = LogBus()
    bus.enrolled("web01", "web02")
    one, other = bus.planned("web01"), bus.planned("web02")
    told: dict[int, tuple[set[str], set[str]]] = {}
    for data, tasks, hosts in (
        (control_events.PauseRequested(one), {one}, set()), (control_events.ResumeRequested(one), {one}, set()),
        (control_events.TaskApproved(other, 2), {other}, set()), (events.TasksHalted((events.Halt(one, 2, 1, 1),)), {one}, set()),
        (events.TasksReplaced((events.Replacement(one, other),)), {one, other}, set()),
        (control_events.SkipRequested(other, ("h-web02",)), {other}, {"web02"}), (control_events.AbortRequested(other), {other}, set()),
        (_waits((one, ("h-web01", "h-web02")), (other, ())), {one, other}, {"web01", "web02"}),
        (control_events.AllCancelRequested(), set(), set()), (policy_events.FleetFrozen("f1", "all", "incident"), set(), set()),
    ):
        told[bus.add(data)] = (tasks, hosts)
    first = min(told) - 1

    async def story(running: Running) -> None:
        async def seqs(**fields: Any) -> list[int]:
            return [item["seq"] for item in (await running.data("events", after_seq=first, **fields))["items"]]

        for task_id in (one, other):
            assert await seqs(task_id=task_id) == [seq for seq, (tasks, _) in told.items() if task_id in tasks]
        for name in ("web01", "web02"):
            assert await seqs(host=name) == [seq for seq, (_, hosts) in told.items() if name in hosts]

    with_reporter(tmp_path, bus, story)


def _waits(*commands: tuple[str, tuple[str, ...]]) -> events.CommandsWaiting:
    named = tuple(events.WaitingCommands(task_id, host_ids) for task_id, host_ids in commands)
    return events.CommandsWaiting((events.WaitingFor("slot", "all are taken", named),))


def test_events_are_the_stored_ones_in_order_by_task_host_and_type(tmp_path: Path) -> None:
    bus = LogBus()
    bus.enrolled("web01", "web02")
    one, other = bus.whole("web01"), bus.whole("web02")
    bus.add(control_events.CancelRequested(one))

    async def story(running: Running) -> None:
        page = await running.data("events", task_id=one)
        kinds = [item["event"]["type"].split(".", 1)[1] for item in page["items"]]
        assert kinds == [
            "task.submitted.v1", "task.planned.v1", "attempt.dispatched.v1", "attempt.ended.v1", "task.ended.v1",
            "task.cancel-requested.v1",
        ]
        assert page["items"][0]["event"]["authid"] == "ada"
        assert [item["seq"] for item in page["items"]] == [3, 4, 5, 6, 7, 13]
        of_host = await running.data("events", host="web02")
        assert [item["seq"] for item in of_host["items"]] == [2, 9, 10, 11]
        ends = await running.data("events", type="attempt.ended", task_id=other[-12:])
        assert [item["seq"] for item in ends["items"]] == [11]

    with_reporter(tmp_path, bus, story)


def test_events_are_paged_by_sequence(tmp_path: Path) -> None:
    bus = LogBus()
    for _ in range(3):
        bus.whole("web01")

    async def story(running: Running) -> None:
        seen: list[int] = []
        after = 0
        while True:
            page = await running.data("events", after_seq=after, limit=4)
            seen += [item["seq"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            after = int(page["next_cursor"])
        assert seen == list(range(1, 16))
        assert (await running.problem("events", task_id=bus.make_id()))["code"] == "task-not-found"

    with_reporter(tmp_path, bus, story)


# --- hosts ---------------------------------------------------------------------------------------------------


def test_hosts_are_shown_as_the_log_knows_them(tmp_path: Path) -> None:
    bus = LogBus()
    bus.enrolled("web02", "web01", labels={"env": "prod"})
    bus.enrolled("db01")
    bus.add(host_events.SessionsOpened((host_events.Session("h-web01", 1, "n", "boot", "0.1", 0),)))
    bus.add(host_events.HostsOnline((host_events.HostEpoch("h-web01", 1),)))
    bus.add(host_events.MaintenanceSet("h-web02", on=True, reason="disk"))
    bus.add(host_events.ReportsRefused("h-web02", 1, {"token": 2}))
    bus.add(host_events.FactsChanged("h-web01", {"cpus": 2}))
    bus.add(host_events.SessionsRefused((host_events.SessionRefusal("h-db01", "ticket", "a copied key"),)))
    running_task = bus.planned("web01")
    bus.dispatched(running_task, "web01")

    async def story(running: Running) -> None:
        page = await running.data("hosts")
        assert [(one["name"], one["presence"], one["running"]) for one in page["items"]] == [
            ("db01", "refused", 0), ("web01", "online", 1), ("web02", "joined", 0)
        ]
        first = await running.data("hosts", limit=2)
        rest = await running.data("hosts", limit=2, cursor=first["next_cursor"])
        assert [one["name"] for one in rest["items"]] == ["web02"]
        assert [one["name"] for one in (await running.data("hosts", presence="online"))["items"]] == ["web01"]
        assert [one["name"] for one in (await running.data("hosts", label="env=prod"))["items"]] == ["web01", "web02"]
        assert [one["name"] for one in (await running.data("hosts", label="env"))["items"]] == ["web01", "web02"]
        assert (await running.data("hosts", label="env=dev"))["items"] == []
        assert [one["name"] for one in (await running.data("hosts", name="web*"))["items"]] == ["web01", "web02"]
        web01 = await running.data("host", name="web01")
        assert (web01["facts"], web01["epoch"], web01["version"]) == ({"cpus": 2}, 1, "0.1")
        web02 = await running.data("host", name="h-web02")
        assert (web02["maintenance_reason"], web02["refusals"][0]["code"]) == ("disk", "reports-refused")
        assert (await running.data("host", name="db01"))["refused_reason"] == "a copied key"
        assert (await running.problem("host", name="nope"))["code"] == "host-not-found"

    with_reporter(tmp_path, bus, story)


# --- statistics ----------------------------------------------------------------------------------------------


def test_statistics_count_ended_commands_also_of_tasks_that_run(tmp_path: Path) -> None:
    bus = LogBus()
    bus.whole("web01", "web02")
    bus.whole("web01", outcome=Outcome.FAILURE)
    half = bus.planned("web01", "web02")
    bus.dispatched(half, "web01", "web02")
    bus.ended(half, "web02", duration_ms=500)

    async def story(running: Running) -> None:
        for _ in range(2):
            rows = (await running.data("stats", by="kind"))["items"]
            assert rows == [{
                "key": "shell", "commands": 4, "outcomes": {"failure": 1, "success": 3}, "success_ratio": 0.75,
                "p50_seconds": 1.5, "p95_seconds": 1.5, "p99_seconds": 1.5,
            }]
            by_host = (await running.data("stats", by="host"))["items"]
            assert [(row["key"], row["commands"]) for row in by_host] == [("web01", 2), ("web02", 2)]
            by_day = (await running.data("stats", by="day"))["items"]
            assert [(row["key"], row["commands"]) for row in by_day] == [("2026-09-21", 4)]
            await running.data("sql", query="select 1")
        assert (await running.data("stats", host="web02"))["items"][0]["commands"] == 2
        assert (await running.data("stats", since_ms=bus.now_ms + 1))["items"] == []
        bus.ended(half, "web01")
        bus.task_ended(half)
        assert (await running.data("stats"))["items"][0]["commands"] == 5

    with_reporter(tmp_path, bus, story)


# --- which state ---------------------------------------------------------------------------------------------


def test_a_question_waits_for_the_sequence_it_needs_and_says_when_that_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = LogBus()

    async def story(running: Running) -> None:
        waiting = asyncio.create_task(running.ask("tasks", at_least_seq=1))
        await asyncio.sleep(0)
        task_id = bus.submitted()
        answer = await waiting
        assert [item["task_id"] for item in answer.data["items"]] == [task_id]
        assert answer.seq == 1
        problem = await running.problem("tasks", at_least_seq=99)
        assert (problem["status"], problem["code"]) == (504, "behind")

    monkeypatch.setattr(desk, "BEHIND_SECONDS_MAX", 0.2)
    with_reporter(tmp_path, bus, story)


def test_the_past_is_shown_as_it_was_at_every_sequence(tmp_path: Path) -> None:
    bus = LogBus()
    bus.enrolled("web01")
    task_id = bus.planned("web01", "web02")
    bus.dispatched(task_id, "web01", "web02")
    bus.add(host_events.MaintenanceSet("h-web01", on=True, reason="disk"))
    bus.ended(task_id, "web01")
    bus.ended(task_id, "web02", outcome=Outcome.LOST, ran=Ran.UNKNOWN, decided=True)
    bus.task_ended(task_id)
    bus.ended(task_id, "web02", outcome=Outcome.FAILURE, exit_code=4)
    last = bus.store.state("EVENTS").last_seq
    pictures = [_folded_to(bus, seq) for seq in range(1, last + 1)]

    async def story(running: Running) -> None:
        await running.data("sql", query="select 1")
        for seq, expected in enumerate(pictures, 1):
            listed = await running.ask("tasks", as_of_seq=seq)
            assert listed.seq == seq
            if expected is None:
                assert listed.data["items"] == []
                assert (await running.problem("task", task_id=task_id, as_of_seq=seq))["status"] == 404
                continue
            shown = await running.data("task", task_id=task_id, as_of_seq=seq)
            assert shown == expected, seq
            assert listed.data["items"][0]["state"] == expected["state"]
            assert listed.data["items"][0]["counts"] == expected["counts"]
            commands = (await running.data("commands", task_id="last", as_of_seq=seq))["items"]
            assert commands == expected["commands"]
            progress = await running.data("progress", task_id=task_id[-12:], as_of_seq=seq)
            assert (progress["state"], progress["counts"]) == (expected["state"], expected["counts"])
            ended = sum(command["state"] == "ended" for command in expected["commands"])
            rows = (await running.data("stats", as_of_seq=seq))["items"]
            assert sum(row["commands"] for row in rows) == ended
            counted = await running.data("sql", query="select count(*) from commands where state = 'ended'", as_of_seq=seq)
            assert counted["rows"] == [[ended]]
            host = await running.data("host", name="web01", as_of_seq=seq)
            assert host["maintenance"] == (seq >= 5)

    with_reporter(tmp_path, bus, story)


def _folded_to(bus: LogBus, seq: int) -> Any:
    tasks = records.Tasks()
    for stored in bus.store.read("EVENTS", 1, seq):
        lifecycle.apply(tasks, codec.decode(stored.body, seq=stored.seq, subject=stored.subject, time_ms=stored.time_ms))
    found = list(tasks.by_id.values())
    return as_json(view.task_view(found[0])) if found else None


def test_what_moves_a_task_without_naming_it_moves_it_in_the_past_too(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = bus.planned("web01", "web02")
    decided = bus.frozen() - 1
    bus.dispatched(task_id, "web01", decided_seq=decided)
    bus.add(policy_events.FleetThawed("f1"))
    bus.dispatched(task_id, "web02", decided_seq=decided + 1)
    bus.add(control_events.AllCancelRequested("everything"))
    last = bus.store.state("EVENTS").last_seq
    pictures = {seq: _folded_to(bus, seq) for seq in range(1, last + 1)}
    assert pictures[last]["counts"] == {"dispatched": 1, "waiting": 1}

    async def story(running: Running) -> None:
        await running.data("sql", query="select 1")
        for seq, expected in pictures.items():
            assert await running.data("task", task_id=task_id, as_of_seq=seq) == expected, seq
            listed = (await running.data("tasks", as_of_seq=seq))["items"]
            assert listed[0]["counts"] == expected["counts"], seq
            stop = (await running.data("sql", query="select stop from tasks", as_of_seq=seq))["rows"]
            assert stop == [[expected["stop"]]], seq

    with_reporter(tmp_path, bus, story)


def test_the_past_is_found_by_time_too(tmp_path: Path) -> None:
    bus = LogBus()
    first = bus.whole("web01")
    then_ms = bus.now_ms
    bus.now_ms += 60_000
    bus.whole("web01")

    async def story(running: Running) -> None:
        answer = await running.ask("tasks", as_of_ms=then_ms)
        assert [item["task_id"] for item in answer.data["items"]] == [first]
        assert answer.seq == 5
        assert (await running.ask("tasks", as_of_ms=1)).data["items"] == []
        page = await running.data("events", as_of_ms=then_ms)
        assert [item["seq"] for item in page["items"]] == [1, 2, 3, 4, 5]

    with_reporter(tmp_path, bus, story)


# --- sizes ---------------------------------------------------------------------------------------------------


def test_an_answer_larger_than_a_bus_message_arrives_whole(tmp_path: Path) -> None:
    bus = LogBus()
    names = [f"web{number:04d}" for number in range(2000)]
    parts = [tuple(events.PlannedHost(f"h-{name}", name) for name in names[start : start + 1000]) for start in (0, 1000)]
    task_id = bus.submitted()
    bus.add(*(events.TasksPlanned((events.Plan(task_id, part, "hash", number, 2),)) for number, part in enumerate(parts)))
    bus.dispatched(task_id, *names)
    for start in range(0, 2000, 250):
        bus.ended(task_id, *names[start : start + 250], outcome=Outcome.FAILURE, exit_code=1, tail="no such file\n" * 40)
    bus.task_ended(task_id)

    async def story(running: Running) -> None:
        shown = await running.data("task", task_id=task_id)
        assert len(msgspec.json.encode(shown)) > BUS_MESSAGE_BYTES_MAX
        assert shown == as_json(view.task_view(bus.tasks.by_id[task_id]))

    with_reporter(tmp_path, bus, story)


# --- when it begins ------------------------------------------------------------------------------------------


def test_whoever_gets_an_answer_to_one_question_may_ask_every_other_one_at_that_moment(tmp_path: Path) -> None:
    class Unconfirmed(LogBus):
        """A bus that takes subscriptions at once, and confirms none before all are there."""

        def __init__(self) -> None:
            super().__init__()
            self.heard: set[str] = set()
            self.all_heard = asyncio.Event()

        async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Callable[[], Awaitable[None]]:
            stop = await super().subscribe(subject, handler, queue)
            self.heard.add(subject)
            if self.heard >= {subjects.ask("reporter", name) for name in QUESTIONS}:
                self.all_heard.set()
            await self.all_heard.wait()
            return stop

    bus = Unconfirmed()

    async def story(running: Running) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await bus.all_heard.wait()
        assert (await running.data("tasks"))["items"] == []

    with_reporter(tmp_path, bus, story)

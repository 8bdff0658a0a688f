"""SQL for people: views over what is ended and what is open, and walls around them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from fleetlog_reporter.answers import table
from fleetlog_schemas import control_events, host_events, policy_events
from fleetlog_schemas.outcomes import Outcome
from fleetlog_testing.reporter_rig import LogBus, Running, reporter


def test_views_join_what_has_ended_with_what_is_open(tmp_path: Path) -> None:
    bus = LogBus()
    bus.enrolled("web01", labels={"env": "prod"})
    done = bus.whole("web01", "web02", outcome=Outcome.FAILURE, tags=("blue",))
    still = bus.planned("web01")
    bus.dispatched(still, "web01")

    async def story() -> None:
        async with reporter(bus, tmp_path) as running:
            async def rows(query: str, **fields: Any) -> list[list[Any]]:
                return (await running.data("sql", query=query, **fields))["rows"]

            assert await rows("select task_id, state from tasks order by submitted_seq") == [[done, "ended"], [still, "planned"]]
            assert await rows("select tags, counts from tasks where state = 'ended'") == [[["blue"], '{"failure":2}']]
            assert await rows("from commands select host, state, outcome, attempts order by ended_seq nulls last, host") == [
                ["web01", "ended", "failure", 1], ["web02", "ended", "failure", 1], ["web01", "dispatched", None, 1],
            ]
            assert await rows("select count(*), count(*) filter (state = 'ended') from attempts") == [[3, 2]]
            assert await rows("select name, presence, labels ->> 'env', running from hosts") == [["web01", "joined", "prod", 1]]
            assert await rows("select task_id from executions") == [[done]]
            assert await rows("select day, kind, host, failure, success_ratio, p50_seconds from daily order by host") == [
                ["2026-09-21", "shell", "web01", 1, 0.0, 1.5], ["2026-09-21", "shell", "web02", 1, 0.0, 1.5],
            ]
            assert await rows("select event ->> '$.authid' from events where type like '%submitted%'") == [["ada"], ["ada"]]
            described = await running.data("sql", query="describe tasks")
            assert "duration_seconds" in [row[0] for row in described["rows"]]
            for query in ("show tables", "summarize tasks", "explain select * from tasks", "values (1)", "with a as (select 1) from a"):
                assert await rows(query), query

    asyncio.run(story())


def test_views_show_what_narrows_admission_and_what_waits_for_it_as_it_was_at_any_moment(tmp_path: Path) -> None:
    bus = LogBus()
    window = policy_events.Window("maintenance", "env=prod", (5, 6), "22:00", 90, "Europe/Berlin")
    before = bus.add(policy_events.WindowSet("weekend", window, "as agreed"))
    frozen = bus.frozen("f1", "env=prod", "incident 4711")
    bus.add(policy_events.QueueLimited("night", 2), policy_events.QueueLimited("day", 5))
    task_id = bus.planned("web01", "web02", "web03", queue="night", key="deploy", priority=8, waves=(2, 1))
    bus.dispatched(task_id, "web01")
    bus.waiting(task_id, "slot", message='nul \x00 and "waits": in it')
    bus.now_ms += 2000
    waits = bus.waiting(task_id, "freeze", "web02", message="frozen by ada")
    bus.now_ms += 1000
    bus.add(control_events.PauseRequested(task_id, "look first"))
    held = bus.add(policy_events.FleetThawed("f1"), policy_events.WindowRemoved("weekend"), policy_events.QueueLimited("day", 0))
    bus.add(control_events.ResumeRequested(task_id))
    bus.dispatched(task_id, "web02")
    bus.ended(task_id, "web01", "web02")
    bus.dispatched(task_id, "web03")
    bus.ended(task_id, "web03")
    over = bus.task_ended(task_id)

    async def story() -> None:
        async with reporter(bus, tmp_path) as running:
            async def rows(query: str, seq: int) -> list[list[Any]]:
                return (await running.data("sql", query=query, as_of_seq=seq))["rows"]

            start = "2026-09-21T14:13:20.000Z"
            freezes, windows, queues = "select * from freezes", "select * from windows", "select * from queues order by queue"
            for table_of in (freezes, windows):
                assert await rows(table_of, held) == await rows(table_of, over) == await rows(table_of, before - 1) == []
            assert await rows(freezes, waits) == [["f1", "env=prod", "incident 4711", "ada", start]]
            assert await rows(freezes, frozen - 1) == []
            assert await rows(windows, waits) == [
                ["weekend", "maintenance", "env=prod", [5, 6], "22:00", 90, "Europe/Berlin", "as agreed", "ada", start]
            ]
            assert await rows(queues, waits) == [["day", 5, 0, 0], ["night", 2, 1, 2]]
            assert await rows(queues, over) == [["night", 2, 0, 0]]

            tasks = "select priority, queue, key, hold, hold_reason from tasks"
            assert await rows(tasks, held) == [[8, "night", "deploy", "paused", "look first"]]
            assert await rows(tasks, over) == [[8, "night", "deploy", None, None]]
            commands = "select host, wave, reason, reason_since from commands order by host"
            later = "2026-09-21T14:13:22.000Z"
            assert await rows(commands, held) == [["web01", 1, None, None], ["web02", 1, "freeze", later], ["web03", 2, "slot", start]]
            assert await rows(commands, over) == [["web01", 1, None, None], ["web02", 1, None, None], ["web03", 2, None, None]]
            noted = "select * from waits order by host, since"
            slot, end = 'nul \x00 and "waits": in it', "2026-09-21T14:13:23.000Z"
            assert await rows(noted, held) == [
                [task_id, "h-web02", "web02", "slot", slot, start, later],
                [task_id, "h-web02", "web02", "freeze", "frozen by ada", later, None],
                [task_id, "h-web03", "web03", "slot", slot, start, None],
            ]
            assert [row[-1] for row in await rows(noted, over)] == [later, end, end]
            # What people ask without a moment is the state now.
            now = await running.data("sql", query="select (select count(*) from waits), (select count(*) from freezes), (select count(*) from windows), (select count(*) from queues)")
            assert now["rows"] == [[3, 0, 0, 1]]

    asyncio.run(story())


def test_queues_with_open_tasks_are_shown_also_without_a_limit(tmp_path: Path) -> None:
    bus = LogBus()
    bus.planned("web01")
    bus.whole("web01", queue="over")

    async def story() -> None:
        async with reporter(bus, tmp_path) as running:
            assert (await running.data("sql", query="from queues"))["rows"] == [["default", None, 0, 1]]
            verified = await running.data("verify")
            assert verified["equal"], verified

    asyncio.run(story())


def test_values_come_as_json_has_them(tmp_path: Path) -> None:
    query = """select 1::hugeint as a, 1.5::decimal(4,2) as b, 'x'::blob as c, timestamp '2026-01-02 03:04:05' as d, date '2026-01-02' as e,
        interval 90 second as f, 'nan'::double as g, {'k': [1, null]} as h, map {'m': true} as i, null as j,
        '00000000-0000-0000-0000-000000000001'::uuid as k, time '01:02:03' as l"""

    async def story() -> None:
        async with reporter(LogBus(), tmp_path) as running:
            found = await running.data("sql", query=query)
            assert found["columns"] == list("abcdefghijkl")
            assert found["rows"] == [[
                1, 1.5, "eA==", "2026-01-02T03:04:05.000Z", "2026-01-02", 90.0, "nan", {"k": [1, None]}, {"m": True}, None,
                "00000000-0000-0000-0000-000000000001", "01:02:03",
            ]]

    asyncio.run(story())


ESCAPES = [
    "select * from read_csv('/etc/passwd')", "select * from '/etc/passwd'", "select * from read_text('/etc/hostname')",
    "select * from glob('/*')", "select * from sniff_csv('/etc/passwd')", "from parquet_scan('x')",
    "copy tasks to '/tmp/out.csv'", "copy (select 1) to '/tmp/out.csv'", "attach '/tmp/other.db'", "install httpfs", "load httpfs",
    "pragma database_list", "set threads = 8", "set variable committed = 0", "reset threads", "select getenv('HOME')",
    "select 1; select 2", "select 1; drop table ended_tasks", "insert into ended_tasks (task_id) values ('x')",
    "update ended_tasks set outcome = 'success'", "delete from ended_tasks", "drop table ended_tasks", "create table x (a int)",
    "create temp table x (a int)", "create macro m(a) as a", "explain analyze insert into ended_tasks (task_id) values ('x')",
    "with x as (insert into ended_tasks (task_id) values ('x') returning *) from x", "call pragma_version()", "checkpoint", "vacuum",
    "export database '/tmp/all'", "import database '/tmp/all'", "prepare p as select 1", "execute p", "use main", "begin", "commit",
    "rollback", "detach x", "select * from query('delete from live_tasks')", "alter table ended_tasks add column x int",
    "select nextval('x')", "", "   -- nothing", "select", "this is not sql", "select * from no_such_table", "select \x00",
    "select repeat('x', 2000000000)", "SELECT RePeat ('x', 2000000000)", "select lpad('x', 2000000000, 'y')",
    "select format('{:>2000000000}', 1)", "select '\ud800'", "comment on table ended_tasks is 'x'", "kill 1",
]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every escape asked of one reporter, and what is true after them."""
    bus = LogBus()
    bus.whole("web01")
    bus.planned("web02")
    found: dict[str, Any] = {}

    async def story() -> None:
        async with reporter(bus, tmp_path_factory.mktemp("reporter")) as running:
            for query in ESCAPES:
                answer = await running.service.answer("sql", _question(query))
                found[query] = answer
            found["after"] = await running.data("sql", query="select count(*) from tasks")
            found["threads"] = await running.data("sql", query="select current_setting('threads')")
            found["verify"] = await running.data("verify")

    asyncio.run(story())
    return found


def _question(query: str) -> bytes:
    return json.dumps({"query": query}).encode()


@pytest.mark.parametrize("query", ESCAPES)
def test_what_would_leave_the_sandbox_is_refused(answered: dict[str, Any], query: str) -> None:
    answer = answered[query]
    assert b'"problem":{"status":4' in answer, answer
    assert b"Traceback" not in answer
    assert b"/root" not in answer


def test_nothing_is_changed_by_an_attempt_to_escape(answered: dict[str, Any]) -> None:
    assert answered["after"]["rows"] == [[2]]
    assert answered["threads"]["rows"] == [[2]]
    assert answered["verify"]["equal"]


def test_a_write_hidden_in_a_select_is_undone_even_on_temporary_tables(tmp_path: Path) -> None:
    bus = LogBus()
    bus.planned("web01")

    async def story() -> None:
        async with reporter(bus, tmp_path) as running:
            await running.ask("sql", query="with x as (delete from live_tasks returning *) select * from x, tasks")
            assert (await running.data("sql", query="select count(*) from tasks"))["rows"] == [[1]]

    asyncio.run(story())


def test_rows_and_bytes_are_limited_and_the_table_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "BYTES_MAX", 1000)

    async def story() -> None:
        async with reporter(LogBus(), tmp_path) as running:
            cut = await running.data("sql", query="from range(10)", limit=3)
            assert (cut["rows"], cut["truncated"]) == ([[0], [1], [2]], True)
            whole = await running.data("sql", query="from range(3)", limit=3)
            assert (len(whole["rows"]), whole["truncated"]) == (3, False)
            wide = await running.data("sql", query="select 'x' || range from range(10000)", limit=10_000)
            assert wide["truncated"]
            assert len(wide["rows"]) < 1000
            assert (await running.problem("sql", query="select 1", limit=10_001))["pointer"] == "/limit"

    asyncio.run(story())


def test_a_statement_that_runs_too_long_is_stopped_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "SECONDS_MAX", 0.3)
    bus = LogBus()

    async def story() -> None:
        async with reporter(bus, tmp_path) as running:
            slow = asyncio.create_task(running.ask("sql", query="select count(*) from range(100000000000)"))
            bus.add(host_events.HostEnrolled("h-x", "x", {}, "K"))
            await _answers_at_once(running)
            answer = await slow
            assert answer.problem is not None
            assert (answer.problem["status"], answer.problem["code"]) == (422, "sql-too-slow")
            assert (await running.data("sql", query="select 1"))["rows"] == [[1]]

    asyncio.run(story())


async def _answers_at_once(running: Running) -> None:
    """Other questions do not wait for people's SQL."""
    async with asyncio.timeout(2):
        assert (await running.data("stats"))["items"] == []

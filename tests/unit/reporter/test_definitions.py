"""Which definition a task came from: lists, statistics, records of ended tasks, and what was before; in any moment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fleetlog_reporter.store import VERSION
from fleetlog_schemas import definition_events
from fleetlog_schemas.definitions import Definition
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Origin, Shell, TaskSpec
from fleetlog_testing.reporter_rig import LogBus, Running, reporter


def told(bus: LogBus, definition_id: str, version: int, name: str = "report", **spec: Any) -> int:
    made = Definition(name, TaskSpec(payload=Shell(("df",)), **spec), description="how full")
    return bus.add(definition_events.DefinitionSet(definition_id, version, made, "because"))


def of(definition_id: str, version: int, name: str = "report", **parameters: Any) -> dict[str, Any]:
    return {"name": name, "key": definition_id, "definition": Origin(definition_id, version, name, parameters)}


def run(tmp_path: Path, bus: LogBus, story: Any) -> None:
    async def scenario() -> None:
        async with reporter(bus, tmp_path) as running:
            await story(running)

    asyncio.run(scenario())


def test_a_task_says_which_version_it_ran_and_is_found_by_the_definitions_name_and_id(tmp_path: Path) -> None:
    bus = LogBus()
    bus.enrolled("web01")
    told(bus, "d1", 1)
    first = bus.whole("web01", **of("d1", 1, path="/"))
    plain = bus.whole("web01")
    still = bus.planned("web01", **of("d1", 2, path="/var"))

    async def story(running: Running) -> None:
        async def found(**fields: Any) -> list[str]:
            return [item["task_id"] for item in (await running.data("tasks", **fields))["items"]]

        assert await found() == [still, plain, first]
        assert await found(definition="report") == await found(definition="d1") == [still, first]
        assert await found(definition="report", host="web01", state="ended") == [first]
        assert await found(definition="other") == []
        (item,) = (await running.data("tasks", definition="report", state="ended"))["items"]
        assert (item["definition"], item["version"]) == ("report", 1)
        assert (await running.data("task", task_id=first))["spec"]["definition"] == {
            "definition_id": "d1", "version": 1, "name": "report", "parameters": {"path": "/"},
        }

    run(tmp_path, bus, story)


def test_statistics_are_by_definition_and_of_one_definition(tmp_path: Path) -> None:
    bus = LogBus()
    bus.enrolled("web01", "web02")
    bus.whole("web01", "web02", outcome=Outcome.FAILURE, **of("d1", 1))
    bus.whole("web01", **of("d1", 2))
    bus.whole("web01", **of("d2", 1, "backup"))
    bus.whole("web01", "web02")

    async def story(running: Running) -> None:
        async def rows(**fields: Any) -> dict[str, tuple[int, dict[str, int]]]:
            items = (await running.data("stats", **fields))["items"]
            return {item["key"]: (item["commands"], item["outcomes"]) for item in items}

        by_definition = {"backup": (1, {"success": 1}), "report": (3, {"failure": 2, "success": 1})}
        assert await rows(by="definition") == by_definition
        assert await rows(by="definition", host="web02") == {"report": (1, {"failure": 1})}
        assert await rows(by="kind", definition="report") == {"shell": (3, {"failure": 2, "success": 1})}
        assert await rows(by="host", definition="d1") == {"web01": (2, {"failure": 1, "success": 1}), "web02": (1, {"failure": 1})}
        assert await rows(by="kind") == {"shell": (6, {"failure": 2, "success": 4})}

    run(tmp_path, bus, story)


def test_an_execution_is_the_record_of_an_ended_task_and_names_no_definition_that_is_gone(tmp_path: Path) -> None:
    bus = LogBus()
    bus.enrolled("web01", "web02")
    told(bus, "d1", 1)
    failed = bus.planned("web01", "web02", **of("d1", 1, path="/"))
    bus.now_ms += 500
    bus.dispatched(failed, "web01", "web02")
    bus.now_ms += 2000
    bus.ended(failed, "web01")
    bus.ended(failed, "web02", outcome=Outcome.ERROR, exit_code=None, error="no such program", traceback="Traceback: x")
    bus.task_ended(failed)
    before_removal = bus.store.state("EVENTS").last_seq
    bus.add(definition_events.DefinitionRemoved("d1", "report"))
    gave = bus.planned("web01")
    bus.dispatched(gave, "web01")
    bus.ended(gave, "web01", return_value='{"rows": 3}')
    bus.task_ended(gave)
    never = bus.planned("web01")
    bus.ended(never, "web01", outcome=Outcome.UNREACHED, ran=Ran.NO, exit_code=None, duration_ms=None, decided=True, error="offline")
    bus.task_ended(never)
    still = bus.planned("web01")

    async def story(running: Running) -> None:
        page = await running.data("executions")
        assert [item["task_id"] for item in page["items"]] == [never, gave, failed]
        unreached, good, bad = page["items"]
        assert (unreached["started_at"], unreached["duration_seconds"], unreached["error"]) == (None, None, "offline")
        assert (good["success"], good["return_value"], good["error"], good["definition"]) == (True, {"rows": 3}, None, None)
        assert {**bad, "task_id": "", "submitted_at": ""} == {
            "task_id": "", "kind": "shell", "name": "report", "success": False, "outcome": "error", "submitted_by": "ada",
            "definition": {"definition_id": "d1", "name": None, "version": 1, "parameters": {"path": "/"}},
            "submitted_at": "", "started_at": "2026-09-21T14:13:20.500Z", "completed_at": "2026-09-21T14:13:22.500Z",
            "duration_seconds": 2.0, "hosts": 2, "counts": {"error": 1, "success": 1}, "return_value": None,
            "error": "no such program", "traceback": "Traceback: x",
        }
        (then,) = (await running.data("executions", as_of_seq=before_removal))["items"]
        assert then["definition"]["name"] == "report", "it was there at that moment"
        assert await running.data("execution", task_id=failed) == bad
        assert (await running.problem("execution", task_id=still))["code"] == "not-ended"
        assert (await running.problem("execution", task_id="0" * 12))["code"] == "task-not-found"
        first = await running.data("executions", limit=1)
        rest = await running.data("executions", limit=5, cursor=first["next_cursor"])
        assert [item["task_id"] for item in rest["items"]] == [gave, failed]
        assert [item["task_id"] for item in (await running.data("executions", definition="report", outcome="error"))["items"]] == [failed]
        rows = (await running.data("sql", query="select task_id, definition, version, success, error from executions order by ended_seq"))["rows"]
        assert rows == [[failed, None, 1, False, "no such program"], [gave, None, None, True, None], [never, None, None, False, "offline"]]

    run(tmp_path, bus, story)


def test_the_view_of_definitions_has_the_newest_version_of_those_that_are_there(tmp_path: Path) -> None:
    bus = LogBus()
    told(bus, "d1", 1, target="all")
    before = told(bus, "d2", 1, "backup")
    told(bus, "d1", 2, target="web*", tags=("nightly",))
    told(bus, "d1", 2, target="void")
    bus.add(definition_events.DefinitionRemoved("d2", "backup"))

    async def story(running: Running) -> None:
        query = "select name, version, kind, target, tags, description, changed_by, message from definitions order by name"
        assert (await running.data("sql", query=query))["rows"] == [
            ["report", 2, "shell", "web*", ["nightly"], "how full", "ada", "because"],
        ]
        rows = (await running.data("sql", query=query, as_of_seq=before))["rows"]
        assert [row[:2] for row in rows] == [["backup", 1], ["report", 1]]

    run(tmp_path, bus, story)


def test_the_last_good_one_before_a_task_is_found(tmp_path: Path) -> None:
    bus = LogBus()
    bus.enrolled("web01")
    bus.whole("web01", **of("d1", 1))
    good = bus.whole("web01", **of("d1", 2))
    bad = bus.whole("web01", outcome=Outcome.FAILURE, **of("d1", 3))
    bus.whole("web01", **of("d1", 4))
    bus.whole("web01", **of("d2", 1))

    async def story(running: Running) -> None:
        found = await running.data("previous", definition_id="d1", outcome="success", before_id=bad)
        assert (found["task_id"], found["spec"]["definition"]["version"], found["hosts"]) == (good, 2, ["web01"])
        assert await running.data("previous", definition_id="d9") is None
        assert (await running.problem("previous"))["code"] == "bad-query"

    run(tmp_path, bus, story)


def test_the_tables_have_another_version_since_they_know_definitions() -> None:
    assert VERSION >= 3, "a file of an earlier version has no such columns: it is built anew"

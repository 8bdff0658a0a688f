"""Workflows over HTTP on a real bus: what is resolved and refused when one is submitted, cancelled in part, and run again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from fleetlog_runtime.shell.home import Home
from fleetlog_schemas import events, ids
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Shell, TaskSpec
from fleetlog_schemas.workflow_events import PartDecision, PartsDecided
from fleetlog_testing.gateway_rig import (
    Rig,
    dispatched,
    gateway_on,
    is_problem,
    log_of,
    reporter_on,
    spec_json,
)
from fleetlog_testing.nats import real_server

SPEC = TaskSpec(payload=Shell(argv=("true",)), target="all")
TASKS = "/api/v1/tasks"
PARAMETERS = {"path": {"default": "/"}, "file": {"required": True, "pattern": "[a-z]+"}, "token": {"type": "secret"}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with real_server(tmp_path_factory.mktemp("bus")) as made:
        yield made


def flow(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"payload": {"kind": "workflow", "parts": list(parts)}, **fields}


def part(name: str, *after: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "after": list(after), **({} if "definition" in fields else {"task": spec_json()}), **fields}


async def make(rig: Rig, name: str, spec: dict[str, Any], parameters: dict[str, Any]) -> str:
    definition = {"definition": {"name": name, "spec": spec, "parameters": parameters}, "message": ""}
    status, made = await rig.post("/api/v1/definitions", definition)
    assert status == 201, made
    return str(made["definition_id"])


async def stored_parts(rig: Rig, task_id: str) -> list[dict[str, Any]]:
    (submitted,) = await log_of(rig, task_id)
    return list(submitted["data"]["tasks"][0]["spec"]["payload"]["parts"])


def test_the_definition_of_a_part_is_put_into_the_workflow_when_it_is_submitted(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            definition_id = await make(rig, "deploy", spec_json(), PARAMETERS)
            by_name = part("put", "get", definition="deploy", target="web1", parameters={"path": "/srv"}, given={"file": {"part": "get"}})
            status, accepted = await rig.post(TASKS, flow(part("get"), by_name))
            assert status == 202, accepted
            _, stored = await stored_parts(rig, accepted["task_id"])
            assert (stored["task"]["target"], stored["task"]["key"]) == ("web1", definition_id)
            origin = {"definition_id": definition_id, "version": 1, "name": "deploy", "parameters": {"path": "/srv"}}
            assert stored["task"]["definition"] == origin
            assert stored["declared"] == {"file": {"required": True, "pattern": "[a-z]+"}}
            status, answer = await rig.post(TASKS, flow(part("a", definition="deploy")))
            assert is_problem((status, answer), 422, "invalid", "/payload/parts/0/parameters/file")
            await make(rig, "release", flow(part("get"), by_name), {})
            status, run = await rig.post("/api/v1/definitions/release/tasks", {})
            assert status == 202, run
            assert (await stored_parts(rig, run["task_id"]))[1]["task"]["definition"] == origin
            nested = await rig.post(TASKS, flow(part("a", definition="release")))
            assert is_problem(nested, 422, "invalid", "/payload/parts/0/definition")

    asyncio.run(scenario())


def test_what_is_no_workflow_is_refused_before_anything_is_stored(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            last = rig.gateway.tail.next_seq
            at = "/payload/parts"
            forged = part("a") | {"task": spec_json() | {"definition": {"definition_id": "d", "version": 1, "name": "x"}}}
            wrong: list[tuple[dict[str, Any], str]] = [
                (flow(part("a", "b"), part("b", "a")), f"{at}/0/after"),
                (flow(part("a", definition="nothing")), f"{at}/0/definition"),
                (flow(part("a", given={"v": {"parameter": "version"}})), f"{at}/0/given/v/parameter"),
                (flow(forged), f"{at}/0"),
                (flow(part("a")) | {"target": "web1"}, "/target"),
                ({"payload": {"kind": "workflow", "parts": [part("a")], "taken": {"a": {"task_id": "x", "outcome": "success"}}}},
                 "/payload/taken"),
            ]
            for body, pointer in wrong:
                assert is_problem(await rig.post(TASKS, body), 422, "invalid", pointer), pointer
            _, cycle = await rig.post(TASKS, wrong[0][0])
            assert "a → b → a" in cycle["detail"]
            taken_id = ids.made_id(rig.gateway.now_ms(), "part", "x", "a", 0)
            batch = {"tasks": [{"spec": spec_json(), "task_id": taken_id}]}
            assert is_problem(await rig.post(f"{TASKS}/batch", batch), 422, "invalid", "/tasks/0/task_id")
            assert rig.gateway.tail.next_seq == last

    asyncio.run(scenario())


async def ended_workflow(rig: Rig) -> str:
    """Run a, then b, which fails, and c after it; a had returned a value for b. Return the workflow's id."""
    parts = (part("a"), part("b", "a", given={"v": {"part": "a"}}), part("c", "b"))
    task_id = str((await rig.post(TASKS, flow(*parts)))[1]["task_id"])
    await dispatched(rig, events.TasksPlanned(plans=(events.Plan(task_id, (), "hash"),)))
    for name, outcome, value in (("a", Outcome.SUCCESS, '"1.2"'), ("b", Outcome.FAILURE, None)):
        await dispatched(rig, PartsDecided(parts=(PartDecision(task_id, name, "begun"),)))
        of, one = events.PartOf(task_id, name), rig.gateway.make_id()
        await dispatched(rig, events.TasksSubmitted(tasks=(events.Submission(one, SPEC, part_of=of, submitted_by="ann"),)))
        await dispatched(rig, events.TasksPlanned(plans=(events.Plan(one, (events.PlannedHost("h1", "web1"),), "hash"),)))
        ended = events.End(one, "h1", 1, outcome=Outcome.SKIPPED, ran=Ran.NO)
        await dispatched(rig, events.AttemptsEnded(attempts=(ended,)))
        await dispatched(rig, events.TasksEnded(tasks=(events.TaskEnd(one, outcome, {outcome: 1}, of, value),)))
    skipped = PartDecision(task_id, "c", "ended", outcome=Outcome.SKIPPED, reason="after", message="b failed")
    await dispatched(rig, PartsDecided(parts=(skipped,)))
    return task_id


def test_parts_are_shown_cancelled_one_by_one_and_run_again_from_where_it_failed(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig, reporter_on(home):
            task_id = await ended_workflow(rig)
            _, shown = await rig.get(f"{TASKS}/{task_id}")
            assert [(one["name"], one["outcome"], one["value"]) for one in shown["data"]["parts"]] == [
                ("a", "success", '"1.2"'), ("b", "failure", None), ("c", "skipped", None),
            ]
            assert is_problem(await rig.post(f"{TASKS}/{task_id}/rerun", {"failed": True}), 409, "nothing-to-rerun"), "it is open"
            assert is_problem(await rig.post(f"{TASKS}/{task_id}/cancel", {"parts": ["x"]}), 422, "invalid", "/parts/0")
            assert is_problem(await rig.post(f"{TASKS}/{task_id}/cancel", {"parts": ["a"]}), 409, "task-ended")
            counts = {Outcome.SUCCESS: 1, Outcome.FAILURE: 1, Outcome.SKIPPED: 1}
            await dispatched(rig, events.TasksEnded(tasks=(events.TaskEnd(task_id, Outcome.FAILURE, counts),)))
            for body, again in (({"failed": True}, ["b", "c"]), ({"parts": ["c"]}, ["c"]), ({}, ["a", "b", "c"])):
                status, accepted = await rig.post(f"{TASKS}/{task_id}/rerun", body)
                assert (status, accepted["parts"]) == (202, again)
            _, accepted = await rig.post(f"{TASKS}/{task_id}/rerun", {"failed": True})
            (submitted,) = await log_of(rig, accepted["task_id"])
            spec = submitted["data"]["tasks"][0]["spec"]
            assert spec["payload"]["taken"] == {"a": {"task_id": task_id, "outcome": "success", "value": '"1.2"', "items": 1}}
            assert spec["rerun_of"] == task_id
            assert is_problem(await rig.post(f"{TASKS}/{task_id}/rerun", {"parts": ["x"]}), 422, "invalid", "/parts")

    asyncio.run(scenario())

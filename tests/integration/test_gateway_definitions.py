"""Definitions over HTTP on a real bus: versions, races, runs, and what of a run is in the log and what is not."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from fleetlog_gateway.routes import definitions as definition_routes
from fleetlog_runtime.shell.home import Home
from fleetlog_schemas import events
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.questions import Previous
from fleetlog_schemas.spec import Origin, TaskSpec
from fleetlog_testing.gateway_rig import (
    Rig,
    dispatched,
    end,
    enrol,
    gateway_on,
    is_problem,
    log_of,
    new_key,
    reporter_on,
    spec_json,
)
from fleetlog_testing.nats import real_server

PATH = "/api/v1/definitions"
SECRET = "hunter2-canary"
_names = (f"report-{number}" for number in range(1_000))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with real_server(tmp_path_factory.mktemp("bus")) as made:
        yield made


def on_gateway(home: Home, scenario: Any) -> None:
    async def run() -> None:
        async with gateway_on(home) as rig:
            await scenario(rig)

    asyncio.run(run())


def body(name: str, message: str = "", parameters: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    fields = spec_json(**spec)
    return {"definition": {"name": name, "spec": fields, "parameters": parameters or {}}, "message": message}


async def make(rig: Rig, name: str, **fields: Any) -> dict[str, Any]:
    status, made = await rig.post(PATH, body(name, **fields))
    assert status == 201, made
    return dict(made)


async def change(rig: Rig, name: str, version: str | None, **fields: Any) -> tuple[int, Any, Any]:
    headers = {} if version is None else {"If-Match": version}
    return await rig.call("PUT", f"{PATH}/{name}", body(name, **fields), headers=headers)


def test_a_definition_is_made_changed_and_removed_and_each_version_stays_readable(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        name = next(_names)
        made = await make(rig, name, message="first", tags=["nightly"], timeout_ms=60_000)
        assert (made["version"], made["changed"]) == (1, True)
        status, shown, headers = await rig.call("GET", f"{PATH}/{name}")
        assert (status, headers["ETag"]) == (200, '"1"')
        told = shown["data"]
        assert (told["kind"], told["timeout_seconds"], told["max_retries"], told["tags"]) == ("shell", 60.0, 0, ["nightly"])
        assert (told["changed_by"], told["message"]) == ("owner", "first")
        status, changed, headers = await change(rig, name, '"1"', message="second", priority=9)
        assert (status, changed["version"], headers["ETag"]) == (200, 2, '"2"')
        status, old = await rig.get(f"{PATH}/{name}?version=1")
        assert old["data"]["definition"] == told["definition"]
        assert (await rig.get(f"{PATH}/{made['definition_id']}"))[1]["data"]["version"] == 2
        _, history = await rig.get(f"{PATH}/{name}/versions?limit=1")
        assert [(one["version"], one["message"]) for one in history["data"]["items"]] == [(2, "second")]
        _, rest = await rig.get(f"{PATH}/{name}/versions?cursor={history['data']['next_cursor']}")
        assert [(one["version"], one["message"]) for one in rest["data"]["items"]] == [(1, "first")]
        assert rest["data"]["next_cursor"] is None
        async with gateway_on(home) as other:  # one that starts now folds the same from the log
            assert (await other.get(f"{PATH}/{name}"))[1]["data"] == (await rig.get(f"{PATH}/{name}"))[1]["data"]
        status, gone, _ = await rig.call("DELETE", f"{PATH}/{name}?message=done", headers={"If-Match": '"2"'})
        assert (status, gone["version"]) == (200, 2)
        assert is_problem(await rig.get(f"{PATH}/{name}"), 404, "definition-not-found")
        again = await make(rig, name)
        assert again["version"] == 3, "a version of a name never comes twice"
        assert again["definition_id"] != made["definition_id"]

    on_gateway(home, scenario)


def test_of_two_who_change_the_same_version_one_is_told_which_there_is_now(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        name = next(_names)
        await make(rig, name)
        async with gateway_on(home) as other:
            answers = await asyncio.gather(
                change(rig, name, '"1"', priority=1), change(other, name, '"1"', priority=2), change(rig, name, '"1"', priority=3),
            )
        assert sorted(status for status, _, _ in answers) == [200, 412, 412]
        for status, problem, headers in answers:
            if status == 412:
                assert is_problem((status, problem), 412, "version-changed")
                assert (problem["version"], headers["ETag"]) == (2, '"2"')
        assert (await rig.get(f"{PATH}/{name}"))[1]["data"]["version"] == 2

    on_gateway(home, scenario)


def test_a_change_says_which_version_it_rests_on(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        name = next(_names)
        await make(rig, name)
        assert is_problem(await change(rig, name, None, priority=2), 428, "version-missing")
        assert is_problem(await rig.call("DELETE", f"{PATH}/{name}"), 428, "version-missing")
        assert is_problem(await rig.call("DELETE", f"{PATH}/{name}", headers={"If-Match": '"7"'}), 412, "version-changed")
        for wrong in ("", "x", '"1', "W/1", '"1", "2"', "9" * 30):
            assert (await change(rig, name, wrong, priority=2))[0] in (400, 412), wrong
        assert (await change(rig, name, "*", priority=2))[0] == 200
        status, same, _ = await change(rig, name, '"1"', priority=2)
        assert (status, same["version"], same["changed"]) == (200, 2, False), "what is so already is no change"

    on_gateway(home, scenario)


def test_a_name_is_taken_once_and_the_same_again_is_no_error(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        name = next(_names)
        await make(rig, name)
        status, same = await rig.post(PATH, body(name, "another message"))
        assert (status, same["version"], same["changed"]) == (200, 1, False)
        assert is_problem(await rig.post(PATH, body(name, priority=2)), 409, "definition-exists")
        assert is_problem(await rig.call("PUT", f"{PATH}/{name}", body("other"), headers={"If-Match": "*"}), 422, "invalid", "/definition/name")

    on_gateway(home, scenario)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": "../etc"}, "/definition/name"), ({"key": "mine"}, "/definition/spec/key"),
        ({"target": "web[3-1]"}, "/definition/spec/target"), ({"priority": 0}, "/definition/spec/priority"),
        ({"parameters": {"p": {"type": "color"}}}, "/definition/parameters"),
        ({"parameters": {"p": {"pattern": "(a+)+"}}}, "/definition/parameters/p/pattern"),
        ({"payload": {"kind": "script", "content": {"sha256": "0" * 64, "size": 3}}}, "/definition/spec/payload/content"),
    ],
)
def test_what_no_definition_may_be_is_refused_with_a_pointer(home: Home, fields: dict[str, Any], pointer: str) -> None:
    async def scenario(rig: Rig) -> None:
        given = body(fields.pop("name", "wrong-one"), parameters=fields.pop("parameters", {}))
        given["definition"]["spec"].update(fields)
        answer = await rig.post(PATH, given)
        assert is_problem(answer, 422, "invalid")
        assert answer[1]["errors"][0]["pointer"].startswith(pointer)
        assert is_problem(await rig.get(f"{PATH}/wrong-one"), 404, "definition-not-found")

    on_gateway(home, scenario)


@pytest.mark.parametrize("name", ["..", "%2e%2e", "..%2f..%2fetc", "a%00b", "%F0%9F", "x" * 500])
def test_a_name_that_is_none_is_not_found_and_leads_nowhere(home: Home, name: str) -> None:
    async def scenario(rig: Rig) -> None:
        for path in (f"{PATH}/{name}", f"{PATH}/{name}/schema", f"{PATH}/{name}/content"):
            assert (await rig.get(path))[0] == 404

    on_gateway(home, scenario)


def test_lists_are_filtered_and_come_in_pages(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        for name in ("zz-a", "zz-b", "zz-c"):
            await make(rig, name, tags=["zz"] if name != "zz-b" else [])
        _, page = await rig.get(f"{PATH}?name=zz-*&limit=2")
        assert [one["name"] for one in page["data"]["items"]] == ["zz-a", "zz-b"]
        _, rest = await rig.get(f"{PATH}?name=zz-*&limit=2&cursor={page['data']['next_cursor']}")
        assert ([one["name"] for one in rest["data"]["items"]], rest["data"]["next_cursor"]) == (["zz-c"], None)
        _, tagged = await rig.get(f"{PATH}?tag=zz&kind=shell")
        assert [one["name"] for one in tagged["data"]["items"]] == ["zz-a", "zz-c"]
        assert (await rig.get(f"{PATH}?kind=script&tag=zz"))[1]["data"]["items"] == []

    on_gateway(home, scenario)


PARAMETERS = {
    "path": {"default": "/"}, "depth": {"type": "integer", "required": True, "min": 1}, "token": {"type": "secret"},
}


def test_a_run_records_version_and_values_and_carries_them_in_its_environment(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        name = next(_names)
        _, stored = await blob(rig, json.dumps({"LANG": "C"}).encode())
        env = {"sha256": stored["sha256"], "size": stored["size"], "name": "env"}
        made = await make(rig, name, parameters=PARAMETERS, options={"env": env, "env_names": ["LANG"]}, single_run="queue")
        assert (await change(rig, name, '"1"', parameters=PARAMETERS, priority=9))[0] == 200
        given = {"parameters": {"depth": 3, "token": SECRET}, "version": 1, "narrow": "web1"}
        key = new_key()
        status, run = await rig.post(f"{PATH}/{name}/tasks", given, Idempotency_Key=key)
        assert (status, run["definition"], run["version"], run["task_id"]) == (202, name, 1, key)
        assert await rig.post(f"{PATH}/{name}/tasks", given, Idempotency_Key=key) == (status, run), "sent again it is the same task"
        (submitted,) = await log_of(rig, key)
        (task,) = submitted["data"]["tasks"]
        spec = task["spec"]
        assert spec["definition"] == {
            "definition_id": made["definition_id"], "version": 1, "name": name, "parameters": {"path": "/", "depth": 3},
        }
        assert (spec["key"], spec["name"], spec["target"], spec["single_run"]) == (made["definition_id"], name, "(web*) and (web1)", "queue")
        assert spec["options"]["secret_names"] == ["FLEETLOG_PARAM_TOKEN"]
        assert SECRET not in json.dumps(submitted)
        content = await rig.gateway.bus.get_blob(spec["options"]["env"]["sha256"])
        assert hashlib.sha256(content).hexdigest() == spec["options"]["env"]["sha256"]
        assert json.loads(content) == {
            "LANG": "C", "FLEETLOG_PARAM_PATH": "/", "FLEETLOG_PARAM_DEPTH": "3", "FLEETLOG_PARAM_TOKEN": SECRET,
        }

    on_gateway(home, scenario)


async def blob(rig: Rig, content: bytes) -> tuple[int, Any]:
    status, answer, _ = await rig.call("POST", "/api/v1/blobs", raw=content, headers={"Content-Type": "application/octet-stream"})
    return status, answer


def test_wrong_parameters_are_told_all_at_once_and_nothing_is_stored(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        name = next(_names)
        await make(rig, name, parameters=PARAMETERS)
        last = rig.gateway.tail.next_seq
        answer = await rig.post(f"{PATH}/{name}/tasks", {"parameters": {"depht": 3, "token": 17, "path": 4}})
        assert is_problem(answer, 422, "invalid")
        assert [error["pointer"] for error in answer[1]["errors"]] == [
            "/parameters/depht", "/parameters/path", "/parameters/depth", "/parameters/token",
        ]
        assert is_problem(await rig.post(f"{PATH}/{name}/tasks", {"parameters": {"depth": 1}, "version": 2}), 404, "version-not-found")
        assert is_problem(await rig.post(f"{PATH}/nothing/tasks"), 404, "definition-not-found")
        assert rig.gateway.tail.next_seq == last
        status, schema = await rig.get(f"{PATH}/{name}/schema")
        assert (status, schema["required"], list(schema["properties"])) == (200, ["depth"], ["path", "depth", "token"])

    on_gateway(home, scenario)


def test_where_a_task_comes_from_is_nobody_elses_to_say(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        forged = spec_json() | {"definition": {"definition_id": "d", "version": 1, "name": "report"}}
        assert is_problem(await rig.post("/api/v1/tasks", forged), 422, "invalid", "/definition")
        batch = {"tasks": [{"spec": spec_json()}, {"spec": forged}]}
        assert is_problem(await rig.post("/api/v1/tasks/batch", batch), 422, "invalid", "/tasks/1/spec/definition")

    on_gateway(home, scenario)


@asynccontextmanager
async def with_reporter(home: Home) -> AsyncIterator[Rig]:
    async with gateway_on(home) as rig, reporter_on(home):
        await enrol(rig, "web1", "web2", "web3")
        yield rig


async def ran(rig: Rig, name: str, **parameters: Any) -> str:
    """Run a definition on web1, where it fails, and return the task's id."""
    _, run = await rig.post(f"{PATH}/{name}/tasks", {"parameters": parameters})
    plan = events.Plan(run["task_id"], (events.PlannedHost("h1", "web1"),), "hash")
    await dispatched(rig, events.TasksPlanned(plans=(plan,)))
    await end(rig, run["task_id"], {"h1": Outcome.FAILURE}, task=True)
    return str(run["task_id"])


def test_a_rerun_has_the_version_it_had_and_with_latest_the_present_one_with_the_same_parameters(home: Home) -> None:
    async def scenario() -> None:
        async with with_reporter(home) as rig:
            name = next(_names)
            await make(rig, name, parameters=PARAMETERS)
            task_id = await ran(rig, name, depth=2, token=SECRET)
            later = {**PARAMETERS, "path": {"default": "/srv"}}
            assert (await change(rig, name, '"1"', parameters=later, priority=9))[0] == 200
            _, same = await rig.post(f"/api/v1/tasks/{task_id}/rerun")
            _, new = await rig.post(f"/api/v1/tasks/{task_id}/rerun", {"latest": True})
            ((first,),), ((second,),) = [[event["data"]["tasks"] for event in await log_of(rig, one["task_id"])] for one in (same, new)]
            assert (first["spec"]["definition"]["version"], first["spec"].get("priority")) == (1, None)
            assert second["spec"]["definition"]["version"] == 2
            assert second["spec"]["definition"]["parameters"] == {"path": "/srv", "depth": 2}, "a default is the one of now"
            assert (second["spec"]["priority"], second["spec"]["host_ids"], second["spec"]["rerun_of"]) == (9, ["h1"], task_id)
            content = json.loads(await rig.gateway.bus.get_blob(second["spec"]["options"]["env"]["sha256"]))
            assert content["FLEETLOG_PARAM_TOKEN"] == SECRET
            assert (await rig.call("DELETE", f"{PATH}/{name}", headers={"If-Match": "*"}))[0] == 200
            assert (await rig.post(f"/api/v1/tasks/{task_id}/rerun"))[0] == 202, "what was removed can still run again"
            assert is_problem(await rig.post(f"/api/v1/tasks/{task_id}/rerun", {"latest": True}), 404, "definition-not-found")

    asyncio.run(scenario())


def test_content_is_read_part_by_part_and_only_what_a_definition_refers_to(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        name, script = next(_names), b"#!/bin/sh\necho \xff\r\n"
        _, stored = await blob(rig, script)
        payload = {"kind": "script", "content": {"sha256": stored["sha256"], "size": stored["size"], "name": "x.sh"}}
        given = body(name)
        given["definition"]["spec"]["payload"] = payload
        assert (await rig.post(PATH, given))[0] == 201
        path = f"{rig.url}{PATH}/{name}/content?part=script"
        async with aiohttp.ClientSession() as session, session.get(path, headers=rig.authorization) as response:
            assert (response.status, await response.read()) == (200, script)
        assert is_problem(await rig.get(f"{PATH}/{name}/content?part=stdin"), 404, "not-found")
        assert is_problem(await rig.get(f"{PATH}/{name}/content?part=secrets"), 400, "bad-query")

    on_gateway(home, scenario)


def test_why_says_what_is_not_as_it_was_in_the_last_run_that_succeeded(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig, reporter_on(home) as reporter:
            name = next(_names)
            made = await make(rig, name, parameters=PARAMETERS)
            assert (await change(rig, name, '"1"', parameters=PARAMETERS, retry={"attempts_max": 2}))[0] == 200
            task_id = await ran(rig, name, depth=2)
            before = msgspec.convert(spec_json(), TaskSpec)
            origin = Origin(made["definition_id"], 1, name, {"path": "/", "depth": 1})
            reporter.previous = Previous(
                task_id="t-before", submitted_at="2026-09-21T14:13:20.000Z", outcome="success", hosts=["web1", "web2"],
                spec=msgspec.structs.replace(before, name=name, definition=origin),
            )
            _, why = await rig.get(f"/api/v1/tasks/{task_id}/why")
            found = why["data"]["difference"]
            assert (found["task_id"], found["hosts_removed"], found["hosts_added"]) == ("t-before", "web2", "")
            assert found["fields"] == {
                "definition.version": [1, 2], "definition.parameters.depth": [1, 2], "retry.attempts_max": [1, 2],
            }
            (question,) = [question for asked, question in reporter.asked if asked == "previous"]
            assert (question["definition_id"], question["outcome"], question["before_id"]) == (made["definition_id"], "success", task_id)
            _, plain = await rig.post("/api/v1/tasks", spec_json())
            assert (await rig.get(f"/api/v1/tasks/{plain['task_id']}/why"))[1]["data"]["difference"] is None

    asyncio.run(scenario())


def test_there_is_room_for_so_many_and_no_more(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        name, room = next(_names), rig.gateway.access.definitions
        await make(rig, name)
        monkeypatch.setattr(definition_routes, "DEFINITIONS_MAX", len(room.by_name))
        assert is_problem(await rig.post(PATH, body(next(_names))), 409, "too-many-definitions")
        assert (await change(rig, name, '"1"', priority=2))[0] == 200, "those that are there can still be changed"
        monkeypatch.setattr(definition_routes, "DEFINITIONS_BYTES_MAX", room.bytes)
        assert is_problem(await change(rig, name, '"2"', priority=2, tags=["longer"]), 409, "too-many-definitions")
        assert (await change(rig, name, '"2"'))[0] == 200, "a shorter one always fits"
        monkeypatch.undo()
        monkeypatch.setattr(definition_routes, "DEFINITION_NAMES_MAX", len(room.by_name) + len(room.removed))
        assert is_problem(await rig.post(PATH, body(next(_names))), 409, "too-many-definitions")
        assert (await rig.call("DELETE", f"{PATH}/{name}", headers={"If-Match": "*"}))[0] == 200
        assert (await rig.post(PATH, body(name)))[0] == 201, "a name that was used is no new one"

    on_gateway(home, scenario)


ODD = (None, True, -1, 2**70, 1e308, "", "\x00", "../..", "x" * 70_000, [], [None], {}, {"kind": "shell"}, [[[]]], {"a": {"b": []}})


def paths_of(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield where every value below a JSON object stands."""
    for key, inner in value.items():
        yield (*at, key)
        if isinstance(inner, dict):
            yield from paths_of(inner, (*at, key))


def test_whatever_stands_in_a_field_is_taken_or_refused_with_a_pointer_and_never_a_fault(home: Home) -> None:
    async def scenario(rig: Rig) -> None:
        name = next(_names)
        whole = body(name, "m", {"p": {"type": "list", "default": ["a"], "min": 1, "max": 3, "pattern": "[a-z]+", "values": []}})
        whole["definition"]["description"] = "d"
        whole["definition"]["spec"] |= {"retry": {"attempts_max": 2}, "rollout": {"batch": "1"}, "options": {"cwd": "/"}, "tags": ["a"]}
        async with aiohttp.ClientSession(headers=rig.authorization) as session:
            for path in paths_of(whole):
                for odd in ODD:
                    made = json.loads(json.dumps(whole))
                    inner = made
                    for key in path[:-1]:
                        inner = inner[key]
                    inner[path[-1]] = odd
                    async with session.post(rig.url + PATH, json=made) as response:
                        answer = await response.json(content_type=None)
                    assert response.status in (200, 201, 400, 409, 413, 422), (path, odd, answer)
                    if response.status == 422:
                        assert answer["errors"][0]["pointer"].startswith("/"), (path, odd, answer)
            for given in (*ODD, *({"parameters": {"p": odd}} for odd in ODD), {"version": 2**80}):
                async with session.post(f"{rig.url}{PATH}/{name}/tasks", json=given) as response:
                    assert response.status in (202, 400, 404, 422), (given, await response.text())

    on_gateway(home, scenario)

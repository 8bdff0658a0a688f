"""Freezes, windows and limits of queues over HTTP: stored by fence, folded here, shown with every other service down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from fleetlog_runtime.shell.home import Home
from fleetlog_schemas import limits
from fleetlog_schemas.questions import Previous
from fleetlog_testing.gateway_rig import (
    Rig,
    connect,
    enrol,
    gateway_on,
    is_problem,
    log_of,
    new_key,
    planned_task,
    reporter_on,
    spec,
    spec_json,
)
from fleetlog_testing.nats import real_server

WINDOW = {"kind": "blackout", "target": "all", "days": [0, 4], "begins": "02:00", "lasts_minutes": 120}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with real_server(tmp_path_factory.mktemp("bus")) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_frozen(home: Home) -> None:
    """Thaw what an earlier test may have left frozen."""

    async def scenario() -> None:
        async with gateway_on(home) as rig:
            await thaw_all(rig)

    asyncio.run(scenario())


@asynccontextmanager
async def dispatcher_that_says(home: Home, **answers: Any) -> AsyncIterator[None]:
    """Answer the dispatcher's questions: question to data."""
    bus = await connect(home, "dispatcher")

    async def heard(subject: str, _body: bytes, reply: str) -> None:
        question = subject.rsplit(".", 1)[1]
        if question in answers:
            await bus.publish(reply, msgspec.json.encode({"seq": 5, "data": answers[question], "problem": None}))

    stop = await bus.subscribe("ask.dispatcher.*", heard)
    try:
        yield
    finally:
        await stop()
        await bus.close()


async def thaw_all(rig: Rig) -> None:
    for one in (await rig.get("/api/v1/freezes"))[1]["data"]:
        await rig.post(f"/api/v1/freezes/{one['freeze_id']}/thaw")


def test_a_freeze_is_shown_at_once_and_gone_when_it_is_thawed_with_every_service_down(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            await enrol(rig, "web1", "web2")
            status, made = await rig.post("/api/v1/freezes", {"target": "web1", "reason": " incident 4711 "})
            assert (status, made["hosts"]) == (202, 1)
            status, body = await rig.get("/api/v1/freezes")
            (shown,) = body["data"]
            assert status == 200
            assert body["seq"] >= made["seq"]
            assert shown["since"]
            assert {**shown, "since": ""} == {
                "freeze_id": made["freeze_id"], "target": "web1", "reason": "incident 4711", "by": "owner", "hosts": 1,
                "since": "",
            }
            stored = (await rig.get(f"/api/v1/log?from_seq={made['seq']}&limit=1"))[1]["data"]["items"][0]
            assert (stored["subject"], stored["event"]["authid"]) == ("evt.catalog", "owner")
            async with gateway_on(home) as other:  # a gateway that starts now folds it from the log
                assert (await other.get("/api/v1/freezes"))[1]["data"] == body["data"]
            short = made["freeze_id"][-8:]
            assert (await rig.post(f"/api/v1/freezes/{short}/thaw", {"reason": "solved"}))[0] == 202
            assert (await rig.get("/api/v1/freezes"))[1]["data"] == []
            assert is_problem(await rig.post(f"/api/v1/freezes/{short}/thaw"), 404, "freeze-not-found")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/reason"), ({"reason": ""}, "/reason"), ({"reason": "  "}, "/reason"), ({"reason": "ä" * 501}, "/reason"),
        ({"reason": "x", "target": ""}, "/target"), ({"reason": "x", "target": "env="}, "/target"),
        ({"reason": "x", "target": "web[3-1]"}, "/target"), ({"reason": "x", "until": 5}, "/until"),
    ],
)
def test_a_freeze_needs_a_reason_and_a_target_that_can_be_read(home: Home, body: dict[str, Any], pointer: str) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            assert is_problem(await rig.post("/api/v1/freezes", body), 422, "invalid", pointer)
            assert (await rig.get("/api/v1/freezes"))[1]["data"] == []

    asyncio.run(scenario())


def test_a_freeze_that_is_asked_for_twice_with_one_key_is_one_freeze(home: Home) -> None:
    async def scenario() -> None:
        key = new_key()
        async with gateway_on(home) as rig:
            first = await rig.post("/api/v1/freezes", {"reason": "x"}, Idempotency_Key=key)
            assert await rig.post("/api/v1/freezes", {"reason": "x"}, Idempotency_Key=key) == first
            assert first[1]["freeze_id"] == key
            other = await rig.post("/api/v1/freezes", {"reason": "y"}, Idempotency_Key=key)
            assert is_problem(other, 422, "idempotency-key-reused")
        async with gateway_on(home) as rig:  # one that has forgotten the key still knows the freeze
            assert (await rig.post("/api/v1/freezes", {"reason": "x"}, Idempotency_Key=key))[1]["freeze_id"] == key
            assert len((await rig.get("/api/v1/freezes"))[1]["data"]) == 1
            await thaw_all(rig)

    asyncio.run(scenario())


def test_freezes_windows_and_queues_are_limited_in_number(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetlog_gateway.routes.policies.FREEZES_MAX", 2)
    monkeypatch.setattr("fleetlog_gateway.routes.policies.WINDOWS_MAX", 1)
    monkeypatch.setattr("fleetlog_gateway.routes.policies.QUEUES_MAX", 1)

    async def scenario() -> None:
        async with gateway_on(home) as rig:
            asked = [rig.post("/api/v1/freezes", {"reason": "x"}) for _ in range(4)]
            found = sorted(status for status, _ in await asyncio.gather(*asked))
            assert found == [202, 202, 409, 409]
            assert is_problem(await rig.post("/api/v1/freezes", {"reason": "x"}), 409, "too-many-policies")
            await thaw_all(rig)
            for path, body in (("windows", WINDOW), ("queues", {"in_flight_max": 3})):
                for _ in range(2):
                    assert (await rig.call("PUT", f"/api/v1/{path}/one", body))[0] == 202
                assert is_problem(await rig.call("PUT", f"/api/v1/{path}/two", body), 409, "too-many-policies")
            assert (await rig.call("DELETE", "/api/v1/windows/one"))[0] == 202
            assert (await rig.call("PUT", "/api/v1/queues/one", {"in_flight_max": 0}))[0] == 202

    asyncio.run(scenario())


def test_every_answer_says_while_something_is_frozen_and_none_to_strangers(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            paths = ("/api/v1/version", "/api/v1/freezes", "/api/v1/tasks", "/api/v1/tasks/last/why", "/api/v1/tasks/x")
            for path in paths:
                assert "Fleetlog-Frozen" not in (await rig.call("GET", path))[2]
            await rig.post("/api/v1/freezes", {"target": "web*", "reason": "disks"})
            _, all_of_them = await rig.post("/api/v1/freezes", {"reason": "ünsafe; \r\nX-Evil: 1"})
            for path in paths:  # some are answers, some problems
                header = (await rig.call("GET", path))[2]["Fleetlog-Frozen"]
                head, *fields = header.split("; ")
                told = dict(field.split("=") for field in fields)
                assert head == "2"
                assert told["id"] == all_of_them["freeze_id"]
                assert (told["target"], told["by"]) == ("all", "owner")
                assert told["reason"] == "%C3%BCnsafe%3B%20%0D%0AX-Evil:%201"
            assert "Fleetlog-Frozen" in (await rig.call("POST", "/api/v1/tasks", spec_json()))[2]
            for path, headers in (("/livez", {}), ("/api/v1/version", {"Authorization": "Bearer wrong"})):
                assert "Fleetlog-Frozen" not in (await rig.call("GET", path, headers=headers))[2]
            await thaw_all(rig)
            assert "Fleetlog-Frozen" not in (await rig.call("GET", "/api/v1/version"))[2]

    asyncio.run(scenario())


def test_a_window_is_set_shown_changed_and_removed(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            await enrol(rig, "web1", "web2")
            always = {**WINDOW, "kind": "maintenance", "days": [6, 0, 1, 2, 3, 4, 5], "begins": "00:00",
                      "lasts_minutes": 1_440, "zone": "Europe/Berlin", "reason": "nights"}
            status, body, _ = await rig.call("PUT", "/api/v1/windows/nights", always)
            assert (status, body["hosts"]) == (202, 2)
            (shown,) = (await rig.get("/api/v1/windows"))[1]["data"]
            assert (shown["name"], shown["kind"], shown["open"], shown["hosts"]) == ("nights", "maintenance", True, 2)
            assert (shown["days"], shown["zone"], shown["by"]) == ([0, 1, 2, 3, 4, 5, 6], "Europe/Berlin", "owner")
            assert shown["open_until"]
            assert shown["opens_at"]
            assert (await rig.call("PUT", "/api/v1/windows/nights", {**always, "target": "web1"}))[1]["hosts"] == 1
            assert len((await rig.get("/api/v1/windows"))[1]["data"]) == 1
            status, body, _ = await rig.call("DELETE", "/api/v1/windows/nights?reason=done")
            assert status == 202
            stored = (await rig.get(f"/api/v1/log?from_seq={body['seq']}&limit=1"))[1]["data"]["items"][0]["event"]
            assert stored["data"] == {"name": "nights", "reason": "done"}
            assert (await rig.get("/api/v1/windows"))[1]["data"] == []
            assert is_problem(await rig.call("DELETE", "/api/v1/windows/nights"), 404, "window-not-found")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"kind": "sometimes"}, "/kind"), ({"target": "and"}, "/target"), ({"target": " "}, "/target"),
        ({"days": []}, "/days"), ({"days": [7]}, "/days"), ({"days": ["mon"]}, "/days/0"), ({"begins": "25:00"}, "/begins"),
        ({"begins": "2:00"}, "/begins"), ({"lasts_minutes": 0}, "/lasts_minutes"),
        ({"lasts_minutes": 10_081}, "/lasts_minutes"), ({"zone": "Europe/Nowhere"}, "/zone"), ({"zone": "../x"}, "/zone"),
        ({"reason": "x" * (limits.REASON_BYTES_MAX + 1)}, "/reason"), ({"open": True}, "/open"),
    ],
)
def test_a_window_that_cannot_be_is_refused_with_a_pointer(home: Home, change: dict[str, Any], pointer: str) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            answer = await rig.call("PUT", "/api/v1/windows/w", {**WINDOW, **change})
            assert is_problem(answer, 422, "invalid", pointer)
            assert is_problem(await rig.call("PUT", "/api/v1/windows/a%20b", WINDOW), 422, "invalid", "/name")
            assert (await rig.get("/api/v1/windows"))[1]["data"] == []

    asyncio.run(scenario())


def test_queues_have_limits_and_the_dispatcher_adds_what_is_in_them(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            assert is_problem(await rig.call("PUT", "/api/v1/queues/a%20b", {"in_flight_max": 1}), 422, "invalid", "/name")
            for wrong in ({}, {"in_flight_max": -1}, {"in_flight_max": 10**9}):
                answer = await rig.call("PUT", "/api/v1/queues/slow", wrong)
                assert is_problem(answer, 422, "invalid", "/in_flight_max")
            assert (await rig.call("PUT", "/api/v1/queues/db%2Fslow", {"in_flight_max": 4, "reason": "disks"}))[0] == 202
            alone = {"queue": "db/slow", "in_flight_max": 4, "in_flight": None, "waiting": None}
            assert (await rig.get("/api/v1/queues"))[1]["data"] == [alone]
            full = {"in_flight": 3, "in_flight_max": 100, "waiting": 7, "freezes": [], "windows": [], "busy": [], "queues": [
                {"queue": "default", "in_flight_max": 0, "in_flight": 3, "waiting": 7}]}
            assert is_problem(await rig.get("/api/v1/admission"), 503, "service-unavailable")
            async with dispatcher_that_says(home, admission=full):
                assert (await rig.get("/api/v1/queues"))[1]["data"] == [
                    {**alone, "in_flight": 0, "waiting": 0},
                    {"queue": "default", "in_flight_max": 0, "in_flight": 3, "waiting": 7},
                ]
                assert await rig.get("/api/v1/admission") == (200, {"seq": 5, "data": full})
            assert (await rig.call("PUT", "/api/v1/queues/db%2Fslow", {"in_flight_max": 0}))[0] == 202
            assert (await rig.get("/api/v1/queues"))[1]["data"] == []

    asyncio.run(scenario())


def _planned(*names: str, **fields: Any) -> dict[str, Any]:
    hosts = [
        {"host_id": f"h{name}", "name": name, "presence": "online", "maintenance": False, "would": "run"} for name in names
    ]
    return {"plan_hash": "x", "hosts": hosts, "offline": 0, "lock": "free", "newer_field": 1, **fields}


def test_a_plan_says_how_it_differs_from_the_last_task_that_ran_the_same(home: Home) -> None:
    async def scenario() -> None:
        asked = spec_json(timeout_ms=5_000, tags=["b"], plan_hash="new")
        async with gateway_on(home) as rig, dispatcher_that_says(home, plan=_planned("web1", "web2", "web3")):
            status, body = await rig.post("/api/v1/plan", asked)
            assert (status, body["data"].get("difference")) == (200, None)
            async with reporter_on(home) as reporter:
                assert (await rig.post("/api/v1/plan", asked))[1]["data"].get("difference") is None
                assert reporter.asked[-1][0] == "previous"
                assert reporter.asked[-1][1]["payload"] == {"kind": "shell", "argv": ["true"]}
                before = spec(timeout_ms=9_000, name="daily", plan_hash="old", rerun_of=new_key())
                reporter.previous = Previous(
                    task_id="t", submitted_at="s", outcome="success", spec=before, hosts=["web1", "web9"]
                )
                _, body = await rig.post("/api/v1/plan", asked)
            assert body["data"]["difference"] == {
                "task_id": "t", "submitted_at": "s", "outcome": "success", "hosts_added": "web[2-3]",
                "hosts_removed": "web9",
                "fields": {"timeout_ms": [9_000, 5_000], "name": ["daily", ""], "tags": [[], ["b"]]},
            }
            assert (body["data"]["lock"], body["data"]["newer_field"], body["seq"]) == ("free", 1, 5)

    asyncio.run(scenario())


def test_a_plan_that_would_be_refused_is_not_compared(home: Home) -> None:
    async def scenario() -> None:
        problem = {"status": 422, "code": "target-empty", "message": "no host", "pointer": "/target"}
        async with (
            gateway_on(home) as rig, reporter_on(home) as reporter,
            dispatcher_that_says(home, plan=_planned(problem=problem)),
        ):
            assert (await rig.post("/api/v1/plan", spec_json()))[1]["data"]["problem"] == problem
            assert "previous" not in [name for name, _ in reporter.asked]

    asyncio.run(scenario())


def test_why_says_of_running_commands_how_long_the_same_took_before(home: Home) -> None:
    async def scenario() -> None:
        groups = [
            {"state": state, "reason": reason, "message": "m", "hosts": "web1", "count": 1, "since": None}
            for state, reason in (("running", "running"), ("waiting", "slot"), ("running", "stopping"))
        ]
        async with gateway_on(home) as rig, dispatcher_that_says(home, waiting=groups):
            task_id = await planned_task(rig)
            path = f"/api/v1/tasks/{task_id}/why"
            _, body = await rig.get(path)
            assert [group.get("typical") for group in body["data"]["waiting"]] == [None, None, None]
            assert body["data"]["missing"] == ["reporter"]
            async with reporter_on(home) as reporter:
                _, body = await rig.get(path)
                typical = {"commands": 3, "p50_seconds": 1.5, "p95_seconds": 3.1}
                assert [group["typical"] for group in body["data"]["waiting"]] == [typical, None, typical]
                assert [name for name, _ in reporter.asked].count("typical") == 1

    asyncio.run(scenario())


def test_ten_thousand_small_tasks_are_one_batch_of_few_events(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            before = (await rig.get("/api/v1/log?limit=1"))[1]["seq"]
            tasks = [{"spec": spec_json(name=f"t{number}")} for number in range(limits.TASKS_PER_SUBMIT_MAX)]
            status, body = await rig.post("/api/v1/tasks/batch", {"tasks": tasks})
            assert (status, len(set(body["task_ids"]))) == (202, 10_000)
            assert body["seq"] - before <= 20
            page = (await rig.get(f"/api/v1/log?from_seq={before + 1}&limit=100"))[1]["data"]["items"]
            stored = [task["task_id"] for item in page for task in item["event"]["data"]["tasks"]]
            assert stored == body["task_ids"]
            tasks[-1] = {"spec": spec_json(target="")}
            answer = await rig.post("/api/v1/tasks/batch", {"tasks": tasks})
            assert is_problem(answer, 422, "invalid", "/tasks/9999/spec/target")
            assert (await rig.get("/api/v1/log?limit=1"))[1]["seq"] == body["seq"]

    asyncio.run(scenario())


def test_the_log_of_a_task_begins_with_it_and_has_what_acted_on_every_task_since(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            await rig.post("/api/v1/freezes", {"reason": "before it"})
            await thaw_all(rig)
            task_id = await planned_task(rig)
            _, frozen = await rig.post("/api/v1/freezes", {"reason": "after it"})
            await thaw_all(rig)
            names = [event["type"].removeprefix("fleetlog.").removesuffix(".v1") for event in await log_of(rig, task_id)]
            assert names == ["task.submitted", "task.planned", "fleet.frozen"]
            _, page = await rig.get(f"/api/v1/log?task_id={task_id}&from_seq={frozen['seq']}")
            assert [item["seq"] for item in page["data"]["items"]] == [frozen["seq"]]

    asyncio.run(scenario())

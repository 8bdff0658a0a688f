"""Steering tasks over HTTP: pause, resume, abort, approve, skip, cancel everything, run again; with and without the reporter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from fleetlog_runtime.shell.home import Home
from fleetlog_schemas import events
from fleetlog_schemas.limits import REASON_BYTES_MAX
from fleetlog_schemas.outcomes import Outcome
from fleetlog_testing.gateway_rig import (
    Rig,
    dispatched,
    end,
    enrol,
    gateway_on,
    is_problem,
    log_of,
    new_key,
    planned_task,
    reporter_on,
    revoke,
    spec_json,
)
from fleetlog_testing.nats import real_server

WAVES = {"waves": ["1"], "approve": [0]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with real_server(tmp_path_factory.mktemp("bus")) as made:
        yield made


async def requests_of(rig: Rig, task_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Return what people asked of a task, after its submission: short name and data without the task's id."""
    found = []
    for event in await log_of(rig, task_id):
        name = event["type"].removeprefix("fleetlog.task.").removesuffix(".v1")
        data = {key: value for key, value in event["data"].items() if key != "task_id"}
        if name.startswith("fleetlog.") or name == "submitted":
            continue
        if event.get("authid"):
            found.append((name, data))
    return found


def test_a_task_is_paused_and_resumed_once_each(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            task_id = await planned_task(rig)
            path = f"/api/v1/tasks/{task_id}"
            assert is_problem(await rig.post(f"{path}/resume"), 409, "not-on-hold")
            status, body = await rig.post(f"/api/v1/tasks/{task_id[-8:]}/pause", {"reason": " lunch "})
            assert (status, body["task_id"], body["checked"]) == (202, task_id, True)
            answer = await rig.post(f"{path}/pause", {})
            assert is_problem(answer, 409, "on-hold")
            assert "paused already: lunch" in answer[1]["detail"]
            assert (await rig.post(f"{path}/resume", {"reason": "back"}))[0] == 202
            assert is_problem(await rig.post(f"{path}/resume"), 409, "not-on-hold")
            assert await requests_of(rig, task_id) == [
                ("pause-requested", {"reason": "lunch"}), ("resume-requested", {"reason": "back"}),
            ]

    asyncio.run(scenario())


def test_a_halted_task_is_on_hold_too_and_can_be_resumed(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            task_id = await planned_task(rig)
            await dispatched(rig, events.TasksHalted(halts=(events.Halt(task_id, 2, 1, 1),)))
            answer = await rig.post(f"/api/v1/tasks/{task_id}/pause")
            assert is_problem(answer, 409, "on-hold")
            assert "halted already" in answer[1]["detail"]
            assert (await rig.post(f"/api/v1/tasks/{task_id}/resume"))[0] == 202

    asyncio.run(scenario())


def test_an_abort_is_stored_and_a_task_that_stops_takes_nothing_but_a_cancel(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            task_id = await planned_task(rig, rollout=WAVES)
            path = f"/api/v1/tasks/{task_id}"
            assert (await rig.post(f"{path}/abort", {"reason": "enough"}))[0] == 202
            for what, body in (("abort", {}), ("pause", {}), ("resume", {}), ("approve", {}), ("skip", {"hosts": ["web1"]})):
                assert is_problem(await rig.post(f"{path}/{what}", body), 409, "task-stopping")
            assert (await rig.post(f"{path}/cancel"))[0] == 202
            assert await requests_of(rig, task_id) == [("abort-requested", {"reason": "enough"}), ("cancel-requested", {})]

    asyncio.run(scenario())


def test_nothing_steers_a_task_that_has_ended_or_does_not_exist(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            task_id = await planned_task(rig, hosts=1)
            await end(rig, task_id, {"h1": Outcome.UNREACHED}, task=True)
            for what, body in (("abort", {}), ("pause", {}), ("resume", {}), ("approve", {}), ("skip", {"hosts": ["web1"]})):
                assert is_problem(await rig.post(f"/api/v1/tasks/{task_id}/{what}", body), 409, "task-ended")
                assert is_problem(await rig.post(f"/api/v1/tasks/{new_key()}/{what}", body), 404, "task-not-found")

    asyncio.run(scenario())


def test_approve_takes_the_next_wave_that_waits_or_all_up_to_the_one_named(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            task_id = await planned_task(rig, hosts=4, waves=(1, 1, 1, 1), rollout={"waves": ["1", "2", "3"], "approve": [2, 4]})
            path = f"/api/v1/tasks/{task_id}/approve"
            assert is_problem(await rig.post(path, {"wave": 5}), 422, "invalid", "/wave")
            assert is_problem(await rig.post(path, {"wave": -1}), 422, "invalid", "/wave")
            answer = await rig.post(path, {"wave": 1})
            assert is_problem(answer, 409, "nothing-to-approve")
            assert "up to 1" in answer[1]["detail"]
            status, body = await rig.post(path, {"reason": "canary is well"})
            assert (status, body["wave"], body["checked"]) == (202, 2, True)
            assert is_problem(await rig.post(path, {"wave": 3}), 409, "nothing-to-approve")
            assert (await rig.post(path))[1]["wave"] == 4
            assert is_problem(await rig.post(path), 409, "nothing-to-approve")
            assert await requests_of(rig, task_id) == [
                ("approved", {"wave": 2, "reason": "canary is well"}), ("approved", {"wave": 4}),
            ]

    asyncio.run(scenario())


def test_a_wave_that_begins_without_approval_is_passed_over(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            task_id = await planned_task(rig, hosts=3, waves=(1, 1, 1), rollout={"waves": ["1", "2"], "approve": [0]})
            await dispatched(rig, events.AttemptsDispatched(attempts=(events.Dispatch(task_id, "h1", 1, epoch=1),)))
            assert (await rig.post(f"/api/v1/tasks/{task_id}/approve"))[1]["wave"] == 2
            plain = await planned_task(rig)
            assert is_problem(await rig.post(f"/api/v1/tasks/{plain}/approve"), 409, "nothing-to-approve")
            _, early = await rig.post("/api/v1/tasks", spec_json(rollout=WAVES))
            path = f"/api/v1/tasks/{early['task_id']}/approve"
            assert is_problem(await rig.post(path), 409, "nothing-to-approve")
            assert (await rig.post(path, {"wave": 2}))[:2][0] == 202

    asyncio.run(scenario())


def test_skip_takes_hosts_that_wait_by_name_id_or_range(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            task_id = await planned_task(rig, hosts=4)
            path = f"/api/v1/tasks/{task_id}/skip"
            assert is_problem(await rig.post(path, {}), 422, "invalid", "/hosts")
            assert is_problem(await rig.post(path, {"hosts": ["web7"]}), 422, "invalid", "/hosts/0")
            assert is_problem(await rig.post(path, {"hosts": ["web[2-1]"]}), 422, "invalid", "/hosts/0")
            await dispatched(rig, events.AttemptsDispatched(attempts=(events.Dispatch(task_id, "h1", 1, epoch=1),)))
            assert is_problem(await rig.post(path, {"hosts": ["web1"]}), 409, "nothing-to-skip")
            given = {"hosts": ["web[1-2]"], "host_ids": ["h4"], "reason": "broken disk"}
            assert (await rig.post(path, given))[0] == 202
            assert await requests_of(rig, task_id) == [
                ("skip-requested", {"host_ids": ["h4", "h1", "h2"], "reason": "broken disk"})
            ]
            _, early = await rig.post("/api/v1/tasks", spec_json())
            answer = await rig.post(f"/api/v1/tasks/{early['task_id']}/skip", {"hosts": ["web1"]})
            assert is_problem(answer, 409, "nothing-to-skip")

    asyncio.run(scenario())


def test_hosts_of_a_task_that_is_not_planned_yet_can_be_cancelled_by_what_the_gateway_knows(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home) as reporter, gateway_on(home) as rig:
            await enrol(rig, "web1", "web2")
            _, body = await rig.post("/api/v1/tasks", spec_json())
            task_id = body["task_id"]
            path = f"/api/v1/tasks/{task_id}/cancel"
            assert is_problem(await rig.post(path, {"hosts": ["web1", "stranger"]}), 422, "invalid", "/hosts/1")
            status, answer = await rig.post(path, {"hosts": ["web1"], "host_ids": ["h2"]})
            assert (status, answer["checked"]) == (202, True)
            assert await requests_of(rig, task_id) == [("cancel-requested", {"host_ids": ["h2", "h1"]})]
            await rig.get(f"/api/v1/tasks/{task_id}")
            assert set(reporter.tasks.by_id[task_id].cancelled_early) == {"h1", "h2"}

    asyncio.run(scenario())


def test_everything_is_cancelled_by_one_event_without_any_other_service(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            open_ids = [await planned_task(rig), (await rig.post("/api/v1/tasks", spec_json()))[1]["task_id"]]
            assert is_problem(await rig.post("/api/v1/tasks/cancel-all", {"hosts": ["web1"]}), 422, "invalid", "/hosts")
            status, body = await rig.post("/api/v1/tasks/cancel-all", {"reason": "wrong fleet"})
            assert status == 202
            later = (await rig.post("/api/v1/tasks", spec_json()))[1]["task_id"]
            stored = (await rig.get(f"/api/v1/log?from_seq={body['seq']}&limit=1"))[1]["data"]["items"][0]["event"]
            assert (stored["type"], stored["authid"]) == ("fleetlog.task.all-cancel-requested.v1", "owner")
            assert stored["data"] == {"reason": "wrong fleet"}
            async with reporter_on(home):
                shown = {one: (await rig.get(f"/api/v1/tasks/{one}"))[1]["data"] for one in (*open_ids, later)}
            assert [shown[one]["stop"] for one in (*open_ids, later)] == ["cancelled", "cancelled", None]
            # Whoever folds one task alone sees it too, though it names none.
            assert "all-cancel-requested" in [name for name, _ in await requests_of(rig, open_ids[0])]

    asyncio.run(scenario())


def test_without_the_reporter_everything_that_steers_works_by_the_full_id(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            await enrol(rig, "web1")
            key = new_key()
            asked: list[tuple[str, dict[str, Any]]] = [
                ("pause", {}), ("resume", {}), ("abort", {}), ("approve", {"wave": 2}), ("skip", {"hosts": ["web1"]}),
            ]
            for what, body in asked:
                status, answer = await rig.post(f"/api/v1/tasks/{key}/{what}", body)
                assert (status, answer["checked"], answer["task_id"]) == (202, False, key), what
                for short in ("last", key[-8:]):
                    assert is_problem(await rig.post(f"/api/v1/tasks/{short}/{what}", body), 503, "service-unavailable")
            assert [name for name, _ in await requests_of(rig, key)] == [
                "pause-requested", "resume-requested", "abort-requested", "approved", "skip-requested",
            ]
            answer = await rig.post(f"/api/v1/tasks/{key}/approve")
            assert is_problem(answer, 503, "service-unavailable")
            assert "name it" in answer[1]["detail"]

    asyncio.run(scenario())


def test_a_reporter_that_cannot_show_the_whole_task_is_no_reason_not_to_pause_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with reporter_on(home) as reporter, gateway_on(home) as rig:
            task_id = await planned_task(rig)
            answer = reporter._answer

            def too_large(name: str, question: dict[str, Any]) -> Any:
                if name == "task":
                    raise LookupError("too large for one answer")
                return answer(name, question)

            monkeypatch.setattr(reporter, "_answer", too_large)
            status, body = await rig.post(f"/api/v1/tasks/{task_id[-8:]}/pause")
            assert (status, body["task_id"], body["checked"]) == (202, task_id, False)
            assert (await rig.post(f"/api/v1/tasks/{task_id[-8:]}/skip", {"hosts": ["web2"]}))[0] == 202

    asyncio.run(scenario())


@pytest.mark.parametrize("what", ["cancel", "pause", "resume", "abort", "approve", "skip"])
def test_a_reason_is_limited_in_bytes(home: Home, what: str) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            path = f"/api/v1/tasks/{new_key()}/{what}"
            for reason in ("x" * (REASON_BYTES_MAX + 1), "ä" * (REASON_BYTES_MAX // 2 + 1)):
                assert is_problem(await rig.post(path, {"reason": reason}), 422, "invalid", "/reason")

    asyncio.run(scenario())


def test_a_follower_of_one_task_sees_what_makes_its_dispatches_void(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            task_id = await planned_task(rig)
            async with rig.stream(f"/api/v1/tasks/{task_id}/events") as stream:
                await stream.take(2)
                _, other = await rig.post("/api/v1/tasks", spec_json())
                _, frozen = await rig.post("/api/v1/freezes", {"reason": "incident"})
                assert await stream.take(1) == [frozen["seq"]]
                await rig.post(f"/api/v1/freezes/{frozen['freeze_id']}/thaw")
                _, all_of_them = await rig.post("/api/v1/tasks/cancel-all")
                assert await stream.take(1) == [all_of_them["seq"]]
            assert other["task_id"] != task_id

    asyncio.run(scenario())


def test_a_rerun_leaves_out_hosts_that_are_gone_and_names_them(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            await enrol(rig, "web1", "web2", "web3")
            task_id = await planned_task(rig, hosts=5)  # web4 and web5 were never enrolled here
            await revoke(rig, "web3")
            failed = {f"h{number}": Outcome.UNREACHED for number in (2, 3, 4)}
            await end(rig, task_id, {**failed, "h1": Outcome.SKIPPED, "h5": Outcome.SKIPPED}, task=True)
            status, body = await rig.post(f"/api/v1/tasks/{task_id}/rerun")
            assert (status, body["hosts"], body["gone"]) == (202, 2, "web[3-5]")
            status, body = await rig.post(f"/api/v1/tasks/{task_id}/rerun", {"failed": True})
            assert (status, body["hosts"], body["gone"]) == (202, 1, "web[3-4]")
            _, again = await rig.post("/api/v1/tasks", spec_json(target="", host_ids=["h4"]))
            plan = events.Plan(again["task_id"], (events.PlannedHost("h4", "web4"),), "hash")
            await dispatched(rig, events.TasksPlanned(plans=(plan,)))
            await end(rig, again["task_id"], {"h4": Outcome.UNREACHED}, task=True)
            answer = await rig.post(f"/api/v1/tasks/{again['task_id']}/rerun")
            assert is_problem(answer, 409, "nothing-to-rerun")
            assert "web4" in answer[1]["detail"]

    asyncio.run(scenario())


def test_a_rerun_of_a_rerun_takes_the_hosts_that_failed_in_it(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            await enrol(rig, "web1", "web2")
            first = await planned_task(rig, hosts=2)
            await end(rig, first, {"h1": Outcome.UNREACHED, "h2": Outcome.UNREACHED}, task=True)
            second = (await rig.post(f"/api/v1/tasks/{first}/rerun", {"failed": True}))[1]["task_id"]
            hosts = (events.PlannedHost("h1", "web1"), events.PlannedHost("h2", "web2"))
            await dispatched(rig, events.TasksPlanned(plans=(events.Plan(second, hosts, "hash"),)))
            await end(rig, second, {"h1": Outcome.SKIPPED, "h2": Outcome.UNREACHED}, task=True)
            third = (await rig.post(f"/api/v1/tasks/{second}/rerun", {"failed": True}))[1]["task_id"]
            spec = (await log_of(rig, third))[0]["data"]["tasks"][0]["spec"]
            assert (spec["host_ids"], spec["rerun_of"]) == (["h2"], second)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("rollout", "kept"),
    [
        ({"waves": ["1", "50%"], "canary": "web1", "soak_ms": 5}, {"waves": ["1", "50%"], "soak_ms": 5}),
        ({"batch": "2", "canary": "web1"}, {"batch": "2"}),
        ({"canary": "web1", "approve": [0]}, {"waves": ["100%"], "approve": [0]}),
        ({"batch": "1"}, {"batch": "1"}),
    ],
)
def test_a_rerun_keeps_the_waves_and_drops_canary_choice_and_hash(
    home: Home, rollout: dict[str, Any], kept: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            await enrol(rig, "web1", "web2")
            fields: dict[str, Any] = {"choose": {"count": 2}, "plan_hash": "hash", "priority": 8, "queue": "slow", "key": "nightly"}
            task_id = await planned_task(rig, hosts=2, rollout=rollout, **fields)
            _, body = await rig.post(f"/api/v1/tasks/{task_id}/rerun")
            spec = (await log_of(rig, body["task_id"]))[0]["data"]["tasks"][0]["spec"]
            assert spec["rollout"] == kept
            assert (spec["priority"], spec["queue"], spec["key"]) == (8, "slow", "nightly")
            assert not {"choose", "plan_hash", "target"} & set(spec)

    asyncio.run(scenario())

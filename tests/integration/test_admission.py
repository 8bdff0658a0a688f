"""What an operator decides and what is decided for him, on the real system: limits, order, single runs, holds, policies.

The judge is a file that the commands themselves write; what overlaps in it overlapped.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fleetlog.client import new_task_id
from fleetlog.http import GatewayError, flag_of
from fleetlog_schemas import events
from fleetlog_schemas.spec import Choose, Rollout, Shell, TaskSpec
from fleetlog_testing.fleet import END_S_MAX, LOOK_S, Fleet
from fleetlog_testing.waiting import until

NAMES = ("a1", "a2", "b1", "b2")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = Fleet(tmp_path_factory.mktemp("admission"))

    async def start() -> None:
        await running.start()
        for name in NAMES:
            running.join(name, dc=name[0]).start()
        await running.online(*NAMES)

    try:
        asyncio.run(start())
        yield running
    finally:
        running.close()


def began(fleet: Fleet) -> list[str]:
    """Return the tasks in the order in which their commands began."""
    return [line.split()[0] for line in fleet.judge.path.read_text().splitlines() if line.endswith("began")]


def most_at_once(fleet: Fleet, *task_ids: str) -> int:
    """Return how many commands of these tasks ran at the same time at most, by what they wrote."""
    now = most = 0
    for line in fleet.judge.path.read_text().splitlines():
        if line.split()[0] in task_ids:
            now += 1 if line.endswith("began") else -1
            most = max(most, now)
    return most


def reasons(fleet: Fleet, task_id: str) -> set[str]:
    """Return why commands of a task wait now."""
    answer = fleet.gateway.get(f"/tasks/{task_id}/why")["data"]
    return {group["reason"] for group in answer["waiting"] or []}


async def waits_for(fleet: Fleet, task_id: str, reason: str) -> None:
    await until(lambda: reason in reasons(fleet, task_id), END_S_MAX, f"{task_id} waits for {reason}", LOOK_S)


# --- order and limits -------------------------------------------------------------------------------------------


def test_a_limited_queue_runs_no_more_at_once_and_the_higher_priority_first(fleet: Fleet) -> None:
    async def scenario() -> None:
        assert fleet.run("queue", "limit", "builds", "1").returncode == 0
        first = await fleet.submit(fleet.judge.command("sleep 1"), "a1", queue="builds")
        await fleet.began(first, 1)
        low = await fleet.submit(fleet.judge.command("sleep 0.2"), "a1", queue="builds", priority=1)
        high = await fleet.submit(fleet.judge.command("sleep 0.2"), "b1", queue="builds", priority=9)
        await waits_for(fleet, high, "queue")
        await fleet.ended(first, low, high)
        assert [one for one in began(fleet) if one in (first, low, high)] == [first, high, low]
        assert most_at_once(fleet, first, low, high) == 1
        shown = json.loads(fleet.run("queue", "ls", "-o", "json").stdout)
        assert [one["in_flight_max"] for one in shown if one["queue"] == "builds"] == [1]
        assert fleet.run("queue", "limit", "builds", "0").returncode == 0

    asyncio.run(scenario())


def test_a_task_and_a_key_run_no_more_at_once_than_they_say(fleet: Fleet) -> None:
    async def scenario() -> None:
        one = await fleet.submit(fleet.judge.command("sleep 0.3"), parallel=2)
        await fleet.ended(one)
        assert most_at_once(fleet, one) == 2
        runs = [
            await fleet.submit(fleet.judge.command("sleep 0.3"), key="report", key_parallel=3) for _ in range(3)
        ]
        await fleet.ended(*runs)
        assert most_at_once(fleet, *runs) == 3

    asyncio.run(scenario())


def test_single_runs_are_refused_wait_or_take_the_place_of_the_earlier_one(fleet: Fleet) -> None:
    async def scenario() -> None:
        running = await fleet.submit(fleet.judge.command("sleep 60"), "a1", key="deploy", single_run="queue")
        await fleet.began(running, 1)
        refused = fleet.run("exec", "-t", "a1", "--key", "deploy", "--single-run", "refuse", "--", "true")
        assert (refused.returncode, "already running" in refused.stderr) == (6, True), refused
        queued = await fleet.submit(fleet.judge.command("sleep 0.1"), "a1", key="deploy", single_run="queue")
        await waits_for(fleet, queued, "lock")
        newest = await fleet.submit(fleet.judge.command("sleep 0.1"), "a1", key="deploy", single_run="replace")
        views = await fleet.ended(running, queued, newest)
        assert [view.outcome for view in views] == ["cancelled", "skipped", "success"]
        assert [view.stop for view in views] == ["replaced", "replaced", None]
        order = [
            (type(event.data), one.task_id)
            for event in fleet.log()
            if isinstance(event.data, events.AttemptsDispatched | events.AttemptsEnded)
            for one in event.data.attempts
        ]
        stopped, started = (events.AttemptsEnded, running), (events.AttemptsDispatched, newest)
        assert order.index(stopped) < order.index(started), "the lock is given on by the host's word"

    asyncio.run(scenario())


def test_some_of_the_hosts_are_chosen(fleet: Fleet) -> None:
    async def scenario() -> None:
        two = await fleet.submit(Shell(argv=("true",)), choose=Choose(count=2))
        each = await fleet.submit(Shell(argv=("true",)), choose=Choose(by="each", label="dc"))
        views = await fleet.ended(two, each)
        assert [view.hosts for view in views] == [2, 2]
        assert sorted(command.host[0] for command in views[1].commands) == ["a", "b"]

    asyncio.run(scenario())


def test_thousands_of_small_tasks_are_submitted_in_one_call_and_recorded_in_few_events(fleet: Fleet) -> None:
    async def scenario() -> None:
        spec = msgspec.to_builtins(TaskSpec(payload=Shell(argv=("true",)), target="all"))
        before = len(fleet.log())
        ids = [new_task_id() for _ in range(2_000)]
        body = {"tasks": [{"task_id": task_id, "spec": spec} for task_id in ids]}
        accepted = fleet.gateway.post("/tasks/batch", body)
        assert accepted["task_ids"] == ids
        # Admitted in one round, seen at the first and the last; then they need not run, it is not what is shown here.
        log = fleet.log()[before:]
        submitted = [one for one in log if isinstance(one.data, events.TasksSubmitted)]
        assert sum(len(one.data.tasks) for one in submitted) == 2_000
        assert len(submitted) <= 4
        stopped = fleet.run("cancel", "--all", "--yes", "--reason", "seen enough")
        assert stopped.returncode == 0, stopped
        await fleet.ended(ids[0], ids[-1])
        planned = [one for one in fleet.log()[before:] if isinstance(one.data, events.TasksPlanned)]
        assert len(planned) < 40, f"{len(planned)} events for 2,000 plans"

    asyncio.run(scenario())


# --- a task under way -------------------------------------------------------------------------------------------


def test_a_rollout_waits_for_approval_is_paused_skipped_and_aborted_by_typed_commands(fleet: Fleet) -> None:
    async def scenario() -> None:
        rollout = Rollout(batch="1", approve=(2,))
        task_id = await fleet.submit(Shell(argv=("true",)), rollout=rollout)
        await waits_for(fleet, task_id, "approval")
        assert fleet.run("pause", task_id, "--reason", "lunch").returncode == 0
        await waits_for(fleet, task_id, "paused")
        again = fleet.run("pause", task_id)
        assert (again.returncode, "paused already" in again.stderr) == (6, True), again
        assert fleet.run("approve", task_id).returncode == 0
        assert fleet.run("skip", task_id, "--host", "b1").returncode == 0
        assert fleet.run("resume", task_id).returncode == 0
        [view] = await fleet.ended(task_id)
        assert {command.host: command.outcome for command in view.commands} == {
            "a1": "success", "a2": "success", "b1": "skipped", "b2": "success",
        }
        over = fleet.run("abort", task_id)
        assert over.returncode == 6, over

    asyncio.run(scenario())


def test_an_aborted_task_lets_run_what_runs(fleet: Fleet) -> None:
    async def scenario() -> None:
        task_id = await fleet.submit(fleet.judge.command("sleep 1"), parallel=1)
        await fleet.began(task_id, 1)
        assert fleet.run("abort", task_id, "--reason", "enough").returncode == 0
        [view] = await fleet.ended(task_id)
        assert view.counts == {"skipped": 3, "success": 1}
        fleet.judge.agrees([])

    asyncio.run(scenario())


def test_a_plan_that_has_changed_is_refused_and_one_that_has_not_runs(fleet: Fleet) -> None:
    plan = json.loads(fleet.run("exec", "-t", "dc=a", "--plan", "-o", "json", "--", "true").stdout)
    same = fleet.run("exec", "-t", "dc=a", "--plan-hash", plan["plan_hash"], "--", "true")
    assert same.returncode == 0, same
    assert fleet.run("host", "label", "b1", "dc=a").returncode == 0
    changed = fleet.run("exec", "-t", "dc=a", "--plan-hash", plan["plan_hash"], "--", "true")
    assert (changed.returncode, "look at it again" in changed.stderr) == (6, True), changed
    shown = fleet.run("exec", "-t", "dc=a", "--plan", "--", "true")
    assert "b1" in shown.stdout
    difference = json.loads(fleet.run("exec", "-t", "dc=a", "--plan", "-o", "json", "--", "true").stdout)["difference"]
    assert (difference["hosts_added"], difference["hosts_removed"]) == ("b1", "")
    assert fleet.run("host", "label", "b1", "dc=b").returncode == 0


def test_what_runs_is_compared_with_what_the_same_took_before(fleet: Fleet) -> None:
    async def scenario() -> None:
        payload = fleet.judge.command("sleep 0.$((RANDOM % 2)); sleep 1.5")
        await fleet.ended(await fleet.submit(payload, "a1"))
        task_id = await fleet.submit(payload, "a1")
        await waits_for(fleet, task_id, "running")
        [group] = fleet.gateway.get(f"/tasks/{task_id}/why")["data"]["waiting"]
        assert group["typical"]["commands"] == 1
        assert 1 < group["typical"]["p95_seconds"] < 5
        assert "p95" in fleet.run("why", task_id).stdout
        await fleet.ended(task_id)

    asyncio.run(scenario())


# --- policies ---------------------------------------------------------------------------------------------------


def test_a_blackout_keeps_work_back_and_may_be_ignored(fleet: Fleet) -> None:
    async def scenario() -> None:
        now = dt.datetime.now(dt.UTC)
        begun = f"{now - dt.timedelta(minutes=5):%H:%M}"
        words = ("window", "set", "sale", "-t", "a1", "--blackout", "--days", "daily", "--at", begun, "--for", "1h")
        assert fleet.run(*words).returncode == 0
        waiting = await fleet.submit(Shell(argv=("true",)), "a1")
        urgent = await fleet.submit(Shell(argv=("true",)), "a1", ignore_windows=True)
        await fleet.ended(urgent)
        await waits_for(fleet, waiting, "window")
        assert fleet.run("window", "rm", "sale").returncode == 0
        await fleet.ended(waiting)

    asyncio.run(scenario())


def test_freeze_thaw_pause_and_cancel_all_work_with_the_reporter_away(fleet: Fleet) -> None:
    async def scenario() -> None:
        paused = await fleet.submit(fleet.judge.command("sleep 6"), parallel=1)
        await fleet.began(paused, 1)
        reporter = fleet.pid("reporter")
        os.kill(reporter, signal.SIGSTOP)
        try:
            assert fleet.run("pause", paused).returncode == 0
            assert fleet.run("freeze", "--reason", "incident").returncode == 0
            frozen = await fleet.submit(Shell(argv=("true",)))
            await waits_for(fleet, frozen, "freeze")
            told = fleet.run("admission")
            assert ("incident" in told.stdout, told.returncode) == (True, 0), told
            assert fleet.run("cancel", "--all", "--yes").returncode == 0
            assert fleet.run("thaw").returncode == 0
        finally:
            os.kill(reporter, signal.SIGCONT)
        views = await fleet.ended(paused, frozen)
        assert [view.outcome for view in views] == ["cancelled", "cancelled"]
        assert fleet.judge.began(paused) == 1, "nothing began after the pause"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/tasks", {"priority": 11}, "/priority"),
        ("/tasks", {"rollout": {"waves": ["5%", "1%"]}}, "/rollout/waves/1"),
        ("/tasks", {"single_run": "queue"}, "/key"),
        ("/tasks", {"choose": {"by": "each"}}, "/choose/label"),
        ("/freezes", {"target": "role in (", "reason": "x"}, "/target"),
        ("/freezes", {"target": "all", "reason": ""}, "/reason"),
        ("/windows/w", {"kind": "blackout", "target": "all", "days": [9], "begins": "10:00", "lasts_minutes": 5}, "/days"),
    ],
)
def test_what_cannot_be_is_refused_and_points_at_its_field(
    fleet: Fleet, path: str, body: dict[str, Any], pointer: str
) -> None:
    if path == "/tasks":
        body = {"payload": {"kind": "shell", "argv": ["true"]}, "target": "all", **body}
    with pytest.raises(GatewayError) as caught:
        fleet.gateway.put(path, body) if path.startswith("/windows") else fleet.gateway.post(path, body)
    assert caught.value.status == 422
    assert flag_of(pointer) in str(caught.value)


def test_a_rerun_leaves_out_hosts_that_are_gone_and_names_them(fleet: Fleet) -> None:
    async def scenario() -> None:
        fleet.join("guest", dc="g").start()
        await fleet.online("guest")
        task_id = await fleet.submit(Shell(argv=("false",)))
        await fleet.ended(task_id)
        assert fleet.run("host", "revoke", "guest", "--reason", "gone").returncode == 0
        again = fleet.gateway.post(f"/tasks/{task_id}/rerun", {"failed": True})
        assert (again["hosts"], again["gone"]) == (4, "guest")
        [view] = await fleet.ended(again["task_id"])
        third = fleet.gateway.post(f"/tasks/{view.task_id}/rerun", {"failed": True})
        assert third["hosts"] == 4, "a rerun of a rerun"
        await fleet.ended(third["task_id"])

    asyncio.run(scenario())

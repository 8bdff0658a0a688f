"""Each waiting command has one reason: what is answered now, and what is written for what waits long."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fleetlog_dispatcher import waiting
from fleetlog_runtime.pure.effects import Request
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import control_events, events, host_events, policy_events, reports, subjects
from fleetlog_schemas.admission import PlanQuestion, WaitingQuestion
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Choose, Retry, Rollout
from fleetlog_testing.dispatching import LOAD, Stage, shell

BUSY = msgspec.structs.replace(LOAD, load_1m=99.0)


def ask(stage: Stage, question: str, body: object) -> Any:
    reply = f"_INBOX.{len(stage.answers)}"
    stage.engine.observe(Request(subjects.ask("dispatcher", question), msgspec.json.encode(body), reply), stage.now_ms)
    stage.settle()
    return next(answer for to, answer in stage.answers if to == reply)["data"]


def why(stage: Stage, task_id: str) -> dict[str, str]:
    """Return the reason of each group of hosts."""
    return {group["hosts"]: group["reason"] for group in ask(stage, "waiting", WaitingQuestion(task_id))}


def said(stage: Stage, task_id: str) -> str:
    return str(ask(stage, "waiting", WaitingQuestion(task_id))[0]["message"])


def two_hosts(**settings: Any) -> Stage:
    stage = Stage(DispatcherSettings(**{"slots_per_host": 1, **settings}))
    stage.connected("web1", "web2")
    return stage


def test_a_full_host_says_who_holds_its_slots() -> None:
    stage = two_hosts()
    holder = stage.submitted(shell())
    task_id = stage.submitted(shell())
    assert why(stage, task_id) == {"web[1-2]": "slot"}
    assert holder[-8:] in said(stage, task_id)


def test_behind_others_it_is_priority() -> None:
    stage = two_hosts()
    for _ in range(3):
        task_id = stage.submitted(shell())
    assert why(stage, task_id) == {"web[1-2]": "priority"}
    assert "1 go first" in said(stage, task_id)


def test_a_busy_host_says_how_busy() -> None:
    stage = two_hosts(slots_per_host=2)
    stage.beats("web1", load=BUSY)
    stage.submitted(shell(target="web1"))
    task_id = stage.submitted(shell(target="web1"))
    assert why(stage, task_id) == {"web1": "load"}
    assert "load 99.0" in said(stage, task_id)


@pytest.mark.parametrize(
    ("first", "spec", "reason"),
    [
        ({}, {"parallel": 1}, "parallel"),
        ({"key": "k"}, {"key": "k", "key_parallel": 2}, "key"),
        ({"key": "k"}, {"key": "k", "single_run": "queue"}, "lock"),
        ({"queue": "q"}, {"queue": "q"}, "queue"),
        ({}, {"rollout": Rollout(batch="1", approve=(1,))}, "approval"),
    ],
)
def test_a_limit_or_gate_of_the_task_is_named(first: dict[str, Any], spec: dict[str, Any], reason: str) -> None:
    stage = two_hosts(slots_per_host=4)
    stage.happened(policy_events.QueueLimited(queue="q", in_flight_max=2))
    stage.submitted(shell(**first))
    task_id = stage.submitted(shell(**spec))
    groups = ask(stage, "waiting", WaitingQuestion(task_id))
    assert {group["reason"] for group in groups if group["state"] == "waiting"} == {reason}


def test_the_whole_systems_limit_is_named() -> None:
    stage = two_hosts(in_flight_max=1)
    assert "system" in why(stage, stage.submitted(shell())).values()


def test_a_later_wave_says_which_comes_first_and_a_soak_until_when() -> None:
    stage = two_hosts()
    task_id = stage.submitted(shell(rollout=Rollout(batch="1", soak_ms=60_000)))
    assert why(stage, task_id)["web2"] == "wave"
    stage.ended(task_id, "web1")
    assert why(stage, task_id) == {"web2": "soak"}


def test_a_halted_task_says_why_it_halted() -> None:
    stage = two_hosts()
    task_id = stage.submitted(shell(rollout=Rollout(batch="1")))
    stage.ended(task_id, "web1", outcome=Outcome.FAILURE, exit_code=1)
    assert why(stage, task_id) == {"web2": "halted"}
    assert said(stage, task_id) == (
        "halted: 1 host ended badly, in wave 1 of 2; at most 0 may; it would go next, with wave 2 of 2"
    )


def test_a_paused_task_says_by_whom() -> None:
    stage = two_hosts()
    task_id = stage.submitted(shell(parallel=1))
    stage.happened(control_events.PauseRequested(task_id=task_id, reason="pager"))
    assert "paused by ann: pager" in " ".join(
        group["message"] for group in ask(stage, "waiting", WaitingQuestion(task_id))
    )


def test_a_frozen_host_says_by_whom_and_why() -> None:
    stage = two_hosts()
    stage.happened(policy_events.FleetFrozen(freeze_id="f", target="all", reason="incident 4711"))
    task_id = stage.submitted(shell())
    assert why(stage, task_id) == {"web[1-2]": "freeze"}
    assert said(stage, task_id) == "the host is frozen by ann: incident 4711"


def test_a_host_that_cannot_be_told_to_stop_is_shown_so() -> None:
    stage = two_hosts()
    task_id = stage.submitted(shell(target="web1"))
    stage.happened(control_events.CancelRequested(task_id=task_id))
    assert said(stage, task_id) == "it is told to stop, and the host has not confirmed"
    stage.beats("web1", goodbye=True)
    assert "cannot be told: the host is offline" in said(stage, task_id)
    assert "as soon as the host returns" in said(stage, task_id)


def test_a_host_that_returns_is_told_to_stop() -> None:
    stage = two_hosts()
    task_id = stage.submitted(shell(target="web1"))
    held = reports.Held(task_id, 1, reports.HeldState.RUNNING)
    stage.beats("web1", held)
    stage.beats("web1", held, goodbye=True)
    stage.happened(control_events.CancelRequested(task_id=task_id))
    stage.passes(5_000)
    before = len(stage.sent)
    stage.opens("web1", held)
    stage.beats("web1", held)
    stage.passes(2_000)
    verbs = [type(push).__name__ for push in stage.sent[before:] if push.host_id == "h-web1"]
    assert "CancelPush" in verbs


# --- reasons in the log ---


def noted(stage: Stage, task_id: str) -> list[tuple[str, str]]:
    command = stage.state.tasks.by_id[task_id].commands["h-web1"]
    return [(wait.reason, "ended" if wait.until_ms else "goes on") for wait in command.waits]


def test_what_waits_only_for_a_moment_is_not_written() -> None:
    stage = two_hosts()
    first = stage.submitted(shell())
    stage.submitted(shell())
    stage.later(500)
    for name in ("web1", "web2"):
        stage.ended(first, name)
    stage.passes(5_000)
    assert stage.decided(events.CommandsWaiting) == []


def test_the_reason_of_what_waits_is_written_once_and_again_when_it_is_another() -> None:
    stage = two_hosts()
    holder = stage.submitted(shell(target="web1"))
    task_id = stage.submitted(shell(target="web1"))
    stage.passes(30_000)
    assert noted(stage, task_id) == [("slot", "goes on")]
    stage.happened(control_events.PauseRequested(task_id=task_id))
    stage.passes(30_000)
    assert noted(stage, task_id) == [("slot", "ended"), ("paused", "goes on")]
    stage.ended(holder, "web1")
    stage.happened(control_events.ResumeRequested(task_id=task_id))
    assert noted(stage, task_id) == [("slot", "ended"), ("paused", "ended")]
    assert len(stage.decided(events.CommandsWaiting)) == 2


def test_a_reason_that_all_waiting_commands_of_a_task_share_names_no_hosts() -> None:
    stage = two_hosts()
    stage.happened(policy_events.FleetFrozen(freeze_id="f", target="all", reason="x"))
    task_id = stage.submitted(shell())
    stage.passes(3_000)
    [note] = stage.decided(events.CommandsWaiting)
    assert [(group.reason, group.commands) for group in note.groups] == [
        ("freeze", (events.WaitingCommands(task_id=task_id),))
    ]
    assert [command.wait and command.wait.reason for command in stage.state.tasks.by_id[task_id].commands.values()] == [
        "freeze", "freeze",
    ]


def test_those_that_wait_behind_others_share_one_entry_however_many_go_before_each() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=1))
    stage.connected("web1")
    for _ in range(5):
        stage.submitted(shell())
    stage.later(DispatcherSettings().note_wait_ms + 1_000)
    noted = [group for data in stage.decided(events.CommandsWaiting) for group in data.groups]
    assert {group.reason: len(group.commands) for group in noted} == {"slot": 1, "priority": 3}


def test_more_than_one_sweep_can_look_at_are_looked_at_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "NOTES_PER_SWEEP_MAX", 2)
    stage = two_hosts()
    stage.happened(policy_events.FleetFrozen(freeze_id="f", target="all", reason="x"))
    tasks = [stage.submitted(shell(target="web1")) for _ in range(5)]
    stage.passes(10_000)
    assert [noted(stage, task_id) for task_id in tasks] == [[("freeze", "goes on")]] * 5


def test_many_reasons_are_cut_into_entries_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "COMMANDS_PER_NOTE_MAX", 2)
    stage = Stage()
    stage.connected(*(f"web{number}" for number in range(5)))
    stage.happened(policy_events.FleetFrozen(freeze_id="f", target="web0,web1,web2", reason="x"))
    stage.submitted(shell(parallel=1))
    stage.passes(3_000)
    sizes = [
        sum(len(one.host_ids) for one in group.commands)
        for note in stage.decided(events.CommandsWaiting)
        for group in note.groups
        if group.reason == "freeze"
    ]
    assert sorted(sizes) == [1, 2]


# --- plans ---


def test_a_plan_shows_waves_what_runs_and_how_many_may_fail() -> None:
    stage = two_hosts()
    stage.connected("web3", role="canary")
    plan = ask(stage, "plan", PlanQuestion(shell("uptime", "-p", rollout=Rollout(canary="role=canary", batch="1"))))
    assert [(one["name"], one["wave"]) for one in plan["hosts"]] == [("web3", 1), ("web1", 2), ("web2", 3)]
    assert (plan["runs"], plan["waves"], plan["failures_max"]) == ("uptime -p", [1, 1, 1], 0)


def test_a_plan_says_what_a_host_waits_for() -> None:
    stage = two_hosts()
    stage.happened(policy_events.FleetFrozen(freeze_id="f", target="web2", reason="incident"))
    plan = ask(stage, "plan", PlanQuestion(shell()))
    assert [(one["name"], one["would"], one["reason"]) for one in plan["hosts"]] == [
        ("web1", "run", ""), ("web2", "wait", "the host is frozen by ann: incident"),
    ]


def test_a_plan_says_what_a_single_run_would_meet() -> None:
    stage = two_hosts()
    first = stage.submitted(shell(key="backup"))
    queued = ask(stage, "plan", PlanQuestion(shell(key="backup", single_run="queue")))
    assert queued["lock"] == f"it waits for the end of task {first[-8:]}, a run of backup"
    refused = ask(stage, "plan", PlanQuestion(shell(key="backup", single_run="refuse")))
    assert refused["problem"]["code"] == "locked"


def test_a_plans_hash_holds_while_the_choice_by_load_moves() -> None:
    stage = two_hosts(slots_per_host=4)
    spec = shell(choose=Choose(count=1))
    shown = ask(stage, "plan", PlanQuestion(spec))
    stage.submitted(shell(target=shown["hosts"][0]["name"]))
    task_id = stage.submitted(msgspec.structs.replace(spec, plan_hash=shown["plan_hash"]))
    assert task_id in stage.state.tasks.by_id
    assert (shown["candidates"], len(shown["hosts"])) == (2, 1)


def test_a_plan_that_has_changed_is_refused() -> None:
    stage = two_hosts()
    spec = shell(rollout=Rollout(canary="role=canary", batch="1"))
    stage.happened(host_events.HostLabelled(host_id="h-web1", labels={"role": "canary"}))
    shown = ask(stage, "plan", PlanQuestion(spec))
    stage.happened(host_events.HostLabelled(host_id="h-web2", labels={"role": "canary"}))
    stage.submitted(msgspec.structs.replace(spec, plan_hash=shown["plan_hash"]))
    assert stage.decided(events.TasksRefused)[0].refusals[0].code == "plan-changed"


def test_a_retry_that_waits_says_until_when() -> None:
    stage = two_hosts()
    task_id = stage.submitted(shell(target="web1", retry=Retry(attempts_max=2, backoff_ms=60_000)))
    stage.ended(task_id, "web1", outcome=Outcome.FAILURE, exit_code=1)
    assert why(stage, task_id) == {"web1": "backoff"}

"""What the dispatcher answers: plans, and why something has not ended."""

from __future__ import annotations

from typing import Any

import msgspec

from fleetlog_runtime.pure.effects import Request
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import control_events, events, host_events, subjects
from fleetlog_schemas.admission import PlanQuestion, WaitingQuestion
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Retry
from fleetlog_testing.dispatching import Stage, shell


def ask(stage: Stage, question: str, body: object) -> Any:
    reply = f"_INBOX.{len(stage.answers)}"
    stage.engine.observe(Request(subjects.ask("dispatcher", question), msgspec.json.encode(body), reply), stage.now_ms)
    stage.settle()
    return next(answer for to, answer in stage.answers if to == reply)


def reasons(stage: Stage, task_id: str) -> list[tuple[str, str]]:
    answer = ask(stage, "waiting", WaitingQuestion(task_id))
    return [(group["reason"], group["hosts"]) for group in answer["data"]]


def test_a_plan_names_the_hosts_and_what_they_would_do_and_runs_nothing() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.enrolled("web2")
    answer = ask(stage, "plan", PlanQuestion(shell()))["data"]
    assert [(one["name"], one["would"]) for one in answer["hosts"]] == [("web1", "run"), ("web2", "be unreached")]
    assert answer["offline"] == 1
    assert stage.decided(events.TasksPlanned) == []


def test_a_plan_with_a_typo_is_a_problem_that_points_at_the_target() -> None:
    stage = Stage()
    problem = ask(stage, "plan", PlanQuestion(shell(target="web1")))["data"]["problem"]
    assert (problem["code"], problem["pointer"]) == ("target-unknown", "/target")


def test_a_plan_for_hosts_that_are_not_there_points_at_the_hosts() -> None:
    stage = Stage()
    problem = ask(stage, "plan", PlanQuestion(shell(target="", host_ids=("hgone",))))["data"]["problem"]
    assert (problem["code"], problem["pointer"]) == ("target-unknown", "/host_ids")


def test_submitting_with_the_hash_of_an_old_plan_is_refused() -> None:
    stage = Stage()
    stage.connected("web1")
    planned = ask(stage, "plan", PlanQuestion(shell()))["data"]["plan_hash"]
    same = stage.submitted(shell(plan_hash=planned))
    assert same in [plan.task_id for one in stage.decided(events.TasksPlanned) for plan in one.plans]
    stage.connected("web2")
    stage.submitted(shell(plan_hash=planned))
    assert [one.refusals[0].code for one in stage.decided(events.TasksRefused)] == ["plan-changed"]


def test_a_malformed_question_is_answered_with_what_is_wrong() -> None:
    stage = Stage()
    assert ask(stage, "plan", {"spec": 7})["problem"]["code"] == "bad-question"


def test_why_tells_offline_hosts_from_taken_slots_and_from_what_runs() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=1))
    stage.connected("web1")
    stage.enrolled("web2")
    first = stage.submitted(shell(target="web1"))
    waits = stage.submitted(shell(wait_offline_ms=60_000))
    assert sorted(reasons(stage, waits)) == [("host-offline", "web2"), ("slot", "web1")]
    assert reasons(stage, first) == [("delivery", "web1")]
    stage.started(first, "web1")
    assert reasons(stage, first) == [("running", "web1")]
    stage.happened(control_events.CancelRequested(task_id=first))
    assert reasons(stage, first) == [("stopping", "web1")]


def test_why_tells_of_backoff_maintenance_and_parallel() -> None:
    stage = Stage()
    stage.connected("web1", "web2")
    one = stage.submitted(shell(target="web1", retry=Retry(attempts_max=2, backoff_ms=60_000)))
    stage.ended(one, "web1", outcome=Outcome.FAILURE, exit_code=1)
    assert reasons(stage, one) == [("backoff", "web1")]
    two = stage.submitted(shell(parallel=1))
    assert sorted(reason for reason, _ in reasons(stage, two)) == ["delivery", "parallel"]
    stage.happened(host_events.MaintenanceSet(host_id="h-web2", on=True, reason="disk"))
    three = stage.submitted(shell(target="web2", wait_offline_ms=60_000))
    assert reasons(stage, three) == [("maintenance", "web2")]


def test_a_task_that_is_not_open_waits_for_nothing() -> None:
    assert reasons(Stage(), "0190163d-8694-739b-aea5-966c26f8ad91") == []

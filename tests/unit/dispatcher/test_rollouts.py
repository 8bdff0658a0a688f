"""Waves, failure budgets, and what a person decides about a task under way."""

from __future__ import annotations

from fleetlog_schemas import control_events, events, host_events, pushes
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.records import Task
from fleetlog_schemas.spec import Retry, Rollout
from fleetlog_testing.dispatching import Stage, shell

HOSTS = tuple(f"web{number}" for number in range(1, 9))


def fleet() -> Stage:
    stage = Stage()
    stage.connected(*HOSTS)
    return stage


def started(stage: Stage) -> list[str]:
    dispatches = stage.decided(events.AttemptsDispatched)
    return sorted(one.host_id.removeprefix("h-") for data in dispatches for one in data.attempts)


def end(stage: Stage, task_id: str, *names: str, outcome: Outcome = Outcome.SUCCESS) -> None:
    for name in names:
        stage.ended(task_id, name, outcome=outcome, exit_code=0 if outcome is Outcome.SUCCESS else 1)


def task_of(stage: Stage, task_id: str) -> Task:
    return stage.state.tasks.by_id[task_id]


# --- waves ---


def test_a_wave_begins_when_the_one_before_it_has_ended() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(rollout=Rollout(waves=("1", "50%", "100%"))))
    assert started(stage) == ["web1"]
    end(stage, task_id, "web1")
    assert started(stage) == ["web1", "web2", "web3", "web4"]
    end(stage, task_id, "web2", "web4")
    assert len(started(stage)) == 4
    end(stage, task_id, "web3")
    assert started(stage) == list(HOSTS)


def test_rolling_takes_batch_after_batch() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(rollout=Rollout(batch="3")))
    assert [wave.hosts for wave in task_of(stage, task_id).waves] == [3, 3, 2]
    assert len(started(stage)) == 3


def test_the_canaries_go_first_whatever_their_names() -> None:
    stage = fleet()
    stage.happened(host_events.HostLabelled(host_id="h-web7", labels={"role": "canary"}))
    task_id = stage.submitted(shell(rollout=Rollout(canary="role=canary")))
    assert started(stage) == ["web7"]
    end(stage, task_id, "web7")
    assert started(stage) == list(HOSTS)


def test_a_canary_outside_the_target_is_refused_and_points_at_the_field() -> None:
    stage = fleet()
    stage.submitted(shell(target="web1,web2", rollout=Rollout(canary="web8")))
    refusal = stage.decided(events.TasksRefused)[0].refusals[0]
    assert (refusal.code, refusal.pointer) == ("canary-empty", "/rollout/canary")


def test_the_next_wave_waits_until_its_soak_time_is_over() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(rollout=Rollout(waves=("1",), soak_ms=60_000)))
    end(stage, task_id, "web1")
    stage.passes(59_000)
    assert started(stage) == ["web1"]
    stage.passes(2_000)
    assert started(stage) == list(HOSTS)


def test_a_wave_that_asks_for_approval_waits_for_a_person() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(rollout=Rollout(waves=("1", "2"), approve=(0,))))
    end(stage, task_id, "web1")
    stage.passes(60_000)
    assert started(stage) == ["web1"]
    stage.happened(control_events.TaskApproved(task_id=task_id, wave=2))
    assert started(stage) == ["web1", "web2"]
    end(stage, task_id, "web2")
    stage.later(5_000)
    assert len(started(stage)) == 2, "an approval is for the waves up to one, not for all"


def test_a_wave_that_was_approved_beforehand_does_not_wait() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(rollout=Rollout(waves=("1",), approve=(2,))))
    stage.happened(control_events.TaskApproved(task_id=task_id, wave=2))
    assert started(stage) == ["web1"]
    end(stage, task_id, "web1")
    assert started(stage) == list(HOSTS)


def test_the_first_wave_waits_too_where_it_asks_for_approval() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(rollout=Rollout(batch="4", approve=(1,))))
    assert started(stage) == []
    stage.happened(control_events.TaskApproved(task_id=task_id, wave=1))
    assert len(started(stage)) == 4


def test_a_host_of_a_later_wave_counts_as_absent_only_when_its_turn_comes() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.enrolled("web2")
    task_id = stage.submitted(shell(rollout=Rollout(batch="1")))
    stage.later(5_000)
    stage.opens("web2")
    stage.beats("web2")
    end(stage, task_id, "web1")
    assert started(stage) == ["web1", "web2"]


def test_an_absent_host_whose_turn_has_come_is_unreached_and_holds_up_nobody() -> None:
    stage = Stage()
    stage.enrolled("web1")
    stage.connected("web2")
    task_id = stage.submitted(shell(rollout=Rollout(batch="1")))
    assert stage.outcomes(task_id) == {"web1": "unreached"}
    assert started(stage) == ["web2"]


# --- the failure budget ---


def test_a_task_halts_when_more_hosts_failed_than_may() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(rollout=Rollout(waves=("2", "4")), failures_max="1"))
    end(stage, task_id, "web1", outcome=Outcome.FAILURE)
    end(stage, task_id, "web2")
    assert len(started(stage)) == 4, "one may fail"
    end(stage, task_id, "web3", outcome=Outcome.TIMEOUT)
    [halted] = stage.decided(events.TasksHalted)
    assert halted.halts == (events.Halt(task_id=task_id, failures=2, failures_max=1, wave=2),)
    end(stage, task_id, "web4")
    stage.passes(60_000)
    assert len(started(stage)) == 4
    assert task_of(stage, task_id).hold is not None


def test_a_rollout_halts_at_its_first_failure_unless_it_says_otherwise() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(rollout=Rollout(waves=("1",))))
    end(stage, task_id, "web1", outcome=Outcome.FAILURE)
    assert started(stage) == ["web1"]
    assert len(stage.decided(events.TasksHalted)) == 1


def test_a_budget_in_percent_is_of_all_hosts() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(parallel=1, failures_max="25%"))
    end(stage, task_id, "web1", "web2", outcome=Outcome.FAILURE)
    assert stage.decided(events.TasksHalted) == []
    end(stage, task_id, "web3", outcome=Outcome.FAILURE)
    assert len(stage.decided(events.TasksHalted)) == 1


def test_a_failure_that_is_tried_again_does_not_count_yet() -> None:
    stage = fleet()
    task_id = stage.submitted(
        shell(rollout=Rollout(waves=("1",)), retry=Retry(attempts_max=2, backoff_ms=1_000))
    )
    end(stage, task_id, "web1", outcome=Outcome.FAILURE)
    stage.later(3_000)
    stage.ended(task_id, "web1", 2)
    assert stage.decided(events.TasksHalted) == []
    assert len(started(stage)) == 9


def test_what_was_never_reached_does_not_count() -> None:
    stage = Stage()
    stage.enrolled("web1")
    stage.connected("web2")
    stage.submitted(shell(rollout=Rollout(batch="1"), failures_max="0"))
    assert stage.decided(events.TasksHalted) == []


def test_a_halted_task_goes_on_when_resumed_and_its_failures_are_forgiven() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(rollout=Rollout(batch="1")))
    end(stage, task_id, "web1", outcome=Outcome.FAILURE)
    stage.happened(control_events.ResumeRequested(task_id=task_id))
    assert started(stage) == ["web1", "web2"]
    end(stage, task_id, "web2", outcome=Outcome.FAILURE)
    assert len(stage.decided(events.TasksHalted)) == 2


def test_nothing_halts_where_nothing_more_would_start() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(target="web1", rollout=Rollout(batch="1")))
    end(stage, task_id, "web1", outcome=Outcome.FAILURE)
    assert stage.decided(events.TasksHalted) == []
    assert len(stage.decided(events.TasksEnded)) == 1


# --- pause, abort, skip ---


def test_a_paused_task_starts_nothing_more_and_what_runs_goes_on() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(parallel=1))
    stage.happened(control_events.PauseRequested(task_id=task_id, reason="pager"))
    end(stage, task_id, "web1")
    stage.passes(60_000)
    assert started(stage) == ["web1"]
    assert stage.pushed(pushes.CancelPush) == []
    stage.happened(control_events.ResumeRequested(task_id=task_id))
    assert started(stage) == ["web1", "web2"]


def test_a_task_without_any_limit_can_be_paused_too() -> None:
    stage = Stage()
    stage.enrolled("web1")
    task_id = stage.submitted(shell(wait_offline_ms=600_000))
    stage.happened(control_events.PauseRequested(task_id=task_id))
    stage.opens("web1")
    stage.beats("web1")
    stage.later(5_000)
    assert started(stage) == []
    stage.happened(control_events.ResumeRequested(task_id=task_id))
    assert started(stage) == ["web1"]


def test_nothing_of_a_paused_task_is_unreached_while_it_is_paused() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.enrolled("web2")
    task_id = stage.submitted(shell(parallel=1, wait_offline_ms=10_000))
    stage.happened(control_events.PauseRequested(task_id=task_id))
    stage.later(30_000)
    assert stage.outcomes(task_id) == {}


def test_an_aborted_task_skips_what_waits_and_lets_run_what_runs() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(parallel=2))
    stage.happened(control_events.AbortRequested(task_id=task_id, reason="enough"))
    assert stage.pushed(pushes.CancelPush) == []
    end(stage, task_id, "web1", "web2")
    assert stage.decided(events.TasksEnded)[0].tasks[0].counts == {Outcome.SKIPPED: 6, Outcome.SUCCESS: 2}


def test_a_halted_task_can_be_aborted() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(rollout=Rollout(batch="1")))
    end(stage, task_id, "web1", outcome=Outcome.FAILURE)
    stage.happened(control_events.AbortRequested(task_id=task_id))
    assert stage.decided(events.TasksEnded)[0].tasks[0].outcome is Outcome.FAILURE


def test_a_cancel_after_an_abort_also_stops_what_runs() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(parallel=1))
    stage.happened(control_events.AbortRequested(task_id=task_id))
    stage.happened(control_events.CancelRequested(task_id=task_id))
    assert stage.pushed(pushes.CancelPush) == [(task_id, 1)]


def test_a_skipped_host_is_passed_over_and_the_rest_goes_on() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(rollout=Rollout(waves=("1", "2"))))
    stage.happened(control_events.SkipRequested(task_id=task_id, host_ids=("h-web2", "h-web1")))
    assert stage.outcomes(task_id) == {"web2": "skipped"}, "web1 is under way: a skip is for what waits"
    end(stage, task_id, "web1")
    assert started(stage) == ["web1", *HOSTS[2:]]


# --- cancels ---


def test_a_cancel_for_single_hosts_that_comes_before_the_plan_holds() -> None:
    stage = fleet()
    stage.engine.follow()  # nobody plans for a moment
    task_id = stage.submitted(shell(target="web1,web2"))
    stage.happened(control_events.CancelRequested(task_id=task_id, host_ids=("h-web1",)))
    stage.engine.lead(stage.now_ms)
    stage.settle()
    assert started(stage) == ["web2"]
    assert stage.outcomes(task_id) == {"web1": "cancelled"}


def test_every_open_task_is_cancelled_by_one_event() -> None:
    stage = fleet()
    tasks = [stage.submitted(shell(parallel=1)) for _ in range(3)]
    stage.happened(control_events.AllCancelRequested(reason="wrong release"))
    assert sorted(set(stage.pushed(pushes.CancelPush))) == sorted((task_id, 1) for task_id in tasks)
    after = stage.submitted(shell(target="web8"))
    assert (after, 1) in stage.pushed(pushes.StartPush)


def test_what_an_abort_let_go_on_is_stopped_when_the_tasks_time_is_over() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(parallel=1, task_timeout_ms=20_000))
    stage.happened(control_events.AbortRequested(task_id=task_id))
    stage.passes(25_000)
    assert stage.pushed(pushes.CancelPush)[0] == (task_id, 1)


def test_what_an_abort_let_go_on_on_one_host_can_be_cancelled() -> None:
    stage = fleet()
    task_id = stage.submitted(shell(parallel=2))
    stage.happened(control_events.AbortRequested(task_id=task_id))
    stage.happened(control_events.CancelRequested(task_id=task_id, host_ids=("h-web1",)))
    assert stage.pushed(pushes.CancelPush, "web1") == [(task_id, 1)]
    assert stage.pushed(pushes.CancelPush, "web2") == []


def test_an_aborted_run_is_stopped_for_the_one_that_takes_its_place() -> None:
    stage = fleet()
    old = stage.submitted(shell(target="web1", key="deploy"))
    stage.happened(control_events.AbortRequested(task_id=old))
    stage.submitted(shell(target="web1", key="deploy", single_run="replace"))
    assert stage.pushed(pushes.CancelPush) == [(old, 1)]

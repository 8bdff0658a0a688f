"""From a submitted task to pushes and ends."""

from __future__ import annotations

from fleetlog_dispatcher.delivery import FORGETS_TOGETHER, FORGETTING_PER_ROUND_MAX
from fleetlog_dispatcher.live import SWEEP_MS
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import control_events, events, host_events, pushes
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.reports import Held, HeldState
from fleetlog_schemas.spec import Retry
from fleetlog_testing.dispatching import Stage, shell


def test_a_task_is_planned_dispatched_and_pushed_to_each_of_its_hosts() -> None:
    stage = Stage()
    stage.connected("web1", "web2")
    task_id = stage.submitted(shell("uptime"))
    assert sorted(stage.pushed(pushes.StartPush, "web1") + stage.pushed(pushes.StartPush, "web2")) == [
        (task_id, 1), (task_id, 1),
    ]


def test_a_task_is_planned_and_dispatched_in_one_batch_where_nothing_waits() -> None:
    stage = Stage()
    stage.connected("web1", "web2")
    stage.submitted(shell(parallel=1))
    planned = next(event for event in stage.log if isinstance(event.data, events.TasksPlanned))
    dispatched = next(event for event in stage.log if isinstance(event.data, events.AttemptsDispatched))
    assert dispatched.seq == planned.seq + 1
    assert len(dispatched.data.attempts) == 1


def test_a_new_task_does_not_overtake_what_waits_for_a_host() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=1))
    stage.connected("web1")
    first, second, third = (stage.submitted(shell(name)) for name in "abc")
    stage.ended(first, "web1")
    assert stage.pushed(pushes.StartPush) == [(first, 1), (second, 1)]
    stage.ended(second, "web1")
    assert stage.pushed(pushes.StartPush)[-1] == (third, 1)


def test_nothing_is_pushed_before_the_dispatch_is_read_back() -> None:
    stage = Stage()
    stage.connected("web1")
    seq_before = stage.seq
    stage.submitted(shell())
    dispatched = next(event.seq for event in stage.log if isinstance(event.data, events.AttemptsDispatched))
    [start] = [push for push in stage.sent if isinstance(push, pushes.StartPush)]
    assert start.seq >= dispatched > seq_before


def test_a_task_ends_when_its_last_command_has_ended() -> None:
    stage = Stage()
    stage.connected("web1", "web2")
    task_id = stage.submitted(shell())
    stage.ended(task_id, "web1")
    assert stage.decided(events.TasksEnded) == []
    stage.ended(task_id, "web2", outcome=Outcome.FAILURE, exit_code=3)
    [ended] = stage.decided(events.TasksEnded)
    assert ended.tasks[0].outcome is Outcome.FAILURE
    assert ended.tasks[0].counts == {Outcome.SUCCESS: 1, Outcome.FAILURE: 1}
    assert task_id not in stage.state.tasks.by_id


def test_an_end_that_the_host_reported_is_told_to_be_forgotten() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.ended(task_id, "web1")
    stage.later(SWEEP_MS)
    assert stage.pushed(pushes.ForgetPush, "web1") == [(task_id, 1)]


def test_forgets_gather_until_the_next_sweep_so_that_the_next_command_meets_none() -> None:
    stage = Stage()
    stage.connected("web1")
    for _ in range(3):
        stage.ended(stage.submitted(shell()), "web1")
    assert stage.pushed(pushes.ForgetPush) == []
    stage.later(SWEEP_MS)
    told = [push for push in stage.sent if isinstance(push, pushes.ForgetPush)]
    assert [len(push.attempts) for push in told] == [3]


def test_many_forgets_wait_for_no_sweep_for_a_host_holds_only_so_much() -> None:
    stage = Stage()
    stage.connected("web1")
    for _ in range(FORGETS_TOGETHER):
        stage.ended(stage.submitted(shell()), "web1")
    assert len(stage.pushed(pushes.ForgetPush, "web1")) == FORGETS_TOGETHER


def test_many_hosts_are_told_to_forget_in_rounds_one_right_after_the_other() -> None:
    stage = Stage()
    names = [f"web{number}" for number in range(2 * FORGETTING_PER_ROUND_MAX + 50)]
    stage.connected(*names)
    task_id = stage.submitted(shell())
    for name in names:
        stage.ended(task_id, name)
    stage.now_ms += SWEEP_MS
    rounds = []
    for _ in range(3):
        stage.sent.clear()
        stage.settle()
        rounds.append((len(stage.pushed(pushes.ForgetPush)), stage.engine.wake_at_ms == stage.now_ms))
    assert rounds == [(FORGETTING_PER_ROUND_MAX, True), (FORGETTING_PER_ROUND_MAX, True), (50, False)]


def test_a_host_that_still_holds_a_settled_attempt_is_told_again() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.ended(task_id, "web1")
    stage.later(SWEEP_MS)
    stage.beats("web1", Held(task_id, 1, HeldState.ENDED))
    stage.later(SWEEP_MS)
    assert stage.pushed(pushes.ForgetPush, "web1") == [(task_id, 1), (task_id, 1)]


def test_no_more_than_the_slots_of_a_host_are_in_flight() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=2))
    stage.connected("web1")
    tasks = [stage.submitted(shell(str(number))) for number in range(4)]
    assert stage.pushed(pushes.StartPush) == [(tasks[0], 1), (tasks[1], 1)]
    stage.ended(tasks[1], "web1")
    assert stage.pushed(pushes.StartPush)[-1] == (tasks[2], 1)


def test_a_task_has_no_more_commands_in_flight_than_it_allows() -> None:
    stage = Stage()
    stage.connected("web1", "web2", "web3")
    task_id = stage.submitted(shell(parallel=1))
    assert stage.pushed(pushes.StartPush, "web1") == [(task_id, 1)]
    assert stage.pushed(pushes.StartPush, "web2") == []
    stage.ended(task_id, "web1")
    assert stage.pushed(pushes.StartPush, "web2") == [(task_id, 1)]


def test_an_unknown_host_refuses_the_task_at_once() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell(target="web01"))
    [refused] = stage.decided(events.TasksRefused)
    assert refused.refusals[0].task_id == task_id
    assert refused.refusals[0].code == "target-unknown"
    assert "did you mean web1" in refused.refusals[0].message


def test_an_offline_host_is_unreached_at_once_unless_the_task_waits() -> None:
    stage = Stage()
    stage.enrolled("web1")
    at_once = stage.submitted(shell())
    assert stage.outcomes(at_once) == {"web1": "unreached"}
    waits = stage.submitted(shell(wait_offline_ms=60_000))
    assert stage.outcomes(waits) == {}
    stage.later(61_000)
    assert stage.outcomes(waits) == {"web1": "unreached"}


def test_a_command_that_waits_runs_when_its_host_comes_back() -> None:
    stage = Stage()
    stage.enrolled("web1")
    task_id = stage.submitted(shell(wait_offline_ms=60_000))
    stage.later(10_000)
    stage.opens("web1")
    stage.beats("web1")
    assert stage.pushed(pushes.StartPush, "web1") == [(task_id, 1)]


def test_a_host_in_maintenance_gets_nothing_new() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.happened(host_events.MaintenanceSet(host_id="h-web1", on=True, reason="disk"))
    assert stage.outcomes(stage.submitted(shell())) == {"web1": "unreached"}
    stage.happened(host_events.MaintenanceSet(host_id="h-web1", on=False))
    stage.submitted(shell())
    assert len(stage.pushed(pushes.StartPush)) == 1


def test_a_failure_is_retried_after_its_backoff_and_no_sooner() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell(retry=Retry(attempts_max=2, backoff_ms=10_000)))
    stage.ended(task_id, "web1", outcome=Outcome.FAILURE, exit_code=1)
    stage.later(4_000)
    assert stage.pushed(pushes.StartPush) == [(task_id, 1)]
    stage.beats("web1")
    stage.later(7_000)
    assert stage.pushed(pushes.StartPush)[-1] == (task_id, 2)
    stage.ended(task_id, "web1", attempt=2)
    assert stage.decided(events.TasksEnded)[0].tasks[0].outcome is Outcome.SUCCESS


def test_an_unconfirmed_start_is_sent_again_until_the_host_confirms_it() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.later(3_000)
    assert stage.pushed(pushes.StartPush) == [(task_id, 1)] * 2
    stage.beats("web1", Held(task_id, 1, HeldState.RUNNING))
    stage.later(15_000)
    assert stage.pushed(pushes.StartPush) == [(task_id, 1)] * 2


def test_an_attempt_that_the_host_held_and_no_longer_holds_is_lost() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.beats("web1", Held(task_id, 1, HeldState.RUNNING))
    stage.beats("web1")
    stage.later(1_000)
    assert stage.outcomes(task_id) == {"web1": "lost"}


def test_a_heartbeat_older_than_what_the_log_has_of_the_host_proves_nothing() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    start = events.Start(task_id=task_id, host_id="h-web1", attempt=1, started_ms=stage.now_ms)
    stage.happened(events.AttemptsStarted(attempts=(start,), counters={"h-web1": 9}), events.RESULT)
    stage.beats("web1", counter=8)
    stage.later(2_000)
    assert stage.outcomes(task_id) == {}


def test_a_running_attempt_is_lost_only_after_its_deadline_and_grace() -> None:
    settings = DispatcherSettings()
    stage = Stage(settings)
    stage.connected("web1")
    task_id = stage.submitted(shell(timeout_ms=60_000))
    stage.started(task_id, "web1")
    stage.later(60_000 + settings.kill_grace_ms + settings.end_grace_ms - 1_000)
    assert stage.outcomes(task_id) == {}
    stage.later(2_000)
    assert stage.outcomes(task_id) == {"web1": "lost"}


def test_what_was_sent_and_never_confirmed_is_lost_and_not_unreached() -> None:
    settings = DispatcherSettings()
    stage = Stage(settings)
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.later(settings.delivery_grace_ms + settings.end_grace_ms + 1_000)
    assert stage.outcomes(task_id) == {"web1": "lost"}
    assert (task_id, 1) in stage.pushed(pushes.CancelPush)


def test_a_late_end_after_lost_changes_nothing_and_is_forgotten() -> None:
    settings = DispatcherSettings()
    stage = Stage(settings)
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.later(settings.delivery_grace_ms + settings.end_grace_ms + 1_000)
    assert task_id in stage.state.unsettled
    stage.ended(task_id, "web1", ended_ms=1)
    assert [end.tasks[0].outcome for end in stage.decided(events.TasksEnded)] == [Outcome.LOST]
    stage.later(SWEEP_MS)
    assert stage.pushed(pushes.ForgetPush)[-1] == (task_id, 1)
    assert task_id not in stage.state.tasks.by_id


def test_a_lost_attempt_that_turns_out_to_run_is_told_to_stop() -> None:
    settings = DispatcherSettings()
    stage = Stage(settings)
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.later(settings.delivery_grace_ms + settings.end_grace_ms + 1_000)
    before = len(stage.pushed(pushes.CancelPush))
    stage.opens("web1", Held(task_id, 1, HeldState.RUNNING))
    stage.beats("web1", Held(task_id, 1, HeldState.RUNNING))
    assert len(stage.pushed(pushes.CancelPush)) == before + 1


def test_a_cancel_ends_what_waits_and_pushes_to_what_runs() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=1))
    stage.connected("web1")
    first, second = stage.submitted(shell("a")), stage.submitted(shell("b"))
    stage.happened(control_events.CancelRequested(task_id=second, reason="enough"))
    assert stage.outcomes(second) == {"web1": "cancelled"}
    stage.happened(control_events.CancelRequested(task_id=first))
    assert stage.outcomes(first) == {}
    [cancel] = [push for push in stage.sent if isinstance(push, pushes.CancelPush)]
    assert (cancel.attempts[0].task_id, cancel.attempts[0].reason) == (first, "cancelled")
    stage.ended(first, "web1", outcome=Outcome.CANCELLED)
    assert [one.tasks[0].outcome for one in stage.decided(events.TasksEnded)] == [Outcome.CANCELLED] * 2


def test_a_cancel_that_comes_before_the_dispatch_is_read_back_makes_it_void() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.new_id()
    # Both stand in the log before the dispatcher's own decision does.
    stage._stored(stage.new_id(), events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=shell()),)), events.REQUEST, "ann")
    stage._stored(stage.new_id(), control_events.CancelRequested(task_id=task_id), events.REQUEST, "ann")
    stage.settle()
    assert stage.pushed(pushes.StartPush) == []
    assert stage.outcomes(task_id) == {"web1": "cancelled"}


def test_single_commands_can_be_cancelled() -> None:
    stage = Stage()
    stage.connected("web1", "web2")
    task_id = stage.submitted(shell())
    stage.happened(control_events.CancelRequested(task_id=task_id, host_ids=("h-web2",)))
    assert stage.pushed(pushes.CancelPush) == [(task_id, 1)]
    stage.ended(task_id, "web2", outcome=Outcome.CANCELLED)
    stage.ended(task_id, "web1")
    assert stage.decided(events.TasksEnded)[0].tasks[0].counts == {Outcome.SUCCESS: 1, Outcome.CANCELLED: 1}


def test_a_task_that_outlives_its_time_is_stopped() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=1))
    stage.connected("web1")
    first = stage.submitted(shell("a", task_timeout_ms=30_000))
    second = stage.submitted(shell("b", task_timeout_ms=10_000))
    stage.started(first, "web1")
    stage.later(12_000)
    assert stage.outcomes(second) == {"web1": "skipped"}
    stage.beats("web1", Held(first, 1, HeldState.RUNNING))
    stage.later(20_000)
    cancels = [push for push in stage.sent if isinstance(push, pushes.CancelPush)]
    assert {one.reason for push in cancels for one in push.attempts} == {"timeout"}


def test_a_new_dispatcher_takes_up_what_the_log_says_is_open() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=1))
    stage.connected("web1")
    first, second = stage.submitted(shell("a")), stage.submitted(shell("b"))
    stage.sent.clear()
    stage.engine.follow()
    stage.engine.lead(stage.now_ms)
    stage.settle()
    assert stage.pushed(pushes.StartPush) == [(first, 1)]
    stage.ended(first, "web1")
    assert stage.pushed(pushes.StartPush)[-1] == (second, 1)


def test_a_dispatcher_that_has_read_less_than_a_host_obeyed_does_nothing_for_it() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.beats("web1", newest_seq=10_000)
    task_id = stage.submitted(shell())
    assert stage.decided(events.AttemptsDispatched) == []
    stage.beats("web1", newest_seq=stage.seq)
    assert stage.pushed(pushes.StartPush) == [(task_id, 1)]


def test_an_agents_word_that_it_never_started_is_unreached() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    stage.ended(task_id, "web1", outcome=Outcome.UNREACHED, ran=Ran.NO)
    assert stage.decided(events.TasksEnded)[0].tasks[0].outcome is Outcome.UNREACHED


def test_a_host_that_comes_back_too_late_never_got_it() -> None:
    settings = DispatcherSettings()
    stage = Stage(settings)
    stage.connected("web1")
    stage.beats("web1", goodbye=True)
    # The dispatch slips in just before the goodbye is folded.
    task_id = stage.submitted(shell(wait_offline_ms=5_000))
    assert stage.outcomes(task_id) == {}
    stage.later(6_000)
    assert stage.outcomes(task_id) == {"web1": "unreached"}


def test_load_and_free_room_hold_dispatch_back() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.beats("web1", spool_full=True)
    stage.submitted(shell())
    assert stage.pushed(pushes.StartPush) == []
    stage.beats("web1")
    assert len(stage.pushed(pushes.StartPush)) == 1


def test_deciding_twice_adds_nothing() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.submitted(shell(wait_offline_ms=1_000))
    before = len(stage.log), len(stage.sent)
    stage.settle()
    stage.settle()
    assert (len(stage.log), len(stage.sent)) == before


def test_reports_that_were_refused_are_forgotten() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    key = events.AttemptKey(task_id=task_id, host_id="h-web1", attempt=1)
    stage.happened(host_events.ReportsRefused(host_id="h-web1", minute=1, counts={"token": 1}, attempts=(key,)))
    stage.later(SWEEP_MS)
    assert stage.pushed(pushes.ForgetPush) == [(task_id, 1)]


def test_the_same_target_means_other_hosts_once_hosts_are_enrolled_labelled_or_revoked() -> None:
    stage = Stage()
    stage.connected("web1", role="web")
    found = [stage.dispatched_hosts(stage.submitted(shell(target="role=web")))]
    stage.connected("web2", role="web")
    found.append(stage.dispatched_hosts(stage.submitted(shell(target="role=web"))))
    stage.happened(host_events.HostLabelled(host_id="h-web1", labels={"role": "db"}))
    found.append(stage.dispatched_hosts(stage.submitted(shell(target="role=web"))))
    stage.connected("web3", role="web")
    stage.happened(host_events.HostRevoked(host_id="h-web2", public_key="key of web2"))
    found.append(stage.dispatched_hosts(stage.submitted(shell(target="role=web"))))
    assert found == [["web1"], ["web1", "web2"], ["web2"], ["web3"]]

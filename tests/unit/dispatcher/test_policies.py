"""Freezes, windows and maintenance: nothing more is dispatched, at once, and whatever was decided a moment before."""

from __future__ import annotations

import datetime as dt

import msgspec

from fleetlog_runtime.pure.effects import Request
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import admission, events, host_events, policy_events, pushes, subjects
from fleetlog_schemas.policy_events import Window
from fleetlog_testing.dispatching import LOAD, NOW_MS, Stage, shell

NOW = dt.datetime.fromtimestamp(NOW_MS / 1000, dt.UTC)


def freeze(stage: Stage, target: str = "all", freeze_id: str = "f1") -> None:
    stage.happened(policy_events.FleetFrozen(freeze_id=freeze_id, target=target, reason="incident"))


def window(kind: str, target: str = "all", *, minutes_from_now: int = 0, lasts: int = 60) -> Window:
    begins = NOW + dt.timedelta(minutes=minutes_from_now)
    return Window(
        kind=kind, target=target, days=(begins.weekday(),), begins=f"{begins:%H:%M}", lasts_minutes=lasts  # type: ignore[arg-type]
    )


def test_nothing_is_dispatched_while_the_fleet_is_frozen_and_all_of_it_when_it_is_thawed() -> None:
    stage = Stage()
    stage.connected("web1", "web2")
    freeze(stage)
    plain, limited = stage.submitted(shell()), stage.submitted(shell(parallel=2))
    stage.passes(30_000)
    assert stage.dispatched() == []
    assert stage.outcomes(plain) == {}, "a freeze is no reason to give a host up"
    stage.happened(policy_events.FleetThawed(freeze_id="f1"))
    assert sorted(stage.dispatched()) == sorted([plain, plain, limited, limited])


def test_a_freeze_of_some_hosts_leaves_the_others_alone() -> None:
    stage = Stage()
    stage.connected("db1", role="db")
    stage.connected("web1")
    freeze(stage, "role=db")
    stage.submitted(shell())
    assert stage.dispatched("db1") == []
    assert len(stage.dispatched("web1")) == 1


def test_a_host_that_gets_a_frozen_label_later_is_frozen_too() -> None:
    stage = Stage()
    stage.connected("web1")
    freeze(stage, "role=db")
    stage.happened(host_events.HostLabelled(host_id="h-web1", labels={"role": "db"}))
    stage.submitted(shell())
    assert stage.dispatched() == []


def test_two_freezes_are_thawed_one_by_one() -> None:
    stage = Stage()
    stage.connected("web1")
    freeze(stage, freeze_id="f1")
    freeze(stage, "web1", freeze_id="f2")
    stage.submitted(shell())
    stage.happened(policy_events.FleetThawed(freeze_id="f1"))
    assert stage.dispatched() == []
    stage.happened(policy_events.FleetThawed(freeze_id="f2"))
    assert len(stage.dispatched()) == 1


def test_a_freeze_whose_target_cannot_be_read_freezes_everything() -> None:
    stage = Stage()
    stage.connected("web1")
    freeze(stage, "role in (")
    stage.submitted(shell())
    assert stage.dispatched() == []


def test_what_runs_when_the_freeze_comes_goes_on() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.submitted(shell())
    freeze(stage)
    assert stage.pushed(pushes.CancelPush) == []
    stage.ended(task_id, "web1")
    assert len(stage.decided(events.TasksEnded)) == 1


def test_a_dispatch_that_was_decided_before_a_freeze_and_stored_after_it_is_void() -> None:
    stage = Stage()
    stage.connected("web1")
    task_id = stage.new_id()
    stage.engine.deliver([], stage.now_ms)
    stage._stored(stage.new_id(), events.TasksSubmitted(tasks=(events.Submission(task_id, shell()),)), events.REQUEST, "ann")
    [batch] = stage.engine.step(stage.now_ms)[:1]
    # The batch is under way; the freeze overtakes it.
    stage._stored(
        stage.new_id(), policy_events.FleetFrozen(freeze_id="f1", target="all", reason="now"), events.CATALOG, "ann"
    )
    stage._perform(batch)
    stage.settle()
    assert stage.dispatched() == [task_id], "it stands in the log"
    assert stage.sent == [], "and has no effect"
    stage.happened(policy_events.FleetThawed(freeze_id="f1"))
    assert stage.pushed(pushes.StartPush) == [(task_id, 1)]


def test_a_host_gets_work_only_within_its_maintenance_window() -> None:
    stage = Stage()
    stage.connected("web1", "web2")
    stage.happened(policy_events.WindowSet(name="soon", window=window("maintenance", "web1", minutes_from_now=2)))
    task_id = stage.submitted(shell())
    assert stage.dispatched_hosts(task_id) == ["web2"]
    stage.passes(130_000)
    assert stage.dispatched_hosts(task_id) == ["web2", "web1"]


def test_any_of_several_maintenance_windows_will_do() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.happened(policy_events.WindowSet(name="later", window=window("maintenance", minutes_from_now=120)))
    stage.happened(policy_events.WindowSet(name="now", window=window("maintenance")))
    assert len(stage.dispatched_hosts(stage.submitted(shell()))) == 1


def test_a_host_gets_nothing_during_a_blackout_even_inside_its_maintenance_window() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.happened(policy_events.WindowSet(name="open", window=window("maintenance")))
    stage.happened(policy_events.WindowSet(name="sale", window=window("blackout", lasts=1)))
    task_id = stage.submitted(shell())
    assert stage.dispatched() == []
    stage.passes(70_000)
    assert stage.dispatched() == [task_id]


def test_a_task_may_ignore_windows_and_never_a_freeze() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.happened(policy_events.WindowSet(name="sale", window=window("blackout")))
    urgent = stage.submitted(shell(ignore_windows=True))
    assert stage.dispatched() == [urgent]
    freeze(stage)
    stage.submitted(shell(ignore_windows=True))
    assert stage.dispatched() == [urgent]


def test_a_window_that_is_removed_no_longer_counts() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.happened(policy_events.WindowSet(name="sale", window=window("blackout")))
    stage.submitted(shell())
    stage.happened(policy_events.WindowRemoved(name="sale"))
    assert len(stage.dispatched()) == 1


def test_a_dispatcher_that_takes_over_knows_of_the_freeze() -> None:
    stage = Stage()
    stage.connected("web1")
    freeze(stage)
    stage.submitted(shell())
    stage.engine.follow()
    stage.engine.lead(stage.now_ms)
    stage.settle()
    assert stage.dispatched() == []


def test_what_narrows_admission_is_told_to_whoever_asks() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=2))
    stage.connected("web1")
    stage.happened(policy_events.QueueLimited(queue="builds", in_flight_max=1))
    stage.happened(policy_events.WindowSet(name="sale", window=window("blackout", "web1")))
    for _ in range(2):
        stage.submitted(shell(queue="builds", ignore_windows=True))
    freeze(stage)
    answer = ask(stage)
    assert (answer.in_flight, answer.waiting) == (1, 1)
    assert [(one.queue, one.in_flight_max, one.in_flight, one.waiting) for one in answer.queues] == [("builds", 1, 1, 1)]
    assert [(one.by, one.reason, one.hosts) for one in answer.freezes] == [("ann", "incident", 1)]
    [sale] = answer.windows
    assert (sale.name, sale.open, sale.hosts) == ("sale", True, 1)
    assert sale.opens_at is not None
    assert answer.busy == []


def test_a_busy_host_is_named_with_what_it_still_takes() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.beats("web1", load=msgspec.structs.replace(LOAD, load_1m=50.0))
    [busy] = ask(stage).busy
    assert (busy.name, busy.slots, busy.slots_max, busy.why) == ("web1", 2, 4, "load 50.0 on 1 processors")


def ask(stage: Stage) -> admission.AdmissionAnswer:
    stage.engine.observe(Request(subjects.ask("dispatcher", "admission"), b"{}", "me"), stage.now_ms)
    stage.settle()
    return msgspec.convert(stage.answers[-1][1]["data"], admission.AdmissionAnswer)

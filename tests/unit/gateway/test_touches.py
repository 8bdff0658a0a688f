"""Which tasks an event is about, and which act on all of them; every type of event is known."""

from __future__ import annotations

import pytest

from fleetlog_gateway.touches import every_task, task_ids
from fleetlog_schemas import (
    alert_events,
    archive_events,
    control_events,
    definition_events,
    events,
    host_events,
    lifecycle,
    policy_events,
    records,
    schedule_events,
)
from fleetlog_schemas.codec import Event
from fleetlog_schemas.definitions import Definition
from fleetlog_schemas.file_events import FileRemoved, FileSaved
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Shell, TaskSpec
from fleetlog_schemas.workflow_events import PartDecision, PartsDecided

SPEC = TaskSpec(payload=Shell(argv=("true",)), target="all")
WINDOW = policy_events.Window("blackout", "all", (0,), "02:00", 60)
END = events.End("a", "h1", 1, outcome=Outcome.SUCCESS, ran=Ran.YES)

SAMPLES: dict[type[events.Data], tuple[events.Data, set[str]]] = {
    events.TasksSubmitted: (
        events.TasksSubmitted(tasks=(events.Submission("a", SPEC), events.Submission("b", SPEC, part_of=events.PartOf("c", "x")))), {"a", "b", "c"},
    ),
    PartsDecided: (PartsDecided(parts=(PartDecision("a", "x", "begun"), PartDecision("b", "x", "ended"))), {"a", "b"}),
    control_events.CancelRequested: (control_events.CancelRequested("a"), {"a"}),
    events.TasksPlanned: (
        events.TasksPlanned(plans=(events.Plan("a", (), "h"), events.Plan("b", (), "h"))), {"a", "b"},
    ),
    events.TasksRefused: (events.TasksRefused(refusals=(events.Refusal("a", "code", "why"),)), {"a"}),
    events.TasksTimedOut: (events.TasksTimedOut(task_ids=("a", "b")), {"a", "b"}),
    events.TasksEnded: (events.TasksEnded(tasks=(events.TaskEnd("a", Outcome.SUCCESS, {}),)), {"a"}),
    events.AttemptsDispatched: (
        events.AttemptsDispatched(attempts=(events.Dispatch("a", "h1", 1, epoch=1), events.Dispatch("b", "h1", 1, epoch=1))),
        {"a", "b"},
    ),
    events.AttemptsStarted: (events.AttemptsStarted(attempts=(events.Start("a", "h1", 1, started_ms=1),)), {"a"}),
    events.AttemptsEnded: (events.AttemptsEnded(attempts=(END,)), {"a"}),
    host_events.ReportsRefused: (
        host_events.ReportsRefused("h1", 1, {"token": 1}, attempts=(events.AttemptKey("a", "h1", 1),)), {"a"},
    ),
    host_events.SessionsOpened: (host_events.SessionsOpened(sessions=()), set()),
    host_events.SessionsRefused: (host_events.SessionsRefused(hosts=()), set()),
    host_events.HostsOnline: (host_events.HostsOnline(hosts=()), set()),
    host_events.HostsOffline: (host_events.HostsOffline(hosts=()), set()),
    host_events.FactsChanged: (host_events.FactsChanged("h1", {}), set()),
    host_events.HostLabelled: (host_events.HostLabelled("h1", {}), set()),
    host_events.MaintenanceSet: (host_events.MaintenanceSet("h1", on=True), set()),
    host_events.HostAccepted: (host_events.HostAccepted("h1"), set()),
    host_events.HostInvited: (host_events.HostInvited("s", "n", {}, 1), set()),
    host_events.HostEnrolled: (host_events.HostEnrolled("h1", "n", {}, "k"), set()),
    host_events.HostRevoked: (host_events.HostRevoked("h1", "k"), set()),
    host_events.AccessRefused: (host_events.AccessRefused(1, {}), set()),
    control_events.PauseRequested: (control_events.PauseRequested("a"), {"a"}),
    control_events.ResumeRequested: (control_events.ResumeRequested("a"), {"a"}),
    control_events.TaskApproved: (control_events.TaskApproved("a", 2), {"a"}),
    control_events.AbortRequested: (control_events.AbortRequested("a"), {"a"}),
    control_events.SkipRequested: (control_events.SkipRequested("a", ("h1",)), {"a"}),
    events.TasksHalted: (events.TasksHalted(halts=(events.Halt("a", 2, 1, 1), events.Halt("b", 2, 1, 1))), {"a", "b"}),
    events.TasksReplaced: (events.TasksReplaced(replacements=(events.Replacement("a", "b"),)), {"a", "b"}),
    events.CommandsWaiting: (
        events.CommandsWaiting(
            groups=(
                events.WaitingFor("slot", "m", (events.WaitingCommands("a"), events.WaitingCommands("b", ("h1",)))),
                events.WaitingFor("freeze", "m", (events.WaitingCommands("c"),)),
            )
        ),
        {"a", "b", "c"},
    ),
    control_events.AllCancelRequested: (control_events.AllCancelRequested(), set()),
    policy_events.FleetFrozen: (policy_events.FleetFrozen("f", "all", "why"), set()),
    policy_events.FleetThawed: (policy_events.FleetThawed("f"), set()),
    policy_events.WindowSet: (policy_events.WindowSet("w", WINDOW), set()),
    policy_events.WindowRemoved: (policy_events.WindowRemoved("w"), set()),
    policy_events.QueueLimited: (policy_events.QueueLimited("q", 3), set()),
    archive_events.SegmentSealed: (archive_events.SegmentSealed(1, 2, 3, 4, 5, "s", "c"), set()),
    archive_events.LogPruned: (archive_events.LogPruned(2, {"evt.request": 2}, "age"), set()),
    definition_events.DefinitionSet: (definition_events.DefinitionSet("d", 1, Definition("report", SPEC)), set()),
    FileSaved: (FileSaved("a.sh", 1, "a" * 64, 1, ("/bin/sh",)), set()),
    FileRemoved: (FileRemoved("a.sh"), set()),
    definition_events.DefinitionRemoved: (definition_events.DefinitionRemoved("d", "report"), set()),
    schedule_events.ScheduleRegistered: (schedule_events.ScheduleRegistered("s", schedule_events.Rule("report")), set()),
    schedule_events.ScheduleUnregistered: (schedule_events.ScheduleUnregistered("s"), set()),
    schedule_events.ScheduleStarted: (schedule_events.ScheduleStarted("s"), set()),
    schedule_events.ScheduleStopped: (schedule_events.ScheduleStopped("s"), set()),
    schedule_events.SchedulePaused: (schedule_events.SchedulePaused("s", "why"), set()),
    schedule_events.ScheduleResumed: (schedule_events.ScheduleResumed("s"), set()),
    schedule_events.BackfillRequested: (schedule_events.BackfillRequested("s", (1,)), set()),
    schedule_events.TicksDecided: (
        schedule_events.TicksDecided((schedule_events.TickDecision("s", "fired", 1, task_id="a"), schedule_events.TickDecision("s", "missed", 2))),
        {"a"},
    ),
    alert_events.AlertsRaised: (alert_events.AlertsRaised(()), set()),
    alert_events.AlertsResolved: (alert_events.AlertsResolved(("a1",)), set()),
    alert_events.AlertAcknowledged: (alert_events.AlertAcknowledged("a1"), set()),
    alert_events.WebhookSet: (alert_events.WebhookSet("w", "pager", alert_events.Webhook("https://h", ())), set()),
    alert_events.WebhookRemoved: (alert_events.WebhookRemoved("w"), set()),
    alert_events.WebhookSecretRotated: (alert_events.WebhookSecretRotated("w", 2), set()),
    alert_events.WebhookTestRequested: (alert_events.WebhookTestRequested("w"), set()),
    alert_events.WebhooksAttempted: (alert_events.WebhooksAttempted(()), set()),
    alert_events.WebhookDisabled: (alert_events.WebhookDisabled("w", "gone", "why"), set()),
}


@pytest.mark.parametrize("name", sorted(events.REGISTRY))
def test_every_type_of_event_names_its_tasks(name: str) -> None:
    data, expected = SAMPLES[events.REGISTRY[name].data]
    assert task_ids(data) == expected


def test_an_event_whose_data_has_task_ids_touches_them() -> None:
    silent = [
        kind.__name__
        for kind, (data, expected) in SAMPLES.items()
        if not expected and "task_id" in repr(data)
    ]
    assert silent == []


@pytest.mark.parametrize("name", sorted(events.REGISTRY))
def test_what_ends_or_narrows_without_naming_a_task_acts_on_every_task(name: str) -> None:
    data, expected = SAMPLES[events.REGISTRY[name].data]
    tasks = records.Tasks()
    tasks.by_id["a"] = records.Task("a", SPEC, "ada", 1, 1)
    changed = lifecycle.apply(tasks, Event(id="e", source="/test", data=data, time_ms=5, seq=7, subject="evt.x"))
    acts = bool(tasks.narrowed_seq) or (bool(changed) and not expected)
    assert every_task(data) == acts


def test_a_host_that_is_given_back_narrows_nothing() -> None:
    assert not every_task(host_events.MaintenanceSet("h1", on=False))

"""One function says which tasks an event is about; it knows every type of event."""

from __future__ import annotations

import pytest

from fleetlog_gateway.touches import task_ids
from fleetlog_schemas import events
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Shell, TaskSpec

SPEC = TaskSpec(payload=Shell(argv=("true",)), target="all")
END = events.End("a", "h1", 1, outcome=Outcome.SUCCESS, ran=Ran.YES)

SAMPLES: dict[type[events.Data], tuple[events.Data, set[str]]] = {
    events.TasksSubmitted: (
        events.TasksSubmitted(tasks=(events.Submission("a", SPEC), events.Submission("b", SPEC))), {"a", "b"},
    ),
    events.CancelRequested: (events.CancelRequested("a"), {"a"}),
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
    events.ReportsRefused: (
        events.ReportsRefused("h1", 1, {"token": 1}, attempts=(events.AttemptKey("a", "h1", 1),)), {"a"},
    ),
    events.SessionsOpened: (events.SessionsOpened(sessions=()), set()),
    events.SessionsRefused: (events.SessionsRefused(hosts=()), set()),
    events.HostsOnline: (events.HostsOnline(hosts=()), set()),
    events.HostsOffline: (events.HostsOffline(hosts=()), set()),
    events.FactsChanged: (events.FactsChanged("h1", {}), set()),
    events.HostLabelled: (events.HostLabelled("h1", {}), set()),
    events.MaintenanceSet: (events.MaintenanceSet("h1", on=True), set()),
    events.HostAccepted: (events.HostAccepted("h1"), set()),
    events.HostInvited: (events.HostInvited("s", "n", {}, 1), set()),
    events.HostEnrolled: (events.HostEnrolled("h1", "n", {}, "k"), set()),
    events.HostRevoked: (events.HostRevoked("h1", "k"), set()),
    events.AccessRefused: (events.AccessRefused(1, {}), set()),
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

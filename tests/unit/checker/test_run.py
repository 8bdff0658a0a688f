"""What a run takes from the log as evidence: the events of a task, and every refusal of a host."""

from __future__ import annotations

from fleetlog_checker.run import alerts, named
from fleetlog_schemas import control_events, events, host_events
from fleetlog_schemas.spec import Shell, TaskSpec
from fleetlog_testing.history import History, make_id


def test_evidence_names_every_event_of_a_task_and_no_other() -> None:
    log = History()
    one, other = make_id(), make_id()
    spec = TaskSpec(payload=Shell(argv=("true",)), target="web01")
    log.add(events.TasksSubmitted(tasks=tuple(events.Submission(task_id=task_id, spec=spec) for task_id in (one, other))))
    log.add(control_events.CancelRequested(task_id=one))
    log.add(events.AttemptsDispatched(attempts=(events.Dispatch(task_id=other, host_id="hone", attempt=1, epoch=1),)))
    found = named(log.events)
    assert [line.split()[2] for line in found[one]] == ["task.submitted.v1", "task.cancel-requested.v1"]
    assert [line.split()[2] for line in found[other]] == ["task.submitted.v1", "attempt.dispatched.v1"]
    assert found[other][1].endswith("hone 1")


def test_every_refusal_of_an_honest_host_is_an_alert() -> None:
    log = History()
    refusal = host_events.SessionRefusal(host_id="hone", code="ticket", message="an old ticket")
    log.add(host_events.SessionsRefused(hosts=(refusal,)))
    log.add(host_events.ReportsRefused(host_id="htwo", minute=1, counts={"token": 2}))
    assert alerts(log.events) == [
        "event 1: host hone is refused (ticket): an old ticket", "event 2: reports of htwo are refused: {'token': 2}",
    ]

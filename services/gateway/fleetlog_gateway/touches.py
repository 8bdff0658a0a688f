"""Which tasks an event is about: one function, used by every live stream. Pure."""

from __future__ import annotations

from fleetlog_schemas import events


def task_ids(data: events.Data) -> frozenset[str]:
    """Return the ids of the tasks that *data* names; empty for events about hosts and access."""
    match data:
        case events.TasksSubmitted(tasks=tasks) | events.TasksEnded(tasks=tasks):
            return frozenset(task.task_id for task in tasks)
        case events.CancelRequested(task_id=task_id):
            return frozenset((task_id,))
        case events.TasksPlanned(plans=plans):
            return frozenset(plan.task_id for plan in plans)
        case events.TasksRefused(refusals=refusals):
            return frozenset(refusal.task_id for refusal in refusals)
        case events.TasksTimedOut(task_ids=ids):
            return frozenset(ids)
        case events.AttemptsDispatched(attempts=attempts):
            return frozenset(attempt.task_id for attempt in attempts)
        case events.AttemptsStarted(attempts=started):
            return frozenset(attempt.task_id for attempt in started)
        case events.AttemptsEnded(attempts=ended):
            return frozenset(attempt.task_id for attempt in ended)
        case events.ReportsRefused(attempts=refused):
            return frozenset(attempt.task_id for attempt in refused)
        case _:
            return frozenset()

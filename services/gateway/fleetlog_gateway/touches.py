"""Which tasks an event is about, and which events act on every task: used by every live stream. Pure."""

from __future__ import annotations

from fleetlog_schemas import control_events, events, host_events, policy_events
from fleetlog_schemas.schedule_events import TicksDecided
from fleetlog_schemas.workflow_events import PartsDecided


def task_ids(data: events.Data) -> frozenset[str]:
    """Return the ids of the tasks that *data* names; empty for events about hosts and access."""
    match data:
        case events.TasksSubmitted(tasks=tasks) | events.TasksEnded(tasks=tasks):
            return frozenset(one for task in tasks for one in (task.task_id, task.part_of and task.part_of.task_id) if one)
        case (
            control_events.CancelRequested(task_id=task_id) | control_events.PauseRequested(task_id=task_id)
            | control_events.ResumeRequested(task_id=task_id) | control_events.TaskApproved(task_id=task_id)
            | control_events.AbortRequested(task_id=task_id) | control_events.SkipRequested(task_id=task_id)
        ):
            return frozenset((task_id,))
        case events.TasksPlanned(plans=plans):
            return frozenset(plan.task_id for plan in plans)
        case events.TasksRefused(refusals=refusals):
            return frozenset(one for task in refusals for one in (task.task_id, task.part_of and task.part_of.task_id) if one)
        case PartsDecided(parts=parts):
            return frozenset(part.task_id for part in parts)
        case events.TasksTimedOut(task_ids=ids):
            return frozenset(ids)
        case events.TasksHalted(halts=halts):
            return frozenset(halt.task_id for halt in halts)
        case events.TasksReplaced(replacements=replacements):
            return frozenset(task_id for one in replacements for task_id in (one.task_id, one.by_task_id))
        case events.CommandsWaiting(groups=groups):
            return frozenset(commands.task_id for group in groups for commands in group.commands)
        case events.AttemptsDispatched(attempts=attempts):
            return frozenset(attempt.task_id for attempt in attempts)
        case events.AttemptsStarted(attempts=started):
            return frozenset(attempt.task_id for attempt in started)
        case events.AttemptsEnded(attempts=ended):
            return frozenset(attempt.task_id for attempt in ended)
        case host_events.ReportsRefused(attempts=refused):
            return frozenset(attempt.task_id for attempt in refused)
        case TicksDecided(ticks=ticks):
            return frozenset(tick.task_id for tick in ticks if tick.task_id)
        case _:
            return frozenset()


def every_task(data: events.Data) -> bool:
    """Tell whether an event acts on every open task without naming it.

    All are cancelled; or admission was narrowed, and a dispatch that was decided before that is void for whoever folds
    it (`lifecycle.apply`).
    """
    match data:
        case control_events.AllCancelRequested() | policy_events.FleetFrozen() | policy_events.WindowSet() | policy_events.QueueLimited():
            return True
        case host_events.MaintenanceSet(on=on):
            return on
        case _:
            return False

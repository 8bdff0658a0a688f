"""The one lifecycle of tasks, commands and attempts: every transition of all three begins in `apply`.

Theory of operation. The log's order settles every race: `apply` takes events in that order and is the only code
that changes these records, for the dispatcher, the reporter and replay alike. An event that finds no transition
in the table is void: it changes nothing, and is still in the log for whoever asks. The first end of an attempt
stands; another end is kept as `late`.

A task's state follows from its events; a command's from its attempts: it waits until an attempt is dispatched,
and it has ended when its last attempt has ended and `retry_due_ms` says that no other is due. So nobody can
forget to end a command, and no event is needed to schedule a retry.

Here is how tasks and attempts go forward. `commands.py` derives commands, `steering.py` has what keeps tasks and commands back,
`parts.py` the parts of workflows; this module alone calls them, so that what an event does is found from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from fleetlog_schemas import (
    commands,
    control_events,
    events,
    host_events,
    limits,
    parts,
    policy_events,
    steering,
)
from fleetlog_schemas.codec import Event
from fleetlog_schemas.ids import InvalidId, id_ms, is_made
from fleetlog_schemas.outcomes import Outcome, worst
from fleetlog_schemas.records import (
    Attempt,
    AttemptState,
    Change,
    Command,
    CommandState,
    Hold,
    Task,
    Tasks,
    TaskState,
    Wave,
)
from fleetlog_schemas.rollout import needs_approval
from fleetlog_schemas.spec import Workflow
from fleetlog_schemas.workflow_events import PartsDecided

ATTEMPT_TRANSITIONS: dict[tuple[AttemptState | None, type[events.Data]], AttemptState] = {
    (None, events.AttemptsDispatched): AttemptState.DISPATCHED,
    (None, events.AttemptsEnded): AttemptState.ENDED,  # ended by decision while it waited
    (AttemptState.DISPATCHED, events.AttemptsStarted): AttemptState.RUNNING,
    (AttemptState.DISPATCHED, events.AttemptsEnded): AttemptState.ENDED,
    (AttemptState.RUNNING, events.AttemptsEnded): AttemptState.ENDED,
}
"""From (state, event) to state; None is "there is no such attempt yet". What is absent is void."""

TASK_TRANSITIONS: dict[tuple[TaskState | None, type[events.Data]], TaskState] = {
    (None, events.TasksSubmitted): TaskState.SUBMITTED,
    (TaskState.SUBMITTED, events.TasksPlanned): TaskState.PLANNED,
    (TaskState.SUBMITTED, events.TasksRefused): TaskState.REFUSED,
    (TaskState.PLANNED, events.TasksEnded): TaskState.ENDED,
}

def same_end(one: events.End, other: events.End) -> bool:
    """Tell whether two ends of one attempt are the same report, delivered twice."""
    return (one.outcome, one.ran, one.exit_code, one.ended_ms, one.duration_ms) == (
        other.outcome, other.ran, other.exit_code, other.ended_ms, other.duration_ms,
    )


def task_end(task: Task, workflow: Task | None = None) -> events.TaskEnd:
    """Return the end of a planned task whose commands, or parts, have all ended; *workflow* is what it is a part of."""
    if task.parts:
        return parts.workflow_end(task)
    counts: dict[Outcome, int] = {}
    for command in task.commands.values():
        if command.outcome is not None:
            counts[command.outcome] = counts.get(command.outcome, 0) + 1
    value, by_host = parts.returned(workflow, task)
    return events.TaskEnd(task.task_id, worst(counts), counts, task.part_of, value, by_host)


def apply(tasks: Tasks, event: Event) -> list[Change]:
    """Fold one event into *tasks* and return what changed, in the order of the event's entries.

    Events about other things change nothing. Repeating an event changes nothing.
    """
    match event.data:
        case events.TasksSubmitted(tasks=submissions):
            _forget_old_ids(tasks, event.time_ms)
            return [c for one in submissions if (c := _submitted(tasks, event, one))]
        case events.TasksPlanned(plans=plans):
            return [c for plan in plans if (c := _planned(tasks, event, plan))]
        case events.TasksRefused(refusals=refusals):
            return _with_parts(tasks, event, refusals, [c for one in refusals if (c := _refused(tasks, event, one))])
        case events.AttemptsDispatched(attempts=dispatches):
            if 0 < event.data.decided_seq < tasks.narrowed_seq:
                return []  # admission was narrowed between the decision and its place in the log
            return [c for one in dispatches if (c := _dispatched(tasks, event, one))]
        case events.AttemptsStarted(attempts=starts):
            return [c for start in starts if (c := _started(tasks, event, start))]
        case events.AttemptsEnded(attempts=ends):
            return [c for end in ends if (c := _ended(tasks, event, end))]
        case control_events.CancelRequested():
            return steering.cancel_requested(tasks, event, event.data)
        case control_events.AllCancelRequested(reason=reason):
            return [c for one in list(tasks.by_id) for c in steering.stopped(tasks, one, event, "cancelled", reason)]
        case events.TasksTimedOut(task_ids=task_ids):
            return [c for one in task_ids for c in steering.stopped(tasks, one, event, "timeout", "the task's time is over")]
        case events.TasksReplaced(replacements=replacements):
            return [c for one in replacements for c in steering.replaced(tasks, event, one)]
        case control_events.AbortRequested(task_id=task_id, reason=reason):
            return steering.stopped(tasks, task_id, event, "aborted", reason)
        case control_events.SkipRequested():
            return steering.skip_requested(tasks, event, event.data)
        case control_events.PauseRequested(task_id=task_id, reason=reason):
            return steering.held(tasks, task_id, Hold("paused", event.authid or "", reason, event.time_ms))
        case events.TasksHalted(halts=halts):
            return [c for halt in halts for c in steering.halted(tasks, event, halt)]
        case control_events.ResumeRequested(task_id=task_id):
            return steering.resumed(tasks, tasks.by_id.get(task_id))
        case control_events.TaskApproved(task_id=task_id, wave=wave):
            return steering.approved(tasks.by_id.get(task_id), wave)
        case events.CommandsWaiting(groups=groups):
            for group in groups:
                steering.waiting(tasks, event.time_ms, group)
            return []
        case policy_events.FleetFrozen() | policy_events.WindowSet() | policy_events.QueueLimited() | host_events.MaintenanceSet(on=True):
            tasks.narrowed_seq = event.seq
            return []
        case events.TasksEnded(tasks=ends_of_tasks):
            return _with_parts(tasks, event, ends_of_tasks, [c for one in ends_of_tasks if (c := _task_ended(tasks, event, one))])
        case PartsDecided(parts=decisions):
            return [c for one in decisions if (c := parts.decided(tasks, event.time_ms, one))]
        case host_events.ReportsRefused(attempts=keys):
            return [c for key in keys if (c := _report_refused(tasks, key))]
        case _:
            return []


def _forget_old_ids(tasks: Tasks, now_ms: int) -> None:
    oldest = now_ms - limits.TASK_ID_AGE_MS_MAX - limits.TASK_ID_AHEAD_MS_MAX
    while tasks.closed:
        task_id, its_ms = next(iter(tasks.closed.items()))
        if its_ms >= oldest:
            return
        del tasks.closed[task_id]


def _submitted(tasks: Tasks, event: Event, one: events.Submission) -> Change | None:
    try:
        age_ms = event.time_ms - id_ms(one.task_id)
    except InvalidId:
        return None
    # An id that was made carries the time of a tick or a workflow, which may be long over; a fence keeps it unique.
    in_window = age_ms >= -limits.TASK_ID_AHEAD_MS_MAX and (age_ms <= limits.TASK_ID_AGE_MS_MAX or is_made(one.task_id))
    if not in_window or one.task_id in tasks.by_id or one.task_id in tasks.closed:
        return None
    record = parts.open_for(tasks, one.part_of) if one.part_of else None
    if one.part_of and (event.subject != events.DISPATCH or (record is None and not _is_unknown(tasks, one.part_of))):
        return None
    by = event.authid or one.submitted_by or (f"schedule {one.schedule}" if one.schedule else "")
    task = Task(
        task_id=one.task_id, spec=one.spec, submitted_by=by, submitted_ms=event.time_ms, submitted_seq=event.seq,
        schedule=one.schedule, nominal_ms=one.nominal_ms, part_of=one.part_of,
    )
    tasks.by_id[one.task_id] = task
    if record is not None:
        parts.submitted(record, task)
    return Change("submitted", task)


def _is_unknown(tasks: Tasks, of: events.PartOf) -> bool:
    return tasks.partial and of.task_id not in tasks.by_id


def _planned(tasks: Tasks, event: Event, plan: events.Plan) -> Change | None:
    task = tasks.by_id.get(plan.task_id)
    if task is None or (task.state, events.TasksPlanned) not in TASK_TRANSITIONS or plan.part != task.plan_parts:
        return None
    if plan.part == 0:
        task.waves = [Wave(hosts=size, open=size) for size in plan.waves]
    for host in plan.hosts:
        task.commands[host.host_id] = Command(host_id=host.host_id, host_name=host.name)
    task.plan_parts += 1
    if task.plan_parts < plan.parts:
        return None  # the rest of the plan follows in the same batch
    task.state = TaskState.PLANNED
    task.plan_hash = plan.plan_hash
    task.planned_ms = event.time_ms
    if isinstance(task.spec.payload, Workflow):
        parts.begin(task, event.time_ms)
        return Change("planned", task)
    task.open = len(task.commands)
    task.counts = {CommandState.WAITING.value: task.open}
    if sum(wave.hosts for wave in task.waves) != task.open or any(wave.hosts < 1 for wave in task.waves):
        task.waves = [Wave(hosts=task.open, open=task.open)]
    commands = iter(task.commands.values())
    for index, wave in enumerate(task.waves):
        for command in islice(commands, wave.hosts):
            command.wave = index
    for host_id in task.cancelled_early:
        if host_id in task.commands:
            task.commands[host_id].stop = "cancelled"
    task.cancelled_early = ()
    return Change("planned", task)


def _refused(tasks: Tasks, event: Event, refusal: events.Refusal) -> Change | None:
    task = tasks.by_id.get(refusal.task_id)
    if task is None or (task.state, events.TasksRefused) not in TASK_TRANSITIONS:
        return None
    task.state = TaskState.REFUSED
    task.refusal = refusal
    task.ended_ms, task.ended_seq = event.time_ms, event.seq
    task.hold = None
    return Change("refused", task)


def _find(tasks: Tasks, key: events.AttemptKey) -> tuple[Task, Command] | None:
    task = tasks.by_id.get(key.task_id)
    command = task.commands.get(key.host_id) if task else None
    return (task, command) if task and command else None


def _dispatched(tasks: Tasks, event: Event, one: events.Dispatch) -> Change | None:
    found = _find(tasks, one)
    if found is None:
        return None
    task, command = found
    is_next = command.state is CommandState.WAITING and one.attempt == len(command.attempts) + 1
    if not is_next or task.stop or command.stop or task.hold or task.state is not TaskState.PLANNED:
        return None
    wave = task.waves[command.wave]
    if command.wave > task.wave or (not wave.begun_ms and needs_approval(task, command.wave)):
        return None
    wave.begun_ms = wave.begun_ms or event.time_ms
    attempt = Attempt(
        number=one.attempt, state=AttemptState.DISPATCHED, epoch=one.epoch, dispatched_ms=event.time_ms,
        dispatched_seq=event.seq,
    )
    command.attempts.append(attempt)
    commands.move(task, command, event.time_ms)
    return Change("dispatched", task, command, attempt)


def _started(tasks: Tasks, event: Event, start: events.Start) -> Change | None:
    found = _find(tasks, start)
    if found is None or not 0 < start.attempt <= len(found[1].attempts):
        return None
    task, command = found
    attempt = command.attempts[start.attempt - 1]
    again = attempt.state is AttemptState.RUNNING and start.progress is not None
    state = attempt.state if again else ATTEMPT_TRANSITIONS.get((attempt.state, events.AttemptsStarted))
    if state is None:
        return None
    attempt.state = state
    attempt.start = start
    commands.move(task, command, event.time_ms)
    return Change("started", task, command, attempt)


def _ended(tasks: Tasks, event: Event, end: events.End) -> Change | None:
    found = _find(tasks, end)
    if found is None:
        return None
    task, command = found
    decided = event.subject == events.DISPATCH
    if end.attempt == len(command.attempts) + 1 and command.state is CommandState.WAITING and decided:
        attempt = Attempt(number=end.attempt, state=AttemptState.ENDED)
        command.attempts.append(attempt)
    elif 0 < end.attempt <= len(command.attempts):
        attempt = command.attempts[end.attempt - 1]
        if attempt.end is not None:
            return _late(event, end, attempt, Change("late", task, command, attempt), decided=decided)
        attempt.state = ATTEMPT_TRANSITIONS[attempt.state, events.AttemptsEnded]
    else:
        return None
    attempt.end, attempt.end_seq, attempt.end_ms, attempt.decided = end, event.seq, event.time_ms, decided
    commands.move(task, command, event.time_ms)
    return Change("ended", task, command, attempt)


def _late(event: Event, end: events.End, attempt: Attempt, change: Change, *, decided: bool) -> Change | None:
    known = [attempt.end, *attempt.late]
    if decided or any(one is not None and same_end(one, end) for one in known):
        return None
    attempt.late.append(end)
    attempt.late_seq.append(event.seq)
    return change


def _task_ended(tasks: Tasks, event: Event, end: events.TaskEnd) -> Change | None:
    task = tasks.by_id.get(end.task_id)
    if task is None or (task.state, events.TasksEnded) not in TASK_TRANSITIONS or (task.open and not tasks.outline):
        return None
    task.state = TaskState.ENDED
    task.outcome = end.outcome
    task.ended_ms, task.ended_seq = event.time_ms, event.seq
    task.hold = None
    return Change("task-ended", task)


def _with_parts(
    tasks: Tasks, event: Event, ends: Iterable[events.TaskEnd | events.Refusal], changes: list[Change]
) -> list[Change]:
    """Return *changes*, and what the same ends of tasks change in the workflows that they are parts of."""
    return changes + [c for one in ends if one.part_of for c in parts.task_ended(tasks, one.task_id, one, event.time_ms)]


def _report_refused(tasks: Tasks, key: events.AttemptKey) -> Change | None:
    found = _find(tasks, key)
    if found is None or not 0 < key.attempt <= len(found[1].attempts):
        return None
    attempt = found[1].attempts[key.attempt - 1]
    attempt.refused = True
    return Change("report-refused", found[0], found[1], attempt)

"""What keeps a task, or some of its commands, from going on: stops, holds, waves that wait for approval; and what a command waits for.

Called by `lifecycle.py` alone, for events of people and of the dispatcher. A stop is for ever, and the first one stays; a hold
lasts until it is resumed. Both go down to the tasks of a workflow's parts.
"""

from __future__ import annotations

from collections.abc import Iterable

from fleetlog_schemas import commands, control_events, events, limits, parts
from fleetlog_schemas.codec import Event
from fleetlog_schemas.records import Change, Command, CommandState, Hold, Task, Tasks, TaskState, Wait
from fleetlog_schemas.rollout import failures

_OVER = (TaskState.ENDED, TaskState.REFUSED)


def cancel_requested(tasks: Tasks, event: Event, cancel: control_events.CancelRequested) -> list[Change]:
    """Stop what a person asked to stop: a task, its commands on some hosts, or parts of a workflow."""
    task = tasks.by_id.get(cancel.task_id)
    if cancel.parts and task is not None:
        of_parts = parts.cancel_parts(tasks, task, cancel.parts)
        changes = [c for one in of_parts for c in stopped(tasks, one.task_id, event, "cancelled", cancel.reason)]
        return [Change("part", task), *changes]
    if not cancel.host_ids:
        return stopped(tasks, cancel.task_id, event, "cancelled", cancel.reason)
    if task is None or task.stop not in ("", "aborted"):
        return []
    if task.state is TaskState.SUBMITTED:
        task.cancelled_early = tuple(dict.fromkeys((*task.cancelled_early, *cancel.host_ids)))
        return []
    return _stop_some(task, cancel.host_ids, "cancelled", event.time_ms)


def skip_requested(tasks: Tasks, event: Event, skip: control_events.SkipRequested) -> list[Change]:
    """Let the task pass over hosts whose commands have not begun."""
    task = tasks.by_id.get(skip.task_id)
    if task is None or task.stop or task.state is not TaskState.PLANNED:
        return []
    waiting = [i for i in skip.host_ids if i in task.commands and task.commands[i].state is CommandState.WAITING]
    return _stop_some(task, waiting, "skipped", event.time_ms)


def _stop_some(task: Task, host_ids: Iterable[str], stop: str, now_ms: int) -> list[Change]:
    changes = []
    for host_id in host_ids:
        command = task.commands.get(host_id)
        if command and not command.stop and command.state is not CommandState.ENDED:
            command.stop = stop
            changes.append(_stop_command(task, command, now_ms))
    return changes


def replaced(tasks: Tasks, event: Event, one: events.Replacement) -> list[Change]:
    """Stop a task whose place a newer run takes."""
    return stopped(tasks, one.task_id, event, "replaced", f"a newer run took its place: {one.by_task_id}")


def stopped(tasks: Tasks, task_id: str, event: Event, stop: str, reason: str) -> list[Change]:
    """Stop a whole task. What an abort let go on can still be stopped; otherwise the first stop stays."""
    task = tasks.by_id.get(task_id)
    if task is None or task.state in _OVER or task.stop not in ("", "aborted") or task.stop == stop:
        return []
    task.stop, task.stop_by, task.stop_reason, task.stop_ms = stop, event.authid or "", reason, event.time_ms
    changes = [Change("stop", task)]
    open_commands = [one for one in task.commands.values() if one.state is not CommandState.ENDED]
    changes += [_stop_command(task, command, event.time_ms) for command in open_commands]
    return changes + [c for one in parts.family(tasks, task) for c in stopped(tasks, one.task_id, event, stop, reason)]


def _stop_command(task: Task, command: Command, now_ms: int) -> Change:
    """A command that waited for a retry has now ended; any other goes on until its attempt is ended."""
    if command.state is CommandState.WAITING and command.attempts:
        commands.move(task, command, now_ms)
    return Change("stop", task, command, command.last)


def held(tasks: Tasks, task_id: str, hold: Hold) -> list[Change]:
    """Let a task start nothing more until it is resumed; what is held already stays as it is."""
    task = tasks.by_id.get(task_id)
    if task is None or task.state in _OVER or task.stop or task.hold:
        return []
    task.hold = hold
    return [Change("held", task)] + [c for one in parts.family(tasks, task) for c in held(tasks, one.task_id, hold)]


def halted(tasks: Tasks, event: Event, halt: events.Halt) -> list[Change]:
    """Hold a task in which more hosts ended badly than may."""
    task = tasks.by_id.get(halt.task_id)
    where = f", in wave {halt.wave} of {len(task.waves)}" if task is not None and len(task.waves) > 1 else ""
    failed = f"{halt.failures} host{'s' if halt.failures > 1 else ''} ended badly{where}"
    return held(tasks, halt.task_id, Hold("halted", "", f"{failed}; at most {halt.failures_max} may", event.time_ms))


def resumed(tasks: Tasks, task: Task | None) -> list[Change]:
    """Let a task go on, and with it what was held by the same hold; of a halt, what failed until now is forgiven."""
    if task is None or task.state in _OVER or task.hold is None:
        return []
    if task.hold.kind == "halted":
        task.forgiven = failures(task)
    # Of a workflow's tasks those go on that were held with it: not one that a person paused, or that halted by itself.
    with_it = [one for one in parts.family(tasks, task) if one.hold == task.hold]
    task.hold = None
    return [Change("resumed", task)] + [c for one in with_it for c in resumed(tasks, one)]


def approved(task: Task | None, wave: int) -> list[Change]:
    """Note that a person let the waves up to this one begin."""
    if task is None or task.state in _OVER or wave <= task.approved:
        return []
    task.approved = wave
    return [Change("approved", task)]


def waiting(tasks: Tasks, now_ms: int, group: events.WaitingFor) -> None:
    """Note what commands wait for; it moves nothing, so it is no change."""
    for one in group.commands:
        task = tasks.by_id.get(one.task_id)
        named = (task.commands.get(host_id) for host_id in one.host_ids) if task else ()
        for command in (task.commands.values() if task and not one.host_ids else named):
            if command is None or command.state is not CommandState.WAITING:
                continue
            if (wait := command.wait) is not None:
                if (wait.reason, wait.message) == (group.reason, group.message):
                    continue  # said again, it goes on
                wait.until_ms = now_ms
            command.waits.append(Wait(group.reason, group.message, now_ms))
            del command.waits[: -limits.WAITS_PER_COMMAND_MAX]

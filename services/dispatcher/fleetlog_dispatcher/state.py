"""What the dispatcher knows from the log, and nothing else: tasks, hosts, policies, position.

`fold` is the only thing that changes it; only this is snapshotted.
"""

from __future__ import annotations

import msgspec

from fleetlog_schemas import events, hosts, lifecycle, policies, records
from fleetlog_schemas.codec import Event
from fleetlog_schemas.records import Change, Task

UNSETTLED_MS_MAX = 24 * 3_600_000
"""How long an ended task stays in memory for a host that may still hold one of its attempts: as long as its id
could be submitted again. Afterwards such an attempt is only told to be forgotten."""


class State(msgspec.Struct):
    """The folded log."""

    tasks: records.Tasks = msgspec.field(default_factory=records.Tasks)
    hosts: hosts.Hosts = msgspec.field(default_factory=hosts.Hosts)
    policies: policies.Policies = msgspec.field(default_factory=policies.Policies)
    position: int = 0
    """The last sequence folded: what pushes say they rest on."""
    time_ms: int = 0
    """The log's time at that position."""
    unsettled: dict[str, int] = {}
    """Ended tasks with an attempt whose end was decided and not confirmed, and when they ended."""


class Folded(msgspec.Struct, frozen=True):
    """What one event changed."""

    tasks: list[Change]
    hosts: list[str]
    policies: bool


def fold(state: State, event: Event) -> Folded | None:
    """Fold one event; return what changed, or None when nothing did."""
    state.position = event.seq
    state.time_ms = max(state.time_ms, event.time_ms)
    changed_hosts = hosts.apply(state.hosts, event)
    policies_changed = policies.apply(state.policies, event)
    changes = lifecycle.apply(state.tasks, event)
    for change in changes:
        if change.what == "refused":
            state.tasks.evict(change.task.task_id)
        elif change.what == "task-ended":
            _release(state, change.task)
        elif change.what == "late" and change.task.task_id in state.unsettled and _settled(change.task):
            del state.unsettled[change.task.task_id]
            state.tasks.evict(change.task.task_id)
    if isinstance(event.data, events.TasksEnded):
        _forget_unsettled(state)
    if not (changes or changed_hosts or policies_changed):
        return None
    return Folded(changes, changed_hosts, policies_changed)


def _release(state: State, task: Task) -> None:
    if _settled(task):
        state.tasks.evict(task.task_id)
    else:
        state.unsettled[task.task_id] = task.ended_ms


def _settled(task: Task) -> bool:
    """Whether no host can still hold an attempt of this task that the log does not know the end of."""
    return all(
        not attempt.decided or attempt.dispatched_ms is None or attempt.late
        for command in task.commands.values()
        for attempt in command.attempts
    )


def _forget_unsettled(state: State) -> None:
    oldest = state.time_ms - UNSETTLED_MS_MAX
    while state.unsettled:
        task_id, ended_ms = next(iter(state.unsettled.items()))
        if ended_ms >= oldest:
            return
        del state.unsettled[task_id]
        state.tasks.evict(task_id)

"""Why the commands of an open task have not ended: as an answer, and as events for what waits long. Pure.

The conditions are those of `gates.py`, which dispatch goes by as well: what `why` says is what happens.
"""

from __future__ import annotations

from collections.abc import Iterator

from fleetlog_dispatcher.gates import (
    Gate,
    absence,
    command_gate,
    limit_gate,
    policy_gate,
    share_gate,
    slot_gate,
    suspicion,
    task_gate,
    turn,
)
from fleetlog_dispatcher.live import SWEEP_MS, Live
from fleetlog_dispatcher.state import State
from fleetlog_dispatcher.workflow import waiting_parts
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import events, hostset
from fleetlog_schemas.admission import WaitingGroup
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.records import Command, CommandState, Task, TaskState

NOTES_PER_SWEEP_MAX = 20_000
"""Waiting commands whose reason is looked at in one sweep; of more, others each time."""
COMMANDS_PER_NOTE_MAX = 500
"""Commands in one entry of an event, so that each entry fits into one."""
_NOTED = {"priority": "all slots of the host are taken, and others go first by priority and age"}
"""What is written of a reason whose message counts those in front: with the count each command would be an entry."""


def waiting_gate(
    settings: DispatcherSettings, state: State, live: Live, task: Task, command: Command, now_ms: int
) -> Gate:
    """Return the one reason for which a command waits now."""
    stop = command.stop or task.stop
    if stop:
        return Gate("stopping", "it is about to end without having been started")
    gate = task_gate(live, task, now_ms)
    if gate is not None:
        return Gate(gate.reason, gate.message + turn(task, command))
    return command_gate(task, command, now_ms) or _host_gate(settings, state, live, task, command, now_ms) or (
        limit_gate(live, task)
        or share_gate(settings, state, live, task)
        or slot_gate(settings, live, task, command.host_id)
        or Gate("dispatch", "it is being dispatched")
    )


def _host_gate(
    settings: DispatcherSettings, state: State, live: Live, task: Task, command: Command, now_ms: int
) -> Gate | None:
    host = state.hosts.by_id.get(command.host_id)
    reason, message = absence(host)
    if reason or host is None:
        return Gate(reason, message)
    closed = policy_gate(live, task.spec, command.host_id)
    if closed is not None:
        return closed
    doubt = suspicion(settings, state, host, live.presence.get(command.host_id), now_ms)
    return Gate("host-suspect", doubt) if doubt else None


def waiting_groups(
    settings: DispatcherSettings, state: State, live: Live, task: Task, now_ms: int
) -> list[WaitingGroup]:
    """Return why the open commands of *task* have not ended, grouped, the largest group first."""
    if task.state is TaskState.SUBMITTED:
        text = "the task waits to be planned"
        return [WaitingGroup(state="submitted", reason="planning", message=text, hosts="", count=0, since=None)]
    if task.parts:
        return waiting_parts(live, task, now_ms)
    found: dict[tuple[str, str, str], list[tuple[str, int]]] = {}
    for command in task.commands.values():
        if command.state is not CommandState.ENDED:
            gate, since_ms = _reason(settings, state, live, task, command, now_ms)
            found.setdefault((command.state.value, *gate), []).append((command.host_name, since_ms))
    groups = [
        WaitingGroup(
            state=command_state, reason=reason, message=message, hosts=hostset.fold(name for name, _ in members),
            count=len(members), since=rfc3339(min(since for _, since in members)),
        )
        for (command_state, reason, message), members in found.items()
    ]
    return sorted(groups, key=lambda group: (-group.count, group.hosts))


def _reason(
    settings: DispatcherSettings, state: State, live: Live, task: Task, command: Command, now_ms: int
) -> tuple[Gate, int]:
    last = command.last
    if last is None or last.end is not None:
        gate = waiting_gate(settings, state, live, task, command, now_ms)
        noted = command.wait
        return gate, noted.since_ms if noted and noted.reason == gate.reason else _waits_since_ms(task, command)
    since_ms = last.dispatched_ms or task.planned_ms
    if task.interrupts(command):
        return Gate("stopping", _stopping_text(state, command)), since_ms
    if last.start is not None:
        return Gate("running", f"it runs; its limit is {task.spec.timeout_ms / 1000:g} s"), last.start.started_ms
    return Gate("delivery", "it was dispatched, and the host has not confirmed that it started"), since_ms


def _stopping_text(state: State, command: Command) -> str:
    _, absent = absence(state.hosts.by_id.get(command.host_id))
    if absent:
        return f"it is to stop, and cannot be told: {absent}; it is told as soon as the host returns"
    return "it is told to stop, and the host has not confirmed"


def _waits_since_ms(task: Task, command: Command) -> int:
    return max(task.planned_ms, command.due_ms, command.last.end_ms if command.last else 0)


# --- notes -----------------------------------------------------------------------------------------------------


def notes(settings: DispatcherSettings, state: State, live: Live, now_ms: int) -> Iterator[events.WaitingFor]:
    """Yield the reasons to be written: of commands that wait long, where the log has none or another."""
    if not live.sweep:
        return
    found: dict[Gate, dict[str, list[str]]] = {}
    for task, command in _looked_at(live, now_ms):
        if now_ms - _waits_since_ms(task, command) < settings.note_wait_ms:
            continue
        gate = waiting_gate(settings, state, live, task, command, now_ms)
        if gate.reason in ("dispatch", "stopping") or (command.wait and command.wait.reason == gate.reason):
            continue
        noted = Gate(gate.reason, _NOTED.get(gate.reason, gate.message))
        found.setdefault(noted, {}).setdefault(task.task_id, []).append(command.host_id)
    for gate, by_task in found.items():
        for chunk in _chunks(live, by_task):
            yield events.WaitingFor(reason=gate.reason, message=gate.message, commands=chunk)


def _looked_at(live: Live, now_ms: int) -> Iterator[tuple[Task, Command]]:
    waiting = {task: count for task in live.open if (count := live.open[task].counts.get(CommandState.WAITING.value))}
    total = sum(waiting.values())
    # With more than can be looked at in one sweep, each sweep begins further on, by time alone.
    skip = now_ms // SWEEP_MS * NOTES_PER_SWEEP_MAX % total if total > NOTES_PER_SWEEP_MAX else 0
    left = NOTES_PER_SWEEP_MAX
    for task_id, count in waiting.items():
        if skip >= count:
            skip -= count
            continue
        for command in live.open[task_id].commands.values():
            if command.state is not CommandState.WAITING:
                continue
            if skip:
                skip -= 1
                continue
            if not left:
                return
            left -= 1
            yield live.open[task_id], command


def _chunks(live: Live, by_task: dict[str, list[str]]) -> Iterator[tuple[events.WaitingCommands, ...]]:
    chunk: list[events.WaitingCommands] = []
    size = 0
    for task_id, host_ids in by_task.items():
        everyone = len(host_ids) == live.open[task_id].counts[CommandState.WAITING.value]
        parts = [()] if everyone else _cut(host_ids)
        for part in parts:
            if chunk and size + max(1, len(part)) > COMMANDS_PER_NOTE_MAX:
                yield tuple(chunk)
                chunk, size = [], 0
            chunk.append(events.WaitingCommands(task_id=task_id, host_ids=part))
            size += max(1, len(part))
    yield tuple(chunk)


def _cut(host_ids: list[str]) -> list[tuple[str, ...]]:
    starts = range(0, len(host_ids), COMMANDS_PER_NOTE_MAX)
    return [tuple(host_ids[start : start + COMMANDS_PER_NOTE_MAX]) for start in starts]

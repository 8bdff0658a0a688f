"""Whether a host can take work now, and, for a command that waits, why it does. Pure.

The same conditions decide and explain, so that what `why` says is what happens.
"""

from __future__ import annotations

from fleetlog_dispatcher.live import Live, Presence
from fleetlog_dispatcher.state import State
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import hostset, limits
from fleetlog_schemas.admission import WaitingGroup
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.records import Command, CommandState, Task, TaskState


def absence(host: Host | None) -> tuple[str, str]:
    """Return why nothing is dispatched to a host for as long as the log says so (code, message), or empty texts."""
    if host is None or host.revoked:
        return "host-revoked", "the host was revoked"
    if host.blocked:
        return "refused-host", f"the host is refused until a person accepts it: {host.blocked.message}"
    if host.maintenance:
        return "maintenance", f"the host is in maintenance: {host.maintenance_reason or 'no reason given'}"
    if not host.online:
        said = {"goodbye": "its agent said goodbye", "silent": "its agent fell silent"}.get(host.offline_reason)
        return "host-offline", f"the host is offline: {said or 'it has not connected yet'}"
    return "", ""


def suspicion(settings: DispatcherSettings, state: State, host: Host, presence: Presence | None, now_ms: int) -> str:
    """Return why nothing new goes to an online host for the moment, or an empty text."""
    if presence is None:
        return ""
    if now_ms - presence.heard_ms >= settings.suspect_ms:
        return "the host is suspect: no heartbeat for a while"
    if presence.newest_seq > state.position:
        return "the host has obeyed newer decisions than this dispatcher has read"
    if presence.spool_full or len(presence.held) >= limits.HELD_MAX:
        return "the host holds as much as it can"
    return "the agent is leaving" if presence.goodbye and presence.epoch == host.epoch else ""


def can_take(settings: DispatcherSettings, state: State, live: Live, host: Host, now_ms: int) -> bool:
    """Tell whether a new attempt may be dispatched to this host now, slots aside."""
    return not absence(host)[0] and not suspicion(settings, state, host, live.presence.get(host.host_id), now_ms)


def waiting_groups(
    settings: DispatcherSettings, state: State, live: Live, task: Task, now_ms: int
) -> list[WaitingGroup]:
    """Return why the open commands of *task* have not ended, grouped, the largest group first."""
    if task.state is TaskState.SUBMITTED:
        text = "the task waits to be planned"
        return [WaitingGroup(state="submitted", reason="planning", message=text, hosts="", count=0, since=None)]
    found: dict[tuple[str, str, str], list[tuple[str, int]]] = {}
    for command in task.commands.values():
        if command.state is not CommandState.ENDED:
            reason, message, since_ms = _reason(settings, state, live, task, command, now_ms)
            found.setdefault((command.state.value, reason, message), []).append((command.host_name, since_ms))
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
) -> tuple[str, str, int]:
    host = state.hosts.by_id.get(command.host_id)
    last = command.last
    if last is not None and last.end is None:
        since_ms = last.dispatched_ms or task.planned_ms
        if task.stop or command.stop:
            return "stopping", "it is told to stop, and the host has not confirmed", since_ms
        if last.start is not None:
            return "running", f"it runs; its limit is {task.spec.timeout_ms / 1000:g} s", last.start.started_ms
        return "delivery", "it was dispatched, and the host has not confirmed that it started", since_ms
    since_ms = max(task.planned_ms, command.due_ms)
    reason, message = absence(host)
    if reason or host is None:
        return reason, message, since_ms
    if command.due_ms > now_ms:
        left = (command.due_ms - now_ms) / 1000
        return "backoff", f"its next attempt comes after a pause; {left:.0f} s are left", since_ms
    doubt = suspicion(settings, state, host, live.presence.get(command.host_id), now_ms)
    if doubt:
        return "host-suspect", doubt, since_ms
    if len(live.flights.get(command.host_id, ())) >= settings.slots_per_host:
        return "slot", f"all {settings.slots_per_host} slots of the host are taken", since_ms
    if task.spec.parallel:
        return "parallel", f"the task runs at most {task.spec.parallel} commands at once", since_ms
    return "dispatch", "it is being dispatched", since_ms

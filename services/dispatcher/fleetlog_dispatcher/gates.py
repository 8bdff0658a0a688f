"""What keeps a waiting command back: each condition once, for dispatch and for `why` alike. Pure.

A gate is a stable word and a text for people. Gates of the task are looked at first, for they hold all of its commands;
then those of the host; then what tasks share.
"""

from __future__ import annotations

from typing import NamedTuple

from fleetlog_dispatcher import queues
from fleetlog_dispatcher.adapting import NO_ROOM, Room, room_of
from fleetlog_dispatcher.live import Live, Presence
from fleetlog_dispatcher.state import State
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import limits
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.ids import short
from fleetlog_schemas.parts import is_taken
from fleetlog_schemas.records import Command, CommandState, Task
from fleetlog_schemas.rollout import soaks_until_ms, wave_gate
from fleetlog_schemas.spec import TaskSpec
from fleetlog_schemas.versions import knows_everything, unknown_to


class Gate(NamedTuple):
    """Why something waits."""

    reason: str
    message: str


# --- of the task -----------------------------------------------------------------------------------------------


def task_gate(live: Live, task: Task, now_ms: int) -> Gate | None:
    """Return what keeps every command of a planned task back."""
    if task.hold is not None:
        by = f" by {task.hold.by}" if task.hold.by else ""
        return Gate(task.hold.kind, f"{task.hold.kind}{by}: {task.hold.reason or 'no reason given'}")
    holder = lock_holder(live, task)
    if holder is not None:
        return Gate("lock", f"an earlier run of {task.spec.key} has not ended: task {short(holder.task_id)}")
    gate = wave_gate(task, now_ms)
    if gate == "soak":
        until = rfc3339(soaks_until_ms(task))
        return Gate("soak", f"wave {task.wave} has ended; wave {task.wave + 1} begins at {until}")
    if gate == "approval":
        return Gate("approval", f"wave {task.wave + 1} of {len(task.waves)} waits until a person approves it")
    return None


def lock_holder(live: Live, task: Task) -> Task | None:
    """Return the earlier run of the same key for whose end this one waits."""
    if task.spec.single_run not in ("queue", "replace"):
        return None
    # Tasks are planned in the order in which they were submitted, so the first one is the earliest that is open.
    first = next(iter(live.keys.get(task.spec.key, {}).values()), task)
    return None if first is task else first


def limit_gate(live: Live, task: Task) -> Gate | None:
    """Return which limit of the task itself is used up."""
    spec = task.spec
    if spec.parallel and in_flight(task) >= spec.parallel:
        return Gate("parallel", f"the task runs at most {spec.parallel} commands at once")
    if spec.key_parallel and live.shares.by_key.get(spec.key, 0) >= spec.key_parallel:
        return Gate("key", f"all runs of {spec.key} together have at most {spec.key_parallel} commands in flight")
    return None


def in_flight(task: Task) -> int:
    """Return how many commands of a task were dispatched and have not ended."""
    return task.counts.get(CommandState.DISPATCHED.value, 0) + task.counts.get(CommandState.RUNNING.value, 0)


def turn(task: Task, command: Command) -> str:
    """Return in words whose turn it would be, were the task not held back: of a task in waves."""
    if len(task.waves) < 2:
        return ""
    if command.wave == task.wave:
        return f"; it would go next, with wave {task.wave + 1} of {len(task.waves)}"
    return f"; it comes after wave {task.wave + 1} of {len(task.waves)}"


def command_gate(task: Task, command: Command, now_ms: int) -> Gate | None:
    """Return what keeps one command back."""
    if command.wave > task.wave:
        turn = task.waves[task.wave]
        left = f"{turn.open} of {turn.hosts} hosts have not ended"
        return Gate("wave", f"it is in wave {command.wave + 1}; wave {task.wave + 1} of {len(task.waves)} comes first: {left}")
    if command.due_ms > now_ms:
        return Gate("backoff", f"its next attempt comes after a pause, at {rfc3339(command.due_ms)}")
    return None


# --- of the host -----------------------------------------------------------------------------------------------


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


def ignorance(host: Host | None, spec: TaskSpec, *, returns: bool = False) -> str:
    """Return what of a task the agent of a host that can be reached does not know, or an empty text.

    Who is absent may come back with a newer agent.
    """
    return "" if host is None or absence(host)[0] else unknown_to(host.version, spec, returns=returns)


def ignorance_of(state: State, host: Host | None, task: Task) -> str:
    """Return what of a task that was submitted its host's agent does not know, as `ignorance`; also that a part must return something."""
    if host is None or knows_everything(host.version) or absence(host)[0]:
        return ""
    workflow = state.tasks.by_id.get(task.part_of.task_id) if task.part_of else None
    return unknown_to(host.version, task.spec, returns=is_taken(workflow, task))


def suspicion(settings: DispatcherSettings, state: State, host: Host, presence: Presence | None, now_ms: int) -> str:
    """Return why nothing new goes to an online host for the moment, or an empty text."""
    if presence is None:
        return ""
    if now_ms - presence.heard_ms >= settings.suspect_ms:
        return "the host is suspect: no heartbeat for a while"
    if presence.newest_seq > state.position:
        return "the host has obeyed newer decisions than this dispatcher has read"
    if presence.spool_full or len(presence.held) >= limits.HELD_MAX:
        return "the host has no room for more results yet"
    return "the agent is leaving" if presence.goodbye and presence.epoch == host.epoch else ""


def can_take(settings: DispatcherSettings, state: State, live: Live, host: Host, now_ms: int) -> bool:
    """Tell whether a new attempt may be dispatched to this host now, slots and policies aside."""
    return not absence(host)[0] and not suspicion(settings, state, host, live.presence.get(host.host_id), now_ms)


def room_now(settings: DispatcherSettings, state: State, live: Live, host_id: str, now_ms: int) -> Room:
    """Return how many more commands a host takes now, policies aside."""
    host, room = state.hosts.by_id.get(host_id), room_of(settings, live, host_id)
    return room if room.any and host is not None and can_take(settings, state, live, host, now_ms) else NO_ROOM


def policy_gate(live: Live, spec: TaskSpec, host_id: str) -> Gate | None:
    """Return which freeze or window keeps work from a host."""
    closed = live.closed.get(host_id)
    if closed is None or (closed.reason == "window" and spec.ignore_windows):
        return None
    return Gate(closed.reason, f"the host is {closed.message}")


def slot_gate(settings: DispatcherSettings, live: Live, task: Task, host_id: str) -> Gate | None:
    """Return why a host takes nothing more at present: its slots, its load, or who goes first."""
    flights = live.flights.get(host_id, {})
    if room_of(settings, live, host_id).fits(task.spec):
        return None
    before = queues.ahead(live.queues, host_id, queues.place_of(task, settings.ageing_ms))
    if before:
        return Gate("priority", f"all slots of the host are taken, and {before} go first by priority and age")
    limit = live.limits.get(host_id)
    if limit is not None:
        return Gate("load", f"the host is busy ({limit.why}): it takes {limit.slots} of {settings.slots_per_host} at once")
    holders = dict.fromkeys(short(task_id) for task_id, _ in flights)
    named = ", ".join(list(holders)[:3]) + (" and others" if len(holders) > 3 else "")
    if len(flights) > settings.slots_per_host:  # with calls, which wait there for a worker
        return Gate("slot", f"the host has {len(flights)} commands in flight already, of task {named}")
    return Gate("slot", f"all {settings.slots_per_host} slots of the host are held by task {named}")


# --- of what tasks share ---------------------------------------------------------------------------------------


def share_gate(settings: DispatcherSettings, state: State, live: Live, task: Task) -> Gate | None:
    """Return which shared limit is used up."""
    queue = task.spec.queue
    queue_max = state.policies.queues.get(queue)
    if queue_max is not None and live.shares.by_queue.get(queue, 0) >= queue_max:
        return Gate("queue", f"the queue {queue} has at most {queue_max} commands in flight")
    if live.shares.total >= settings.in_flight_max:
        return Gate("system", f"the whole system has at most {settings.in_flight_max} commands in flight")
    return None

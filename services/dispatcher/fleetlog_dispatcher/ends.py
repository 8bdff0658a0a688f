"""Which attempts end by decision, and with what words. Pure.

`unreached` is said only of what surely never ran, `lost` of everything else that nobody can confirm. An end by
decision frees a slot, so it needs a host's word, or a deadline and a grace after it.
"""

from __future__ import annotations

from collections.abc import Iterator

from fleetlog_dispatcher.gates import absence, ignorance_of, lock_holder
from fleetlog_dispatcher.live import Flight, Key, Live, Presence
from fleetlog_dispatcher.state import State
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import events
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.records import Command, CommandState, Task
from fleetlog_schemas.versions import knows_everything

ENDS_PER_ROUND_MAX = 5_000
"""Ends decided in one round; the rest follows in the next."""


def decided_ends(settings: DispatcherSettings, state: State, live: Live, now_ms: int) -> list[events.End]:
    """Return the ends that are due, at most ENDS_PER_ROUND_MAX."""
    ends: list[events.End] = []
    seen: set[tuple[str, str]] = set()
    for end in _all_ends(settings, state, live, now_ms):
        if (end.task_id, end.host_id) not in seen:
            seen.add((end.task_id, end.host_id))
            ends.append(end)
            if len(ends) >= ENDS_PER_ROUND_MAX:
                break
    return ends


def _all_ends(settings: DispatcherSettings, state: State, live: Live, now_ms: int) -> Iterator[events.End]:
    for task in live.stopped.values():
        if not task.stop or task.counts.get(CommandState.WAITING.value):
            yield from _stopped(task)
    waiting = live.queues.by_host
    hosts = list(waiting.keys() | live.flights.keys()) if live.sweep else list(live.touched)
    for host_id in sorted(hosts):
        host = state.hosts.by_id.get(host_id)
        if host_id in waiting:
            yield from _never_reached(state, live, host_id, host, now_ms)
        for key, flight in live.flights.get(host_id, {}).items() if live.sweep or host_id in live.heard else ():
            end = _flight_end(settings, state, live, host, key, flight, now_ms)
            if end is not None:
                yield end


def _stopped(task: Task) -> Iterator[events.End]:
    for command in task.commands.values():
        stop = command.stop or task.stop
        if stop and command.state is CommandState.WAITING:
            outcome = Outcome.CANCELLED if stop == "cancelled" else Outcome.SKIPPED
            yield _waiting_end(task.task_id, command, outcome, _NOT_BEGUN[stop])


_NOT_BEGUN = {
    "cancelled": "cancelled before it was dispatched",
    "timeout": "the task's time was over before it began",
    "replaced": "a newer run took its place before it began",
    "aborted": "the task was aborted before it began",
    "skipped": "a person had this host passed over",
}


def _never_reached(
    state: State, live: Live, host_id: str, host: Host | None, now_ms: int
) -> Iterator[events.End]:
    _, message = absence(host)
    if not message and (host is None or knows_everything(host.version)):
        return
    for task_id, command in live.queues.by_host[host_id].items():
        task = state.tasks.by_id[task_id]
        # A host counts as absent only when it is its turn: until then it may well come back.
        if task.hold or command.wave > task.wave or lock_holder(live, task) is not None:
            continue
        unknown = ignorance_of(state, host, task)
        if unknown and now_ms >= command.due_ms:
            yield _waiting_end(task_id, command, Outcome.ERROR, unknown)
        elif message and now_ms >= max(task.planned_ms, task.wave_ms, command.due_ms) + task.spec.wait_offline_ms:
            yield _waiting_end(task_id, command, Outcome.UNREACHED, message)


def _waiting_end(task_id: str, command: Command, outcome: Outcome, error: str) -> events.End:
    return events.End(
        task_id=task_id, host_id=command.host_id, attempt=len(command.attempts) + 1, outcome=outcome, ran=Ran.NO,
        error=error,
    )


def start_deadline_ms(settings: DispatcherSettings, flight: Flight) -> int:
    """Return until when an unconfirmed attempt is offered to its host."""
    dispatched_ms = flight.attempt.dispatched_ms or 0
    return max(dispatched_ms + settings.delivery_grace_ms, flight.task.planned_ms + flight.task.spec.wait_offline_ms)


def run_deadline_ms(settings: DispatcherSettings, flight: Flight) -> int:
    """Return until when the end of a confirmed attempt is waited for: later than the agent's own deadline."""
    return flight.confirmed_ms + flight.task.spec.timeout_ms + settings.kill_grace_ms + settings.end_grace_ms


def comparable(state: State, host: Host, presence: Presence | None) -> bool:
    """Whether the last heartbeat is of this session and not older than what the log has from the host."""
    return (
        presence is not None
        and presence.epoch == host.epoch
        and presence.counter >= host.counter
        and presence.newest_seq <= state.position
    )


def _flight_end(
    settings: DispatcherSettings, state: State, live: Live, host: Host | None, key: Key, flight: Flight, now_ms: int
) -> events.End | None:
    if host is None or host.revoked or host.blocked:
        return _lost(key, flight, absence(host)[1])
    presence = live.presence.get(host.host_id)
    gone = presence is not None and comparable(state, host, presence) and key not in presence.held
    if flight.seen_held:
        if gone:
            return _lost(key, flight, "the host had it and no longer knows it")
        if now_ms >= run_deadline_ms(settings, flight):
            return _lost(key, flight, "its time is over and the host has not said how it ended")
        return None
    deadline_ms = start_deadline_ms(settings, flight)
    if now_ms < deadline_ms:
        return None
    if gone and presence is not None and presence.opened_here and flight.pushed_epoch != host.epoch:
        # The session began after the dispatch without the attempt, and nothing was sent in it.
        return _end(key, flight, Outcome.UNREACHED, Ran.NO, "the host came back too late to be given it")
    if now_ms >= deadline_ms + settings.end_grace_ms:
        return _lost(key, flight, "it was sent, and the host never confirmed that it has it")
    return None


def _lost(key: Key, flight: Flight, error: str) -> events.End:
    return _end(key, flight, Outcome.LOST, Ran.UNKNOWN, error)


def _end(key: Key, flight: Flight, outcome: Outcome, ran: Ran, error: str) -> events.End:
    return events.End(
        task_id=key[0], host_id=flight.command.host_id, attempt=key[1], outcome=outcome, ran=ran, error=error
    )

"""Take in what is not in the log: what folding changed, messages that came, effects that were performed.

The only code that changes the live state. It concludes nothing: what follows from it is `decide`'s to say.
"""

from __future__ import annotations

from fleetlog_dispatcher import queues
from fleetlog_dispatcher.adapting import adapt, call_took
from fleetlog_dispatcher.admit import DISPATCHES_PER_ROUND_MAX
from fleetlog_dispatcher.delivery import FORGETS_TOGETHER, reachable
from fleetlog_dispatcher.live import (
    REQUESTS_WAITING_MAX,
    SWEEP_MS,
    Flight,
    Key,
    Live,
    PendingOpen,
    Presence,
    backoff_ms,
    drop,
    landed,
    put_away,
    take_off,
    take_up,
    wait,
)
from fleetlog_dispatcher.state import Folded, State
from fleetlog_runtime.pure.effects import Answer, Append, Changed, Performed, Request, Send, Tick
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import events, host_events, limits, pushes, reports, subjects, wire
from fleetlog_schemas.codec import Event
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.policies import closed_hosts
from fleetlog_schemas.records import Attempt, Change, Command, CommandState, Task, TaskState
from fleetlog_schemas.reports import HeldState
from fleetlog_schemas.rollout import soaks_until_ms
from fleetlog_schemas.spec import Function
from fleetlog_schemas.targets import Directory


def observe(settings: DispatcherSettings, state: State, live: Live, observation: object, now_ms: int) -> None:
    """Take in one observation; *state* is only read."""
    match observation:
        case Tick():
            live.sweep = now_ms >= live.next_sweep_ms
            if live.sweep:
                live.next_sweep_ms = now_ms + SWEEP_MS
                by_id = state.hosts.by_id
                live.forgetting = {one: None for one in live.forgets if one in by_id and reachable(state, live, by_id[one])}
            _ripen(settings, state, live, now_ms)
        case Changed(event=Event(data=data), changes=Folded() as folded):
            if isinstance(data, host_events.HostEnrolled | host_events.HostLabelled | host_events.HostRevoked):
                live.directory = None
            live.closed_stale |= folded.policies
            for host_id in folded.hosts:
                _host_changed(state, live, host_id, now_ms)
            for change in folded.tasks:
                _task_changed(settings, live, change, now_ms)
        case Performed(effect=Append(data=data)):
            _looked(live, data)
        case Performed(effect=Send(push=push)):
            _pushed(live, push, now_ms)
        case Performed(effect=Answer(reply=reply)):
            live.questions.pop(reply, None)
            live.opens.pop(live.open_hosts.pop(reply, ""), None)
        case Request(subject=subject):
            _requested(settings, state, live, observation, subject, now_ms)
        case _:
            pass


# --- the log moved -----------------------------------------------------------------------------------------


def _looked(live: Live, data: tuple[events.Data, ...]) -> None:
    """Look again at once where more fits than goes out with this append."""
    dispatched = sum(len(one.attempts) for one in data if isinstance(one, events.AttemptsDispatched))
    if dispatched >= DISPATCHES_PER_ROUND_MAX or len(data) >= limits.BATCH_MESSAGES_MAX:
        live.touched_next.update(live.touched)
        live.steered_next = True


def _ripen(settings: DispatcherSettings, state: State, live: Live, now_ms: int) -> None:
    """Take in what time brings (retries that are due, windows that open and close), and changes of many hosts at once."""
    for host_id in queues.ripen(live.queues, state.tasks.by_id, now_ms, settings.ageing_ms):
        live.touched_next[host_id] = None
    narrowed = state.policies.freezes or state.policies.windows
    if live.directory is None and (live.to_plan or live.questions or narrowed):
        # Only now that somebody looks: made anew for each host, it would cost a fleet that joins the square of its size.
        live.directory = Directory(state.hosts.by_id.values())
        live.closed_stale = True
    if live.closed_stale or (live.sweep and state.policies.windows):
        before = live.closed
        live.closed = closed_hosts(state.policies, live.directory, now_ms) if live.directory and narrowed else {}
        live.touched_next.update(dict.fromkeys(before.keys() - live.closed.keys()))
        live.closed_stale = False
    live.touched, live.touched_next = live.touched_next, {}
    live.heard, live.heard_next = live.heard_next, {}
    live.workflows_due, live.workflows_next = live.workflows_next, {}
    live.steered = (
        live.sweep or live.steered_next or any(host_id in live.queues.by_host for host_id in live.touched)
        or any(0 < soaks_until_ms(task) <= now_ms for task in live.budgeted.values())
    )
    live.steered_next = False


_NO_STEERING = frozenset({"submitted", "part", "held", "dispatched", "started", "late", "report-refused"})
"""Changes of a task that let nothing go that was kept back."""


def _task_changed(settings: DispatcherSettings, live: Live, change: Change, now_ms: int) -> None:
    task, command, attempt = change.task, change.command, change.attempt
    live.steered_next |= change.what not in _NO_STEERING
    if task.parts or task.part_of:
        live.workflows_next[task.part_of.task_id if task.part_of else task.task_id] = None
    match change.what:
        case "submitted":
            live.to_plan[task.task_id] = task
        case "planned":
            live.to_plan.pop(task.task_id, None)
            take_up(settings, live, task, now_ms)
        case "refused" | "task-ended":
            put_away(live, task)
        case "held":
            queues.hold_back(live.queues, task, settings.ageing_ms)
        case "dispatched" if command and attempt:
            queues.remove(live.queues, task, command.host_id, settings.ageing_ms)
            flight = Flight(task, command, attempt)
            take_off(live, flight)
            live.fresh.setdefault(command.host_id, {})[task.task_id, attempt.number] = flight
        case "started" if command and attempt:
            confirmed = live.flights.get(command.host_id, {}).get((task.task_id, attempt.number))
            if confirmed is not None:
                _confirm(confirmed, now_ms)
        case "ended" | "late" | "report-refused" if command and attempt:
            _attempt_settled(settings, live, change, now_ms)
        case "part":
            if not task.open and task.state is TaskState.PLANNED:
                live.to_end[task.task_id] = task
        case "stop":
            _stopped(settings, live, task, command)
        case _:
            pass


def _attempt_settled(settings: DispatcherSettings, live: Live, change: Change, now_ms: int) -> None:
    what, task, command, attempt = change.what, change.task, change.command, change.attempt
    assert command is not None
    assert attempt is not None
    key = (task.task_id, attempt.number)
    host_id = command.host_id
    if what == "ended":
        if landed(live, host_id, key):
            live.touched_next[host_id] = None
        if isinstance(task.spec.payload, Function) and attempt.end is not None and attempt.end.duration_ms is not None:
            call_took(live, host_id, attempt.end.duration_ms)
        drop(live.fresh, host_id, key)
        if command.state is CommandState.WAITING:
            wait(settings, live, task, command, now_ms)
        else:
            queues.remove(live.queues, task, host_id, settings.ageing_ms)
        if not task.open and task.state is TaskState.PLANNED:
            live.to_end[task.task_id] = task
    if what != "ended" or not attempt.decided:
        # The agent's own end, or its refusal, is in the log: nothing more is wanted of it.
        forgets = live.forgets.setdefault(host_id, {})
        forgets[key] = None
        if len(forgets) >= FORGETS_TOGETHER:
            live.forgetting[host_id] = None
        live.cancels.get(host_id, {}).pop(key, None)


def _stopped(settings: DispatcherSettings, live: Live, task: Task, command: Command | None) -> None:
    live.stopped[task.task_id] = task
    if command is None:
        return
    if command.state is CommandState.ENDED:
        queues.remove(live.queues, task, command.host_id, settings.ageing_ms)
        if not task.open and task.state is TaskState.PLANNED:
            live.to_end[task.task_id] = task
        return
    last = command.last
    if last is not None and last.end is None and task.interrupts(command):
        key = (task.task_id, last.number)
        flight = live.flights.get(command.host_id, {}).get(key)
        if flight is not None:
            live.cancels.setdefault(command.host_id, {})[key] = flight


def _host_changed(state: State, live: Live, host_id: str, now_ms: int) -> None:
    host = state.hosts.by_id[host_id]
    live.touched_next[host_id] = live.heard_next[host_id] = None
    if host.online:
        live.came.pop(host_id, None)
        live.presence.setdefault(host_id, Presence(heard_ms=now_ms))
    else:
        live.left.pop(host_id, None)
    pending = live.opens.get(host_id)
    if pending is not None and pending.request.nonce == host.nonce:
        _session_opened(live, host, pending, now_ms)


def _session_opened(live: Live, host: Host, pending: PendingOpen, now_ms: int) -> None:
    known = live.presence.get(host.host_id)
    if known is not None and known.epoch == host.epoch:
        return
    held = {(one.task_id, one.attempt): one.state for one in pending.request.held}
    presence = Presence(
        heard_ms=now_ms, epoch=host.epoch, counter=pending.request.counter, newest_seq=host.session_seq, held=held,
        opened_here=True,
    )
    live.presence[host.host_id] = presence
    _compare(live, host.host_id, presence, now_ms)


# --- messages came -------------------------------------------------------------------------------------------


def _requested(
    settings: DispatcherSettings, state: State, live: Live, request: Request, subject: str, now_ms: int
) -> None:
    if subject.startswith("hb."):
        _heartbeat(settings, state, live, request, now_ms)
    elif subject.startswith("open."):
        _open_requested(state, live, request)
    elif request.reply and len(live.questions) < REQUESTS_WAITING_MAX:
        live.questions[request.reply] = request


def _open_requested(state: State, live: Live, request: Request) -> None:
    try:
        opened: reports.OpenSession = wire.decode(request.body, reports.OpenSession)
    except wire.BadMessage:
        return  # its author learns nothing and asks again; a host that sends garbage gets no session
    host_id = subjects.host_of(request.subject)
    known = state.hosts.by_id.get(host_id)
    if known is not None and known.boot_id == opened.boot_id and opened.asked_ms < known.asked_ms:
        return  # overtaken by the request behind the present session: its ticket is old, and proves nothing
    if not request.reply or (host_id not in live.opens and len(live.opens) >= REQUESTS_WAITING_MAX):
        return
    earlier = live.opens.get(host_id)
    if earlier is not None:
        live.open_hosts.pop(earlier.reply, None)
    live.opens[host_id] = PendingOpen(opened, request.reply, known.counter if known is not None else 0)
    live.open_hosts[request.reply] = host_id


def _heartbeat(settings: DispatcherSettings, state: State, live: Live, request: Request, now_ms: int) -> None:
    host_id = subjects.host_of(request.subject)
    host = state.hosts.by_id.get(host_id)
    try:
        beat: reports.Heartbeat = wire.decode(request.body, reports.Heartbeat)
    except wire.BadMessage:
        return
    if host is None or host.revoked or host.blocked:
        return
    if beat.epoch != host.epoch or beat.boot_id != host.boot_id:
        live.outdated[host_id] = None
        return
    known = live.presence.get(host_id)
    same_session = known is not None and known.epoch == beat.epoch
    if known is not None and same_session and beat.counter < known.counter:
        return  # overtaken on its way
    presence = Presence(
        heard_ms=now_ms, epoch=beat.epoch, counter=beat.counter, newest_seq=beat.newest_seq,
        held={(one.task_id, one.attempt): one.state for one in beat.held}, load=beat.load,
        spool_full=beat.spool_full, goodbye=beat.goodbye,
        opened_here=known is not None and same_session and known.opened_here,
    )
    live.presence[host_id] = presence
    live.touched_next[host_id] = live.heard_next[host_id] = None
    adapt(settings, live, host, beat.load, now_ms)
    if beat.goodbye:
        live.left[host_id] = None
        live.came.pop(host_id, None)
    elif not host.online or not host.ticket_used:
        live.came[host_id] = None
    if beat.newest_seq <= state.position and beat.counter >= host.counter:
        _compare(live, host_id, presence, now_ms)
        _compare_held(settings, state, live, host_id, presence, now_ms)
    if known is None or not same_session or known.load is None:
        _session_used(live, host_id, presence)


def _session_used(live: Live, host_id: str, presence: Presence) -> None:
    """Push at once what a host that has come back does not hold: what was sent before its first heartbeat it cannot obey."""
    for key, flight in live.flights.get(host_id, {}).items():
        if key not in presence.held and not flight.seen_held:
            live.fresh.setdefault(host_id, {})[key] = flight


def _compare(live: Live, host_id: str, presence: Presence, now_ms: int) -> None:
    """Confirm the flights that the host holds."""
    flights = live.flights.get(host_id, {})
    for key in presence.held:
        flight = flights.get(key)
        if flight is not None:
            _confirm(flight, now_ms)
            drop(live.fresh, host_id, key)


def _confirm(flight: Flight, now_ms: int) -> None:
    if not flight.seen_held:
        flight.seen_held, flight.confirmed_ms = True, now_ms


def _compare_held(
    settings: DispatcherSettings, state: State, live: Live, host_id: str, presence: Presence, now_ms: int
) -> None:
    """Note what the host holds and should not: ends to forget, and attempts to cancel."""
    flights = live.flights.get(host_id, {})
    for key, held in presence.held.items():
        flight = flights.get(key)
        if flight is not None:
            stop = flight.task.interrupts(flight.command)
            resend_at_ms = flight.cancelled_ms + backoff_ms(settings, flight.cancels)
            if stop and held is not HeldState.ENDED and now_ms >= resend_at_ms:
                live.cancels.setdefault(host_id, {})[key] = flight
            continue
        attempt = _folded_attempt(state, host_id, key)
        if held is HeldState.ENDED:
            if attempt is None or attempt.refused or (attempt.end and (not attempt.decided or attempt.late)):
                live.forgets.setdefault(host_id, {})[key] = None
        elif attempt is not None and attempt.end and attempt.decided:
            live.cancels.setdefault(host_id, {})[key] = None


def _folded_attempt(state: State, host_id: str, key: Key) -> Attempt | None:
    task = state.tasks.by_id.get(key[0])
    command = task.commands.get(host_id) if task else None
    return command.attempts[key[1] - 1] if command and 0 < key[1] <= len(command.attempts) else None


def _pushed(live: Live, push: pushes.Push, now_ms: int) -> None:
    live.outdated.pop(push.host_id, None)
    flights = live.flights.get(push.host_id, {})
    for named in push.attempts:
        key = (named.task_id, named.attempt)
        flight = flights.get(key)
        if isinstance(push, pushes.StartPush):
            drop(live.fresh, push.host_id, key)
            if flight is not None:
                # What was sent in an earlier session could not be obeyed in this one: pauses begin anew.
                flight.pushes = flight.pushes + 1 if flight.pushed_epoch == push.epoch else 1
                flight.pushed_ms, flight.pushed_epoch = now_ms, push.epoch
        elif isinstance(push, pushes.CancelPush):
            live.cancels.get(push.host_id, {}).pop(key, None)
            if flight is not None:
                flight.cancelled_ms, flight.cancels = now_ms, flight.cancels + 1
        else:
            live.forgets.get(push.host_id, {}).pop(key, None)
            live.forgetting.pop(push.host_id, None)
    for work in (live.cancels, live.forgets):
        if not work.get(push.host_id, True):
            del work[push.host_id]

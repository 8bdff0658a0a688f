"""Decide what is due: sessions, presence, plans, dispatches, ends. Pure and level-triggered.

Everything that changes the log's state goes out as one `Append`; what may be sent (`delivery.py`) follows from the
state that is already folded. Deciding twice on the same state gives the same again.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from fleetlog_dispatcher import plan, sessions
from fleetlog_dispatcher.delivery import sends
from fleetlog_dispatcher.ends import decided_ends
from fleetlog_dispatcher.live import Live, PendingOpen
from fleetlog_dispatcher.sessions import Keys
from fleetlog_dispatcher.state import State
from fleetlog_dispatcher.waiting import can_take, waiting_groups
from fleetlog_runtime.pure.effects import Answer, Append, Effect, Request, WakeAt
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_runtime.pure.split import split
from fleetlog_schemas import admission, events, lifecycle, limits, questions, subjects
from fleetlog_schemas.events import Data
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.records import CommandState, Task, TaskState

PLANS_PER_ROUND_MAX = 500
"""Tasks planned in one round: keeps a round short, and its batch within the bus's limit."""
DISPATCHES_PER_ROUND_MAX = 5_000
"""Attempts dispatched in one round."""


def decide(
    settings: DispatcherSettings, keys: Keys, state: State, live: Live, now_ms: int
) -> list[Effect]:
    """Return what is due now."""
    planned, refused = _plans(state, live)
    data = [
        *_session_events(keys, state, live),
        *_presence_events(settings, state, live, now_ms),
        *_plan_events(planned, refused),
        *_timeouts(live, now_ms),
        *_end_events(settings, state, live, now_ms),
        *_dispatch_events(settings, state, live, planned, now_ms),
        *_task_ends(live),
    ]
    effects: list[Effect] = []
    if data:
        effects.append(Append(tuple(data[: limits.BATCH_MESSAGES_MAX])))
    effects += sends(settings, keys, state, live, now_ms)
    effects += _session_answers(keys, state, live, now_ms)
    effects += [_answer(settings, state, live, request, now_ms) for request in live.questions.values()]
    if state.hosts.by_id or state.tasks.by_id:
        effects.append(WakeAt(live.next_sweep_ms))
    return effects


# --- sessions and presence -----------------------------------------------------------------------------------


def _session_events(keys: Keys, state: State, live: Live) -> Iterator[Data]:
    opened: list[events.Session] = []
    refused: list[events.SessionRefusal] = []
    for host_id, pending in live.opens.items():
        host, request = state.hosts.by_id.get(host_id), pending.request
        if host is None or host.revoked or host.blocked or host.nonce == request.nonce:
            continue
        code = sessions.wrong_ticket(host, request, keys)
        if _overtaken(code, pending):
            continue
        if code:
            refused.append(events.SessionRefusal(host_id=host_id, code=code, message=sessions.REASONS[code]))
        else:
            opened.append(
                events.Session(
                    host_id=host_id, epoch=host.epoch + 1, nonce=request.nonce[:64], boot_id=request.boot_id[:64],
                    version=request.version[:64], counter=request.counter, asked_ms=request.asked_ms,
                )
            )
    yield from split(lambda entries: events.SessionsRefused(hosts=entries), refused)
    yield from split(lambda entries: events.SessionsOpened(sessions=entries), opened)


def _overtaken(code: str, pending: PendingOpen) -> bool:
    """Whether a low counter shows only that the host went on reporting while its request waited for us."""
    return code == "counter" and pending.request.counter >= pending.counter


def _session_answers(keys: Keys, state: State, live: Live, now_ms: int) -> Iterator[Effect]:
    for host_id, pending in live.opens.items():
        host, request = state.hosts.by_id.get(host_id), pending.request
        if host is None:
            body = sessions.denied(host_id, request, "unknown", "this host is not enrolled: join it again")
        elif host.revoked:
            body = sessions.denied(host_id, request, "revoked", "this host was revoked")
        elif host.blocked:
            message = f"{host.blocked.message}; `fleetlog host accept {host.name}` lets it in again"
            body = sessions.denied(host_id, request, host.blocked.code, message)
        elif host.nonce == request.nonce:
            body = sessions.granted(host, request, keys, now_ms)
        elif _overtaken(sessions.wrong_ticket(host, request, keys), pending):
            body = sessions.denied(host_id, request, "busy", "a report overtook this request: ask again")
        else:
            continue  # its event is not read back yet
        yield Answer(pending.reply, body, sign=True)


def _presence_events(settings: DispatcherSettings, state: State, live: Live, now_ms: int) -> Iterator[Data]:
    came = [
        events.HostEpoch(host_id=host_id, epoch=host.epoch)
        for host_id in live.came
        if not ((host := state.hosts.by_id[host_id]).online and host.ticket_used)
    ]
    left = [
        events.HostEpoch(host_id=host_id, epoch=host.epoch)
        for host_id in live.left
        if (host := state.hosts.by_id[host_id]).online
    ]
    yield from split(lambda entries: events.HostsOnline(hosts=entries), came)
    yield from split(lambda entries: events.HostsOffline(hosts=entries, reason="goodbye"), left)
    if live.sweep:
        silent = _silent(settings, state, live, now_ms)
        yield from split(lambda entries: events.HostsOffline(hosts=entries, reason="silent"), silent)


def _silent(settings: DispatcherSettings, state: State, live: Live, now_ms: int) -> list[events.HostEpoch]:
    """Hosts whose silence is a verdict now; when many fell silent together, it is probably us, and we wait."""
    online = [host for host in state.hosts.by_id.values() if host.online]
    quiet = sorted(
        (silence_ms, host.host_id, host.epoch)
        for host in online
        if (silence_ms := now_ms - _heard_ms(live, host.host_id)) >= settings.suspect_ms
    )
    silences = [silence_ms for silence_ms, _, _ in quiet]
    many = len(online) * settings.mass_silence_ratio if len(online) >= settings.mass_silence_hosts else len(online)
    half_window_ms = settings.mass_silence_window_ms // 2
    verdicts = []
    for silence_ms, host_id, epoch in quiet:
        together = bisect.bisect_right(silences, silence_ms + half_window_ms)
        together -= bisect.bisect_left(silences, silence_ms - half_window_ms)
        patience_ms = settings.mass_silence_hold_ms if together > many else settings.offline_ms
        if silence_ms >= patience_ms:
            verdicts.append(events.HostEpoch(host_id=host_id, epoch=epoch))
    return verdicts


def _heard_ms(live: Live, host_id: str) -> int:
    presence = live.presence.get(host_id)
    return presence.heard_ms if presence else live.led_ms


# --- tasks -----------------------------------------------------------------------------------------------------


class Planned(NamedTuple):
    """A task that is planned in this round."""

    task: Task
    hosts: list[Host]
    plan_hash: str


def _plans(state: State, live: Live) -> tuple[list[Planned], list[events.Refusal]]:
    planned: list[Planned] = []
    refused: list[events.Refusal] = []
    for _, task in zip(range(PLANS_PER_ROUND_MAX), live.to_plan.values(), strict=False):
        try:
            chosen, hashed = plan.choose(task.spec, state.hosts)
        except plan.Refused as error:
            refused.append(msgspec.structs.replace(error.refusal, task_id=task.task_id))
        else:
            planned.append(Planned(task, chosen, hashed))
    return planned, refused


def _plan_events(planned: list[Planned], refused: list[events.Refusal]) -> Iterator[Data]:
    plans = [part for one in planned for part in plan.plans(one.task.task_id, one.hosts, one.plan_hash)]
    yield from split(lambda entries: events.TasksRefused(refusals=entries), refused)
    yield from split(lambda entries: events.TasksPlanned(plans=entries), plans)


def _timeouts(live: Live, now_ms: int) -> Iterator[Data]:
    if not live.sweep:
        return
    over = [
        task_id
        for task_id, task in live.timed.items()
        if not task.stop and now_ms - task.submitted_ms >= task.spec.task_timeout_ms
    ]
    yield from split(lambda entries: events.TasksTimedOut(task_ids=entries), over)


def _end_events(settings: DispatcherSettings, state: State, live: Live, now_ms: int) -> Iterator[Data]:
    ends = decided_ends(settings, state, live, now_ms)
    yield from split(lambda entries: events.AttemptsEnded(attempts=entries), ends)


def _task_ends(live: Live) -> Iterator[Data]:
    ends = [
        lifecycle.task_end(task)
        for task in live.to_end.values()
        if task.state is TaskState.PLANNED and not task.open
    ]
    yield from split(lambda entries: events.TasksEnded(tasks=entries), ends)


def _dispatch_events(
    settings: DispatcherSettings, state: State, live: Live, planned: list[Planned], now_ms: int
) -> Iterator[Data]:
    picked = _from_queues(settings, state, live, now_ms)
    picked += _from_plans(settings, state, live, planned, DISPATCHES_PER_ROUND_MAX - len(picked), now_ms)
    yield from split(lambda entries: events.AttemptsDispatched(attempts=entries), picked)


def _from_queues(settings: DispatcherSettings, state: State, live: Live, now_ms: int) -> list[events.Dispatch]:
    """Fill the free slots of every host that can take work, each host's queue in order."""
    picked: list[events.Dispatch] = []
    in_flight: dict[str, int] = {}
    for host_id, queue in live.queues.items():
        if len(picked) >= DISPATCHES_PER_ROUND_MAX:
            break
        host = state.hosts.by_id.get(host_id)
        free = _free_slots(settings, state, live, host, now_ms) if host else 0
        if host is None or free <= 0:
            continue
        for task_id, command in queue.items():
            task = state.tasks.by_id[task_id]
            running = in_flight.get(task_id)
            if running is None:
                running = _in_flight(task)
            if command.due_ms > now_ms or task.stop or command.stop:
                continue
            if task.spec.parallel and running >= task.spec.parallel:
                continue
            in_flight[task_id] = running + 1
            picked.append(_dispatch(task_id, host, len(command.attempts) + 1))
            free -= 1
            if not free:
                break
    return picked


def _from_plans(
    settings: DispatcherSettings, state: State, live: Live, planned: list[Planned], room: int, now_ms: int
) -> list[events.Dispatch]:
    """Dispatch what is planned in this same batch to hosts where nothing waits: one round trip less for a task."""
    picked: list[events.Dispatch] = []
    free: dict[str, int] = {}
    for task, hosts, _ in planned:
        if task.stop or len(hosts) > limits.EVENT_COMMANDS_MAX:
            continue
        left = min(task.spec.parallel or len(hosts), room - len(picked))
        for host in hosts:
            if left <= 0:
                break
            if host.host_id in live.queues:
                continue
            if host.host_id not in free:
                free[host.host_id] = _free_slots(settings, state, live, host, now_ms)
            if free[host.host_id] > 0:
                free[host.host_id] -= 1
                left -= 1
                picked.append(_dispatch(task.task_id, host, 1))
    return picked


def _free_slots(settings: DispatcherSettings, state: State, live: Live, host: Host, now_ms: int) -> int:
    free = settings.slots_per_host - len(live.flights.get(host.host_id, ()))
    return free if free > 0 and can_take(settings, state, live, host, now_ms) else 0


def _dispatch(task_id: str, host: Host, attempt: int) -> events.Dispatch:
    return events.Dispatch(task_id=task_id, host_id=host.host_id, attempt=attempt, epoch=host.epoch)


def _in_flight(task: Task) -> int:
    return task.counts.get(CommandState.DISPATCHED.value, 0) + task.counts.get(CommandState.RUNNING.value, 0)


# --- questions -------------------------------------------------------------------------------------------------


def _answer(settings: DispatcherSettings, state: State, live: Live, request: Request, now_ms: int) -> Answer:
    data: object = None
    problem = None
    try:
        if request.subject == subjects.ask("dispatcher", "plan"):
            asked = msgspec.json.decode(request.body, type=admission.PlanQuestion)
            data = plan.plan_answer(asked.spec, state.hosts)
        else:
            task_id = msgspec.json.decode(request.body, type=admission.WaitingQuestion).task_id
            task = state.tasks.by_id.get(task_id)
            data = waiting_groups(settings, state, live, task, now_ms) if task else []
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        problem = questions.Problem(status=400, code="bad-question", message=str(error))
    answer = questions.Answer(seq=state.position, data=data, problem=problem)
    return Answer(request.reply, msgspec.json.encode(answer))

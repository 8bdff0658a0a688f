"""Decide what is due: sessions, presence, plans, halts, dispatches, reasons, ends. Pure and level-triggered.

Everything that changes the log's state goes out as one `Append`; what may be sent (`delivery.py`) follows from the
state that is already folded. Deciding twice on the same state gives the same again.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

import msgspec

from fleetlog_dispatcher import plan, sessions, workflow
from fleetlog_dispatcher.admit import Planned, Round
from fleetlog_dispatcher.answers import answer
from fleetlog_dispatcher.delivery import FORGETTING_PER_ROUND_MAX, sends
from fleetlog_dispatcher.ends import decided_ends
from fleetlog_dispatcher.live import Live, PendingOpen
from fleetlog_dispatcher.sessions import Keys
from fleetlog_dispatcher.state import State
from fleetlog_dispatcher.waiting import notes
from fleetlog_runtime.pure.effects import Answer, Append, Effect, WakeAt
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_runtime.pure.split import split
from fleetlog_schemas import events, host_events, lifecycle, limits
from fleetlog_schemas.events import Data
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.pushes import ForgetPush
from fleetlog_schemas.records import CommandState, Task, TaskState
from fleetlog_schemas.rollout import failures, failures_max, over_budget, soaks_until_ms
from fleetlog_schemas.workflow_events import PartsDecided

PLANS_PER_ROUND_MAX = 500
"""Tasks planned in one round: keeps a round short, and its batch within the bus's limit."""


def decide(
    settings: DispatcherSettings, keys: Keys, state: State, live: Live, now_ms: int
) -> list[Effect]:
    """Return what is due now."""
    planned, refused = _plans(settings, state, live, now_ms)
    halts = list(_halts(live))
    of_workflows = workflow.due(state, live, now_ms)
    data = [
        *_session_events(keys, state, live),
        *_presence_events(settings, state, live, now_ms),
        *_plan_events(planned, refused),
        *_timeouts(live, now_ms),
        *split(lambda entries: events.TasksReplaced(replacements=entries), _replacements(live)),
        *split(lambda entries: events.TasksHalted(halts=entries), halts),
        *_end_events(settings, state, live, now_ms),
        *_dispatch_events(settings, state, live, planned, {halt.task_id for halt in halts}, now_ms),
        *split(lambda entries: events.CommandsWaiting(groups=entries), notes(settings, state, live, now_ms)),
        *split(lambda entries: PartsDecided(parts=entries), of_workflows.decisions),
        *split(lambda entries: events.TasksSubmitted(tasks=entries), of_workflows.submissions),
        *_task_ends(state, live),
    ]
    effects: list[Effect] = []
    if data:
        effects.append(Append(tuple(data[: limits.BATCH_MESSAGES_MAX])))
    sent = list(sends(settings, keys, state, live, now_ms))
    effects += sent
    effects += _session_answers(keys, state, live, now_ms)
    effects += [answer(settings, state, live, request, now_ms) for request in live.questions.values()]
    if state.hosts.by_id or state.tasks.by_id:
        more = len(live.forgetting) > FORGETTING_PER_ROUND_MAX and any(isinstance(one.push, ForgetPush) for one in sent)
        effects.append(WakeAt(now_ms if more else _next_ms(live, now_ms)))
    return effects


def _next_ms(live: Live, now_ms: int) -> int:
    """Return when time alone makes something due: a sweep, a retry, the end of a soak."""
    due_ms = live.next_sweep_ms
    if live.queues.later:
        due_ms = min(due_ms, live.queues.later[0][0])
    for task in live.budgeted.values():
        soak_ms = soaks_until_ms(task)
        if now_ms < soak_ms < due_ms:
            due_ms = soak_ms
    return due_ms


# --- sessions and presence -----------------------------------------------------------------------------------


def _session_events(keys: Keys, state: State, live: Live) -> Iterator[Data]:
    opened: list[host_events.Session] = []
    refused: list[host_events.SessionRefusal] = []
    for host_id, pending in live.opens.items():
        host, request = state.hosts.by_id.get(host_id), pending.request
        if host is None or host.revoked or host.blocked or host.nonce == request.nonce:
            continue
        code = sessions.wrong_ticket(host, request, keys)
        if _overtaken(host, code, pending):
            continue
        if code:
            refused.append(host_events.SessionRefusal(host_id=host_id, code=code, message=sessions.REASONS[code]))
        else:
            opened.append(
                host_events.Session(
                    host_id=host_id, epoch=host.epoch + 1, nonce=request.nonce[:64], boot_id=request.boot_id[:64],
                    version=request.version[:64], counter=request.counter, asked_ms=request.asked_ms,
                    shown_epoch=sessions.shown_epoch(host, request, keys),
                )
            )
    yield from split(lambda entries: host_events.SessionsRefused(hosts=entries), refused)
    yield from split(lambda entries: host_events.SessionsOpened(sessions=entries), opened)


def _overtaken(host: Host, code: str, pending: PendingOpen) -> bool:
    """Whether a request proves nothing, for something overtook it while it waited for us.

    A later request was granted; or its counter is low only because the host went on reporting.
    """
    request = pending.request
    if request.nonce == host.previous_nonce or (host.boot_id == request.boot_id and request.asked_ms < host.asked_ms):
        return True
    return code == "counter" and request.counter >= pending.counter


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
        elif _overtaken(host, sessions.wrong_ticket(host, request, keys), pending):
            body = sessions.denied(host_id, request, "busy", "a later message overtook this request: ask again")
        else:
            continue  # its event is not read back yet
        yield Answer(pending.reply, body, sign=True)


def _presence_events(settings: DispatcherSettings, state: State, live: Live, now_ms: int) -> Iterator[Data]:
    came = [
        host_events.HostEpoch(host_id=host_id, epoch=host.epoch)
        for host_id in live.came
        if not ((host := state.hosts.by_id[host_id]).online and host.ticket_used)
    ]
    left = [
        host_events.HostEpoch(host_id=host_id, epoch=host.epoch)
        for host_id in live.left
        if (host := state.hosts.by_id[host_id]).online
    ]
    yield from split(lambda entries: host_events.HostsOnline(hosts=entries), came)
    yield from split(lambda entries: host_events.HostsOffline(hosts=entries, reason="goodbye"), left)
    if live.sweep:
        silent = _silent(settings, state, live, now_ms)
        yield from split(lambda entries: host_events.HostsOffline(hosts=entries, reason="silent"), silent)


def _silent(settings: DispatcherSettings, state: State, live: Live, now_ms: int) -> list[host_events.HostEpoch]:
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
            verdicts.append(host_events.HostEpoch(host_id=host_id, epoch=epoch))
    return verdicts


def _heard_ms(live: Live, host_id: str) -> int:
    presence = live.presence.get(host_id)
    return presence.heard_ms if presence else live.led_ms


# --- tasks -----------------------------------------------------------------------------------------------------


def _plans(
    settings: DispatcherSettings, state: State, live: Live, now_ms: int
) -> tuple[list[Planned], list[events.Refusal]]:
    planned: list[Planned] = []
    refused: list[events.Refusal] = []
    runs: dict[str, Task] = {}
    for _, task in zip(range(PLANS_PER_ROUND_MAX), live.to_plan.values(), strict=False):
        key = task.spec.key
        try:
            plan.refuse_second_run(task.spec, next(iter(live.keys.get(key, {}).values()), runs.get(key)))
            layout = plan.lay_out(settings, state, live, task.spec, task.task_id, now_ms)
        except plan.Refused as error:
            refused.append(msgspec.structs.replace(error.refusal, task_id=task.task_id, part_of=task.part_of))
        else:
            planned.append(Planned(task, layout))
            if key:
                runs.setdefault(key, task)
    return planned, refused


def _plan_events(planned: list[Planned], refused: list[events.Refusal]) -> Iterator[Data]:
    plans = [part for one in planned for part in plan.plans(one.task.task_id, one.layout)]
    yield from split(lambda entries: events.TasksRefused(refusals=entries), refused)
    yield from split(lambda entries: events.TasksPlanned(plans=entries), plans)


def _timeouts(live: Live, now_ms: int) -> Iterator[Data]:
    if not live.sweep:
        return
    over = [
        task_id
        for task_id, task in live.timed.items()
        if task.stop in ("", "aborted") and now_ms - task.submitted_ms >= task.spec.task_timeout_ms
    ]
    yield from split(lambda entries: events.TasksTimedOut(task_ids=entries), over)


def _replacements(live: Live) -> Iterator[events.Replacement]:
    """Name the runs that a newer one of the same key takes the place of."""
    for of_key in live.keys.values():
        newer = next((task for task in reversed(of_key.values()) if task.spec.single_run == "replace"), None)
        if newer is None or newer.stop:
            continue
        for task in of_key.values():
            if task is newer:
                break
            if task.stop in ("", "aborted"):
                yield events.Replacement(task_id=task.task_id, by_task_id=newer.task_id)


def _halts(live: Live) -> Iterator[events.Halt]:
    """Name the tasks on which too many hosts failed, and where more would be started."""
    for task_id, task in live.budgeted.items():
        waits = task.counts.get(CommandState.WAITING.value)
        if not waits or task.stop or task.hold or not over_budget(task):
            continue
        allowed = failures_max(task.spec, len(task.commands))
        begun = sum(1 for wave in task.waves if wave.begun_ms)
        yield events.Halt(
            task_id=task_id, failures=failures(task) - task.forgiven, failures_max=allowed or 0, wave=max(begun, 1)
        )


def _end_events(settings: DispatcherSettings, state: State, live: Live, now_ms: int) -> Iterator[Data]:
    ends = decided_ends(settings, state, live, now_ms)
    yield from split(lambda entries: events.AttemptsEnded(attempts=entries), ends)


def _task_ends(state: State, live: Live) -> Iterator[Data]:
    ends = [
        lifecycle.task_end(task, state.tasks.by_id.get(task.part_of.task_id) if task.part_of else None)
        for task in live.to_end.values()
        if task.state is TaskState.PLANNED and not task.open
    ]
    yield from split(lambda entries: events.TasksEnded(tasks=entries), ends)


def _dispatch_events(
    settings: DispatcherSettings, state: State, live: Live, planned: list[Planned], halting: set[str], now_ms: int
) -> Iterator[Data]:
    admission = Round(settings, state, live, halting, now_ms)
    admission.waiting()
    admission.planned(planned)
    yield from split(
        lambda entries: events.AttemptsDispatched(attempts=entries, decided_seq=state.position), admission.picked
    )

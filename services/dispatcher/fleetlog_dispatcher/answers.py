"""Answer what the gateway asks: what a plan would do, why a task waits, what narrows admission. Pure."""

from __future__ import annotations

import msgspec

from fleetlog_dispatcher.live import Live
from fleetlog_dispatcher.plan import plan_answer
from fleetlog_dispatcher.state import State
from fleetlog_dispatcher.waiting import waiting_groups
from fleetlog_runtime.pure.effects import Answer, Request
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import admission, questions, subjects
from fleetlog_schemas.records import CommandState

BUSY_HOSTS_MAX = 100
"""Busy hosts named in one answer."""


def answer(settings: DispatcherSettings, state: State, live: Live, request: Request, now_ms: int) -> Answer:
    """Return the answer to one question."""
    data: object = None
    problem = None
    try:
        if request.subject == subjects.ask("dispatcher", "plan"):
            asked = msgspec.json.decode(request.body, type=admission.PlanQuestion)
            data = plan_answer(settings, state, live, asked.spec, now_ms)
        elif request.subject == subjects.ask("dispatcher", "admission"):
            msgspec.json.decode(request.body, type=admission.AdmissionQuestion)
            data = admission_answer(settings, state, live, now_ms)
        else:
            task_id = msgspec.json.decode(request.body, type=admission.WaitingQuestion).task_id
            task = state.tasks.by_id.get(task_id)
            data = waiting_groups(settings, state, live, task, now_ms) if task else []
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        problem = questions.Problem(status=400, code="bad-question", message=str(error))
    return Answer(request.reply, msgspec.json.encode(questions.Answer(seq=state.position, data=data, problem=problem)))


def admission_answer(
    settings: DispatcherSettings, state: State, live: Live, now_ms: int
) -> admission.AdmissionAnswer:
    """Return what narrows admission now."""
    waiting: dict[str, int] = {}
    for task in live.open.values():
        queue = task.spec.queue
        waiting[queue] = waiting.get(queue, 0) + task.counts.get(CommandState.WAITING.value, 0)
    hosts = live.directory
    assert hosts is not None, "it is made before every decision"
    used = {queue for queue, count in waiting.items() if count}
    queues = sorted(state.policies.queues.keys() | live.shares.by_queue.keys() | used)
    return admission.AdmissionAnswer(
        in_flight=live.shares.total, in_flight_max=settings.in_flight_max, waiting=sum(waiting.values()),
        freezes=[admission.freeze_view(one, hosts) for one in state.policies.freezes.values()],
        windows=[admission.window_view(one, hosts, now_ms) for _, one in sorted(state.policies.windows.items())],
        queues=[
            admission.QueueView(
                queue=queue, in_flight_max=state.policies.queues.get(queue, 0),
                in_flight=live.shares.by_queue.get(queue, 0), waiting=waiting.get(queue, 0),
            )
            for queue in queues
        ],
        busy=_busy(settings, state, live),
    )


def _busy(settings: DispatcherSettings, state: State, live: Live) -> list[admission.HostLimit]:
    found = sorted(live.limits.items(), key=lambda item: (item[1].slots, item[0]))[:BUSY_HOSTS_MAX]
    return [
        admission.HostLimit(
            host_id=host_id, name=state.hosts.by_id[host_id].name, slots=limit.slots,
            slots_max=settings.slots_per_host, in_flight=len(live.flights.get(host_id, ())), why=limit.why,
        )
        for host_id, limit in found
    ]

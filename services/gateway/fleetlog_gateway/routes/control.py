"""Steering tasks that go on: cancel, pause, resume, abort, approve waves, skip hosts.

Each is one request in the log, answered when it is durable there. What it does is decided by the fold alone; here is
only checked, as far as the reporter answers, that it can do anything at all.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import decode
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.decode import Reason
from fleetlog_gateway.finding import Asked, find_asked, hosts_asked
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import HttpProblem, invalid
from fleetlog_gateway.registry import Call, Nothing, Paged, reply, route
from fleetlog_schemas import control_events, events, questions
from fleetlog_schemas.limits import EVENT_COMMANDS_MAX, HOSTS_PER_TASK_MAX, WAVES_MAX, WORKFLOW_PARTS_MAX
from fleetlog_schemas.spec import Rollout

HostNames = Annotated[tuple[str, ...], Meta(max_length=HOSTS_PER_TASK_MAX)]
_STEERING = ("invalid", "task-not-found", "task-ended", "task-stopping", "service-unavailable", "bus-unavailable", "unsettled")


class AcceptedChange(msgspec.Struct, frozen=True):
    """A request about a task that is durably in the log."""

    task_id: str
    seq: int
    checked: bool
    """False: the reporter did not answer, so it is not known whether this task is still open."""


class AcceptedApproval(msgspec.Struct, frozen=True):
    """An approval that is durably in the log."""

    task_id: str
    seq: int
    checked: bool
    wave: int
    """Waves up to this one may begin."""


class AcceptedEverything(msgspec.Struct, frozen=True):
    """A request about every open task that is durably in the log."""

    seq: int


class Because(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it is asked."""

    reason: Reason = ""


class Cancel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which commands to end; without hosts, the whole task."""

    host_ids: HostNames = ()
    hosts: HostNames = ()
    """Names, ids or folded names (`web[01-40]`)."""
    parts: Annotated[tuple[Annotated[str, Meta(max_length=63)], ...], Meta(max_length=WORKFLOW_PARTS_MAX)] = ()
    """Of a workflow: only these parts."""
    reason: Reason = ""


class Skip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which hosts to pass over."""

    host_ids: HostNames = ()
    hosts: HostNames = ()
    """Names, ids or folded names (`web[01-40]`)."""
    reason: Reason = ""


class Approve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which waves may begin."""

    wave: Annotated[int, Meta(ge=0, le=WAVES_MAX)] = 0
    """Waves up to this one, from 1; 0 is the next one that waits for approval."""
    reason: Reason = ""


async def _stored(call: Call[Any, Any], task: Asked, *data: events.Data) -> web.Response:
    seq = await call.gateway.store(list(data), call.principal, task.task_id)
    return reply(AcceptedChange(task_id=task.task_id, seq=seq, checked=task.checked), status=202)


@route("POST", "/api/v1/tasks/{id}/cancel", auth=Permission.RUN, body=Cancel, body_optional=True, answer=AcceptedChange,
       status=202, problems=("invalid", "task-not-found", "task-ended", "service-unavailable", "bus-unavailable", "unsettled"))
async def cancel(call: Call[Cancel, Nothing]) -> web.Response:
    """Ask for the end of a task, or of its commands on some hosts.

    Answered when the request is durably in the log; each host then confirms. Without the reporter a task can still be
    cancelled by its full id; `checked` is then false. Hosts of a task that is not planned yet are named as the gateway
    knows them: they are stopped as soon as they are planned.
    """
    body, reason = call.body, decode.check_reason(call.body.reason)
    task = await find_asked(call.gateway, call.path["id"], whole=bool(body.parts))
    task.must_be_open(unstopped=False)
    if body.parts:
        _check_parts(task, body)
        return await _stored(call, task, control_events.CancelRequested(task.task_id, reason=reason, parts=body.parts))
    host_ids: tuple[str, ...] = ()
    if body.hosts or body.host_ids:
        host_ids = await hosts_asked(call.gateway, task, body.host_ids, body.hosts)
    parts = [control_events.CancelRequested(task.task_id, part, reason) for part in _thousands(host_ids)]
    return await _stored(call, task, *parts)


def _check_parts(task: Asked, body: Cancel) -> None:
    """Refuse parts that a workflow does not have, or that have ended. Raises HttpProblem."""
    if body.hosts or body.host_ids:
        raise invalid("/parts", "give either hosts or parts")
    if not task.checked:
        return
    ended = {part.name: part.outcome for part in task.parts}
    for index, name in enumerate(body.parts):
        if name not in ended:
            raise invalid(f"/parts/{index}", f"this task has no part {name!r}; it has: {', '.join(ended) or 'none'}")
    if all(ended[name] for name in body.parts):
        raise HttpProblem("task-ended", "these parts have already ended")


@route("POST", "/api/v1/tasks/cancel-all", auth=Permission.RUN, body=Because, body_optional=True,
       answer=AcceptedEverything, status=202, problems=("invalid", "bus-unavailable", "unsettled"))
async def cancel_all(call: Call[Because, Nothing]) -> web.Response:
    """Ask for the end of every task that is open at this moment.

    One event of the log, which needs no other service. Tasks that are submitted after it are not meant.
    """
    reason = decode.check_reason(call.body.reason)
    seq = await call.gateway.store([control_events.AllCancelRequested(reason)], call.principal)
    return reply(AcceptedEverything(seq=seq), status=202)


@route("POST", "/api/v1/tasks/{id}/pause", auth=Permission.RUN, body=Because, body_optional=True, answer=AcceptedChange,
       status=202, problems=(*_STEERING, "on-hold"))
async def pause(call: Call[Because, Nothing]) -> web.Response:
    """Let a task start nothing more until it is resumed; what runs goes on.

    As all that steers a task: answered when it is durably in the log, and without the reporter it works by the full id,
    unchecked.
    """
    reason = decode.check_reason(call.body.reason)
    task = await find_asked(call.gateway, call.path["id"])
    task.must_be_open()
    if task.hold is not None:
        raise HttpProblem("on-hold", f"the task is {task.hold.kind} already{_because(task.hold.reason)}")
    return await _stored(call, task, control_events.PauseRequested(task.task_id, reason))


@route("POST", "/api/v1/tasks/{id}/resume", auth=Permission.RUN, body=Because, body_optional=True, answer=AcceptedChange,
       status=202, problems=(*_STEERING, "not-on-hold"))
async def resume(call: Call[Because, Nothing]) -> web.Response:
    """Let a paused or halted task go on; failures so far no longer count against its budget."""
    reason = decode.check_reason(call.body.reason)
    task = await find_asked(call.gateway, call.path["id"])
    task.must_be_open()
    if task.checked and task.hold is None:
        raise HttpProblem("not-on-hold", "the task is neither paused nor halted: `fleetlog why` says what it waits for")
    return await _stored(call, task, control_events.ResumeRequested(task.task_id, reason))


@route("POST", "/api/v1/tasks/{id}/abort", auth=Permission.RUN, body=Because, body_optional=True, answer=AcceptedChange,
       status=202, problems=_STEERING)
async def abort(call: Call[Because, Nothing]) -> web.Response:
    """Let a task start nothing more for good: what waits is skipped, what runs goes on to its end."""
    reason = decode.check_reason(call.body.reason)
    task = await find_asked(call.gateway, call.path["id"])
    task.must_be_open()
    return await _stored(call, task, control_events.AbortRequested(task.task_id, reason))


@route("POST", "/api/v1/tasks/{id}/skip", auth=Permission.RUN, body=Skip, answer=AcceptedChange, status=202,
       problems=(*_STEERING, "nothing-to-skip"))
async def skip(call: Call[Skip, Nothing]) -> web.Response:
    """Pass over some hosts: those of them that still wait are skipped, what runs goes on."""
    body, reason = call.body, decode.check_reason(call.body.reason)
    if not body.hosts and not body.host_ids:
        raise invalid("/hosts", "name at least one host")
    task = await find_asked(call.gateway, call.path["id"])
    task.must_be_open()
    if task.state == "submitted":
        raise HttpProblem("nothing-to-skip", "the task is not planned yet: cancel its command on these hosts instead")
    host_ids = await hosts_asked(call.gateway, task, body.host_ids, body.hosts, only="waiting")
    return await _stored(call, task, *(control_events.SkipRequested(task.task_id, part, reason) for part in _thousands(host_ids)))


@route("POST", "/api/v1/tasks/{id}/approve", auth=Permission.RUN, body=Approve, body_optional=True,
       answer=AcceptedApproval, status=202, problems=(*_STEERING, "nothing-to-approve"))
async def approve(call: Call[Approve, Nothing]) -> web.Response:
    """Let the next wave that waits for approval begin, or all waves up to the one that is named.

    A wave that is named needs the reporter only for checking; which one is next, it alone can tell.
    """
    wave, reason = call.body.wave, decode.check_reason(call.body.reason)
    task = await find_asked(call.gateway, call.path["id"])
    task.must_be_open()
    if task.checked:
        wave = await _wave(call.gateway, task, wave)
    elif not wave:
        raise HttpProblem("service-unavailable", "the reporter does not say which wave is next: name it (`wave`)")
    seq = await call.gateway.store([control_events.TaskApproved(task.task_id, wave, reason)], call.principal, task.task_id)
    return reply(AcceptedApproval(task_id=task.task_id, seq=seq, checked=task.checked, wave=wave), status=202)


async def _wave(gateway: Gateway, task: Asked, wave: int) -> int:
    """Return the wave that is meant, which must wait for approval or come after one that does. Raises HttpProblem."""
    rollout = task.spec.rollout if task.spec is not None else None
    if rollout is None or not rollout.approve:
        raise HttpProblem("nothing-to-approve", "no wave of this task needs approval")
    if wave and not task.waves:
        return wave  # not planned yet: nobody knows how many waves there will be
    if wave > len(task.waves):
        raise invalid("/wave", f"this task has {len(task.waves)} waves")
    approved = await _approved(gateway, task.task_id)
    left = [
        one.number for one in task.waves
        if one.state == "waiting" and one.number > approved and _asks(rollout, one.number)
    ]
    if not left or (wave and left[0] > wave):
        upto = f" up to {wave}" if wave else ""
        raise HttpProblem("nothing-to-approve", f"no wave{upto} of this task waits for approval")
    return wave or left[0]


def _asks(rollout: Rollout, number: int) -> bool:
    return number in rollout.approve or (0 in rollout.approve and number > 1)


class _Approval(msgspec.Struct, frozen=True):
    wave: int


class _Content(msgspec.Struct, frozen=True):
    data: _Approval


class _StoredApproval(msgspec.Struct, frozen=True):
    event: _Content


async def _approved(gateway: Gateway, task_id: str) -> int:
    """Return the last wave that was approved so far, by the approvals in the log."""
    fields = {"task_id": task_id, "type": events.NAMES[control_events.TaskApproved], "limit": questions.PAGE_MAX}
    answer = await gateway.asker.report("events", questions.EventsQuestion, fields)
    page = decode.json_answer(answer.data, Paged[_StoredApproval], "reporter")
    return max((one.event.data.wave for one in page.items), default=0)


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _thousands(host_ids: tuple[str, ...]) -> list[tuple[str, ...]]:
    starts = range(0, max(len(host_ids), 1), EVENT_COMMANDS_MAX)
    return [host_ids[start : start + EVENT_COMMANDS_MAX] for start in starts]

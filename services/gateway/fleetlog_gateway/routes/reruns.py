"""Run a task again, on the hosts that are still there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import decode
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.callable import FUNCTION_PROBLEMS, check_callable
from fleetlog_gateway.definitions import Made, keep, latest
from fleetlog_gateway.finding import OVER, CommandHead, commands_of, find_task
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import HttpProblem, invalid
from fleetlog_gateway.recent import fingerprint
from fleetlog_gateway.registry import Call, Nothing, reply, route
from fleetlog_schemas import events, hostset, questions, view
from fleetlog_schemas.graph import descendants
from fleetlog_schemas.limits import WORKFLOW_PARTS_MAX
from fleetlog_schemas.outcomes import RERUN_OUTCOMES, Outcome
from fleetlog_schemas.parts import STOPPED
from fleetlog_schemas.spec import Rollout, Taken, TaskSpec, Workflow


class AcceptedRerun(msgspec.Struct, frozen=True):
    """A task that runs another again."""

    task_id: str
    seq: int
    hosts: int
    gone: str = ""
    """Folded names of hosts that were left out: they were revoked, or are no longer enrolled."""
    parts: tuple[str, ...] = ()
    """Of a workflow: the parts that run again; the others are taken over."""


class Rerun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """On which hosts to run it again; empty: on all of them."""

    failed: bool = False
    """Those that ended with failure, timeout, error or unreached."""
    include_lost: bool = False
    """With `failed`: also those that may have run and cannot be confirmed."""
    outcomes: tuple[Outcome, ...] = ()
    """Exactly those that ended so."""
    parts: Annotated[tuple[Annotated[str, Meta(max_length=63)], ...], Meta(max_length=WORKFLOW_PARTS_MAX)] = ()
    """Of a workflow: these, and what comes after them."""
    latest: bool = False
    """With the present version of its definition, and the same parameters; otherwise with the same version."""


@route("POST", "/api/v1/tasks/{id}/rerun", auth=Permission.RUN, body=Rerun, body_optional=True, answer=AcceptedRerun,
       status=202, idempotent=True,
       problems=("invalid", *FUNCTION_PROBLEMS, "task-not-found", "definition-not-found", "nothing-to-rerun", "idempotency-key", "idempotency-key-reused",
                 "service-unavailable", "bus-unavailable", "unsettled", "log-full"))
async def rerun(call: Call[Rerun, Nothing]) -> web.Response:
    """Run a task again, on all of its hosts or on those that ended in a certain way.

    The new task has the old one's specification with exact hosts instead of a target, and names the old one. Hosts that
    are gone are left out and named in `gone`. Waves stay, a canary does not. A task of a definition runs the version that
    it ran, also after that was changed or removed; with `latest` the present one. Of a workflow parts stand for hosts:
    those that are meant run again, with all that comes after them; the others are taken over with what they returned.
    """
    gateway, body = call.gateway, call.body
    if body.parts and (body.failed or body.outcomes):
        raise invalid("/parts", "give either parts, or how they ended")
    if body.include_lost and not body.failed:
        raise invalid("/include_lost", "goes with `failed`; or name `lost` among the outcomes")
    if body.failed and body.outcomes:
        raise invalid("/outcomes", "give either `failed` or outcomes")
    new_id = decode.idempotency_key(call.request) or gateway.make_id()

    async def append() -> AcceptedRerun:
        decode.check_task_id_time(new_id, gateway.now_ms(), "")
        spec, gone, environment = await _rerun_spec(gateway, call.path["id"], body)
        again = tuple(one.name for one in workflow.parts if one.name not in workflow.taken) if (workflow := _workflow_of(spec)) else ()
        decode.check_task(spec, "")
        await check_callable(gateway, spec)
        if environment is not None:
            await keep(gateway, environment)
        submitted = events.TasksSubmitted(tasks=(events.Submission(task_id=new_id, spec=spec),))
        seq = await gateway.store([submitted], call.principal, new_id, new_tasks=True)
        return AcceptedRerun(task_id=new_id, seq=seq, hosts=len(spec.host_ids), gone=hostset.fold(gone), parts=again)

    asked = fingerprint(b"rerun", call.path["id"].encode("utf-8", "replace"), msgspec.json.encode(body))
    accepted = await gateway.recent.once(new_id, asked, append)
    return reply(accepted, status=202, headers={"Location": f"/api/v1/tasks/{new_id}"})


class _Rerunnable(msgspec.Struct, frozen=True):
    task_id: str
    spec: TaskSpec
    state: str = ""
    parts: tuple[view.PartView, ...] = ()


async def _rerun_spec(gateway: Gateway, given: str, body: Rerun) -> tuple[TaskSpec, list[str], bytes | None]:
    """Return what to run again, the names of the hosts that are left out, and content to store. Raises HttpProblem."""
    found = await find_task(gateway, given)
    answer = await gateway.asker.report("task", questions.TaskQuestion, {"task_id": found.task_id})
    old = decode.json_answer(answer.data, _Rerunnable, "reporter")
    if isinstance(old.spec.payload, Workflow):
        return await _rerun_workflow(gateway, old, body)
    if body.parts:
        raise invalid("/parts", "this task is no workflow: it has no parts")
    chosen = await _chosen(gateway, old.task_id, body)
    gone = [command.host for command in chosen if _is_gone(gateway, command.host_id)]
    host_ids = tuple(command.host_id for command in chosen if not _is_gone(gateway, command.host_id))
    if not host_ids:
        raise HttpProblem(
            "nothing-to-rerun", f"every host that is meant is gone (revoked, or no longer enrolled): {hostset.fold(gone)}"
        )
    made = await latest(gateway, old.spec) if body.latest else Made(old.spec, None)
    spec = msgspec.structs.replace(
        made.spec, target="", host_ids=host_ids, rerun_of=old.task_id, plan_hash="", choose=None,
        rollout=_without_canary(made.spec.rollout),
    )
    return spec, gone, made.environment


def _workflow_of(spec: TaskSpec) -> Workflow | None:
    return spec.payload if isinstance(spec.payload, Workflow) else None


async def _rerun_workflow(gateway: Gateway, old: _Rerunnable, body: Rerun) -> tuple[TaskSpec, list[str], bytes | None]:
    """Return a workflow that runs some parts of an earlier one again and takes the others over. Raises HttpProblem."""
    if old.state not in OVER:
        raise HttpProblem("nothing-to-rerun", "the workflow has not ended yet: cancel it first, or wait for its end")
    made = await latest(gateway, old.spec) if body.latest else Made(old.spec, None)
    workflow = _workflow_of(made.spec)
    if workflow is None:
        raise invalid("/latest", "its definition is no workflow any more")
    ended = {one.name: one for one in old.parts}
    again = _parts_again(workflow, ended, body)
    taken = {
        name: Taken(one.taken_from or old.task_id, Outcome(one.outcome), one.value, one.by_host, one.items)
        for name, one in ended.items()
        if name not in again and one.outcome is not None and any(part.name == name for part in workflow.parts)
    }
    spec = msgspec.structs.replace(
        made.spec, payload=msgspec.structs.replace(workflow, taken=taken), rerun_of=old.task_id, plan_hash="",
    )
    return spec, [], made.environment


def _parts_again(workflow: Workflow, ended: Mapping[str, view.PartView], body: Rerun) -> set[str]:
    """Return the names of the parts that run again: those that are meant, and what comes after them. Raises HttpProblem."""
    names = {part.name for part in workflow.parts}
    if unknown := set(body.parts) - names:
        raise invalid("/parts", f"the workflow has no part {min(unknown)[:100]!r}; it has: {', '.join(sorted(names))}")
    if not (body.parts or body.failed or body.outcomes):
        return names
    meant = set(body.parts) | {name for name in names if name not in ended}
    for name, one in ended.items():
        if body.failed and one.outcome == Outcome.LOST and not body.include_lost:
            raise HttpProblem("nothing-to-rerun", f"the part {name} is lost and may have run: look at it, then use include_lost")
        wanted = one.outcome not in (None, Outcome.SUCCESS, Outcome.SKIPPED) if body.failed else one.outcome in body.outcomes
        if wanted and name in names:
            meant.add(name)
    if body.failed and not meant:
        # Nothing went wrong, and a stop kept parts from running: those go on.
        meant = {name for name, one in ended.items() if one.reason == STOPPED and name in names}
    if not meant:
        raise HttpProblem("nothing-to-rerun", "no part of this workflow ended that way")
    return descendants(workflow.parts, meant)


async def _chosen(gateway: Gateway, task_id: str, body: Rerun) -> list[CommandHead]:
    outcomes = set(body.outcomes)
    if body.failed:
        outcomes = {*RERUN_OUTCOMES, Outcome.LOST} if body.include_lost else set(RERUN_OUTCOMES)
    chosen: list[CommandHead] = []
    lost = 0
    async for command in commands_of(gateway, task_id):
        lost += command.outcome == Outcome.LOST
        if not outcomes or command.outcome in outcomes:
            chosen.append(command)
    if not chosen:
        hint = f"; {lost} lost: look at them, then use include_lost" if lost and Outcome.LOST not in outcomes else ""
        raise HttpProblem("nothing-to-rerun", f"no host of this task ended that way{hint}")
    return chosen


def _is_gone(gateway: Gateway, host_id: str) -> bool:
    host = gateway.access.hosts.by_id.get(host_id)
    return host is None or host.revoked


def _without_canary(rollout: Rollout | None) -> Rollout | None:
    """Return a rollout whose canary is dropped: its hosts may not be among those that run again.

    One that had nothing else becomes a single wave, so that its failure budget and approvals stay.
    """
    if rollout is None or not rollout.canary:
        return rollout
    waves = rollout.waves or (() if rollout.batch else ("100%",))
    return msgspec.structs.replace(rollout, canary="", waves=waves)

"""Tasks as requests: store content, submit one or many, plan."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import decode, limits
from fleetlog_gateway.asking import RawAnswer, handed_on
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.callable import FUNCTION_PROBLEMS, check_callable
from fleetlog_gateway.contents import check_names
from fleetlog_gateway.definitions import keep
from fleetlog_gateway.difference import difference, previous_question
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import HttpProblem, invalid
from fleetlog_gateway.recent import fingerprint
from fleetlog_gateway.registry import Answered, Call, Nothing, Raw, reply, route
from fleetlog_schemas import admission, events, ids, questions
from fleetlog_schemas.definitions import check_known_parameters
from fleetlog_schemas.limits import (
    BLOB_BYTES_MAX,
    EVENT_BYTES_MAX,
    EVENT_COMMANDS_MAX,
    TASKS_PER_SUBMIT_MAX,
)
from fleetlog_schemas.spec import SpecError, TaskSpec, Workflow
from fleetlog_schemas.workflows import resolved

ENVELOPE_BYTES = 4_096
"""Room for what stands around the data of an event."""


class Stored(msgspec.Struct, frozen=True):
    """Content that is now kept."""

    sha256: str
    size: int


class Accepted(msgspec.Struct, frozen=True):
    """A task that is durably in the log."""

    task_id: str
    seq: int


class AcceptedBatch(msgspec.Struct, frozen=True):
    """Tasks that are durably in the log, in the order given."""

    task_ids: tuple[str, ...]
    seq: int


class BatchItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One task of a batch."""

    spec: TaskSpec
    task_id: str = ""
    """A UUIDv7 made by the client; empty: the gateway makes one."""


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tasks that are accepted together or not at all."""

    tasks: Annotated[tuple[BatchItem, ...], Meta(min_length=1, max_length=TASKS_PER_SUBMIT_MAX)]


@route("POST", "/api/v1/blobs", auth=Permission.RUN, body=Raw, body_bytes_max=BLOB_BYTES_MAX, answer=Stored, status=201,
       problems=("body-too-large", "bus-unavailable", "unsettled", "log-full"))
async def put_blob(call: Call[Raw, Nothing]) -> web.Response:
    """Store content (a script, stdin, the environment) and return its digest.

    The body is taken as it is. Storing the same content twice keeps it once.
    """
    sha256 = await keep(call.gateway, call.body.body)
    return reply(Stored(sha256=sha256, size=len(call.body.body)), status=201)


@route("POST", "/api/v1/tasks", auth=Permission.RUN, body=TaskSpec, answer=Accepted, status=202, idempotent=True,
       problems=("invalid", *FUNCTION_PROBLEMS, "task-id-time", "idempotency-key", "idempotency-key-reused", "bus-unavailable", "unsettled", "log-full"))
async def submit(call: Call[TaskSpec, Nothing]) -> web.Response:
    """Submit a task.

    Answered as soon as the task is durably in the log. With an `Idempotency-Key` (a UUIDv7, which becomes the task id)
    the request may be repeated: one task comes of it. Whether its target means any host is decided later: see the
    task's events.
    """
    spec = _submitted(call.gateway, call.body, "")
    gateway, task_id = call.gateway, decode.idempotency_key(call.request) or call.gateway.make_id()

    async def append() -> Accepted:
        decode.check_task_id_time(task_id, gateway.now_ms(), "")
        await check_callable(gateway, spec)
        submitted = events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=spec),))
        return Accepted(task_id=task_id, seq=await gateway.store([submitted], call.principal, task_id, new_tasks=True))

    asked = fingerprint(b"submit", msgspec.json.encode(call.body))
    accepted = await gateway.recent.once(task_id, asked, append)
    return reply(accepted, status=202, headers={"Location": f"/api/v1/tasks/{task_id}"})


@route("POST", "/api/v1/tasks/batch", auth=Permission.RUN, body=Batch, answer=AcceptedBatch, status=202,
       body_bytes_max=limits.BATCH_BODY_BYTES_MAX,
       problems=("invalid", *FUNCTION_PROBLEMS, "task-id-time", "bus-unavailable", "unsettled", "log-full"))
async def submit_batch(call: Call[Batch, Nothing]) -> web.Response:
    """Submit up to 10,000 tasks, all or none.

    They are stored in one batch of few events. Give each task an id of your own to be able to repeat the request.
    """
    gateway, submissions = call.gateway, list[events.Submission]()
    seen: set[str] = set()
    for index, item in enumerate(call.body.tasks):
        if index % limits.BATCH_CHECKED_AT_ONCE == 0:
            await asyncio.sleep(0)
        at = f"/tasks/{index}"
        spec = _submitted(gateway, item.spec, f"{at}/spec")
        await check_callable(gateway, spec, f"{at}/spec")
        task_id = item.task_id or gateway.make_id()
        try:
            decode.check_task_id_time(task_id, gateway.now_ms(), f"{at}/task_id")
        except ids.InvalidId as error:
            raise invalid(f"{at}/task_id", str(error)) from None
        if ids.is_made(task_id):
            raise invalid(f"{at}/task_id", "must be a UUIDv7: ids of version 8 are made by fleetlog itself")
        if task_id in seen:
            raise invalid(f"{at}/task_id", "this id is already used by an earlier task of the batch")
        seen.add(task_id)
        submissions.append(events.Submission(task_id=task_id, spec=spec))
    data: list[events.Data] = [events.TasksSubmitted(tasks=part) for part in _parts(submissions)]
    seq = await gateway.store(data, call.principal, submissions[0].task_id, new_tasks=True)
    return reply(AcceptedBatch(task_ids=tuple(one.task_id for one in submissions), seq=seq), status=202)


@route("POST", "/api/v1/plan", auth=Permission.READ, body=TaskSpec, answer=Answered[admission.PlanAnswer],
       problems=("invalid", *FUNCTION_PROBLEMS, "service-unavailable"))
async def plan(call: Call[TaskSpec, Nothing]) -> web.Response:
    """Say what submitting this would do now: which hosts, how many are offline; runs nothing.

    `difference` compares it with the last task that ran the same; null when there is none, or the reporter does not tell.
    """
    spec = _submitted(call.gateway, call.body, "")
    await check_callable(call.gateway, spec)
    return await answer_plan(call.gateway, spec)


async def answer_plan(gateway: Gateway, spec: TaskSpec) -> web.Response:
    """Return the dispatcher's plan of a task, with how it differs from the last one. Raises HttpProblem."""
    answer = await gateway.asker.ask("dispatcher", "plan", admission.PlanQuestion(spec=spec))
    return handed_on(await _with_difference(gateway, spec, answer))


def _submitted(gateway: Gateway, spec: TaskSpec, prefix: str) -> TaskSpec:
    """Return what is asked for as it is stored: checked, and with the definitions that a workflow names. Raises HttpProblem."""
    _check_origin(spec, prefix)
    try:
        found = resolved(gateway.access.definitions, spec)
        check_known_parameters(found, found.parameters)
    except SpecError as error:
        raise invalid(f"{prefix}{error.pointer}", error.message) from None
    decode.check_task(found, prefix)
    check_names(gateway, found, prefix)
    return found


def _check_origin(spec: TaskSpec, prefix: str) -> None:
    """Refuse a task that says itself where it comes from: only the gateway knows which version that was. Raises HttpProblem."""
    if spec.definition is not None:
        raise invalid(f"{prefix}/definition", "run a definition by POST /api/v1/definitions/{name}/tasks")
    if not isinstance(spec.payload, Workflow):
        return
    if spec.payload.taken:
        raise invalid(f"{prefix}/payload/taken", "run a workflow again by POST /api/v1/tasks/{id}/rerun")
    for index, part in enumerate(spec.payload.parts):
        if part.declared or (part.task is not None and part.task.definition is not None):
            raise invalid(f"{prefix}/payload/parts/{index}", "name the definition of a part: the gateway looks it up")


class _Planned(msgspec.Struct, frozen=True):
    hosts: list[events.PlannedHost]
    problem: questions.Problem | None = None


async def _with_difference(gateway: Gateway, spec: TaskSpec, answer: RawAnswer) -> RawAnswer:
    """Return the dispatcher's answer with `difference` filled in, everything else as it came."""
    planned = decode.json_answer(answer.data, _Planned, "dispatcher")
    if planned.problem is not None:
        return answer
    try:
        told = await gateway.asker.report(
            "previous", questions.PreviousQuestion, previous_question(spec), limits.ASK_EXTRA_MS_MAX
        )
        previous = decode.optional_answer(told.data, questions.Previous, "reporter")
    except HttpProblem:
        return answer  # it is shown beside the plan, which is whole without it
    if previous is None:
        return answer
    fields = decode.json_answer(answer.data, dict[str, msgspec.Raw], "dispatcher")
    found = difference(previous, spec, [host.name for host in planned.hosts])
    fields["difference"] = msgspec.Raw(msgspec.json.encode(found))
    return msgspec.structs.replace(answer, data=msgspec.Raw(msgspec.json.encode(fields)))


def _parts(submissions: list[events.Submission]) -> Iterator[tuple[events.Submission, ...]]:
    """Cut where an event would grow too large; the parts are stored in one batch."""
    part: list[events.Submission] = []
    size = 0
    for one in submissions:
        bytes_more = len(msgspec.json.encode(one)) + 1
        if part and (size + bytes_more > EVENT_BYTES_MAX - ENVELOPE_BYTES or len(part) >= EVENT_COMMANDS_MAX):
            yield tuple(part)
            part, size = [], 0
        part.append(one)
        size += bytes_more
    yield tuple(part)

"""Tasks as requests: store content, submit, plan, cancel, run again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import decode, limits
from fleetlog_gateway.appending import Unsettled
from fleetlog_gateway.asking import handed_on
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.finding import commands_of, find_task
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.problems import FieldError, HttpProblem, invalid
from fleetlog_gateway.recent import fingerprint
from fleetlog_gateway.registry import Answered, Call, Nothing, Raw, reply, route
from fleetlog_runtime.pure.bus import AppendRefused, AppendUnsettled, BusFull, NoAnswer, NotSent
from fleetlog_schemas import admission, events, hostset, ids, questions
from fleetlog_schemas.limits import (
    BLOB_BYTES_MAX,
    EVENT_BYTES_MAX,
    EVENT_COMMANDS_MAX,
    HOSTS_PER_TASK_MAX,
    TASKS_PER_SUBMIT_MAX,
)
from fleetlog_schemas.outcomes import RERUN_OUTCOMES, Outcome
from fleetlog_schemas.spec import SpecError, TaskSpec, check_spec

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


class AcceptedRerun(msgspec.Struct, frozen=True):
    """A task that runs another again."""

    task_id: str
    seq: int
    hosts: int


class AcceptedCancel(msgspec.Struct, frozen=True):
    """A cancel request that is durably in the log."""

    task_id: str
    seq: int
    checked: bool
    """False: the reporter did not answer, so it is not known whether this task is still open."""


class BatchItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One task of a batch."""

    spec: TaskSpec
    task_id: str = ""
    """A UUIDv7 made by the client; empty: the gateway makes one."""


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tasks that are accepted together or not at all."""

    tasks: Annotated[tuple[BatchItem, ...], Meta(min_length=1, max_length=TASKS_PER_SUBMIT_MAX)]


Reason = Annotated[str, Meta(max_length=1_000)]


class Cancel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which commands to end; without hosts, the whole task."""

    host_ids: Annotated[tuple[str, ...], Meta(max_length=HOSTS_PER_TASK_MAX)] = ()
    hosts: Annotated[tuple[str, ...], Meta(max_length=HOSTS_PER_TASK_MAX)] = ()
    """Names, ids or folded names (`web[01-40]`)."""
    reason: Reason = ""


class Rerun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """On which hosts to run it again; empty: on all of them."""

    failed: bool = False
    """Those that ended with failure, timeout, error or unreached."""
    include_lost: bool = False
    """With `failed`: also those that may have run and cannot be confirmed."""
    outcomes: tuple[Outcome, ...] = ()
    """Exactly those that ended so."""


@route("POST", "/api/v1/blobs", auth=Permission.RUN, body=Raw, body_bytes_max=BLOB_BYTES_MAX, answer=Stored, status=201,
       problems=("body-too-large", "bus-unavailable", "unsettled", "log-full"))
async def put_blob(call: Call[Raw, Nothing]) -> web.Response:
    """Store content (a script, stdin, the environment) and return its digest.

    The body is taken as it is. Storing the same content twice keeps it once.
    """
    try:
        sha256 = await call.gateway.bus.put_blob(call.body.body)
    except NotSent:
        raise HttpProblem("bus-unavailable", "the bus cannot be reached: nothing was stored") from None
    except BusFull:
        raise HttpProblem("log-full", "the bus has no room for this content") from None
    except (AppendUnsettled, AppendRefused, NoAnswer):
        raise HttpProblem("unsettled", "the bus did not confirm in time: send the same content again") from None
    return reply(Stored(sha256=sha256, size=len(call.body.body)), status=201)


@route("POST", "/api/v1/tasks", auth=Permission.RUN, body=TaskSpec, answer=Accepted, status=202, idempotent=True,
       problems=("invalid", "task-id-time", "idempotency-key", "idempotency-key-reused", "bus-unavailable", "unsettled", "log-full"))
async def submit(call: Call[TaskSpec, Nothing]) -> web.Response:
    """Submit a task.

    Answered as soon as the task is durably in the log. With an `Idempotency-Key` (a UUIDv7, which becomes the task id)
    the request may be repeated: one task comes of it. Whether its target means any host is decided later: see the
    task's events.
    """
    _check(call.body, "")
    gateway, task_id = call.gateway, decode.idempotency_key(call.request) or call.gateway.make_id()

    async def append() -> Accepted:
        decode.check_task_id_time(task_id, gateway.now_ms(), "")
        submitted = events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=call.body),))
        return Accepted(task_id=task_id, seq=await _append(gateway, [submitted], call.principal.name, task_id))

    asked = fingerprint(b"submit", msgspec.json.encode(call.body))
    accepted = await gateway.recent.once(task_id, asked, append)
    return reply(accepted, status=202, headers={"Location": f"/api/v1/tasks/{task_id}"})


@route("POST", "/api/v1/tasks/batch", auth=Permission.RUN, body=Batch, answer=AcceptedBatch, status=202,
       body_bytes_max=limits.BATCH_BODY_BYTES_MAX,
       problems=("invalid", "task-id-time", "bus-unavailable", "unsettled", "log-full"))
async def submit_batch(call: Call[Batch, Nothing]) -> web.Response:
    """Submit up to 1,000 tasks, all or none.

    Give each task an id of your own to be able to repeat the request.
    """
    gateway, submissions = call.gateway, list[events.Submission]()
    seen: set[str] = set()
    for index, item in enumerate(call.body.tasks):
        at = f"/tasks/{index}"
        _check(item.spec, f"{at}/spec")
        task_id = item.task_id or gateway.make_id()
        try:
            decode.check_task_id_time(task_id, gateway.now_ms(), f"{at}/task_id")
        except ids.InvalidId as error:
            raise invalid(f"{at}/task_id", str(error)) from None
        if task_id in seen:
            raise invalid(f"{at}/task_id", "this id is already used by an earlier task of the batch")
        seen.add(task_id)
        submissions.append(events.Submission(task_id=task_id, spec=item.spec))
    data: list[events.Data] = [events.TasksSubmitted(tasks=part) for part in _parts(submissions)]
    seq = await _append(gateway, data, call.principal.name, submissions[0].task_id)
    return reply(AcceptedBatch(task_ids=tuple(one.task_id for one in submissions), seq=seq), status=202)


@route("POST", "/api/v1/plan", auth=Permission.READ, body=TaskSpec, answer=Answered[admission.PlanAnswer],
       problems=("invalid", "service-unavailable"))
async def plan(call: Call[TaskSpec, Nothing]) -> web.Response:
    """Say what submitting this would do now: which hosts, how many are offline; runs nothing."""
    _check(call.body, "")
    return handed_on(await call.gateway.asker.ask("dispatcher", "plan", admission.PlanQuestion(spec=call.body)))


@route("POST", "/api/v1/tasks/{id}/cancel", auth=Permission.RUN, body=Cancel, body_optional=True, answer=AcceptedCancel,
       status=202, problems=("invalid", "task-not-found", "task-ended", "bus-unavailable", "unsettled"))
async def cancel(call: Call[Cancel, Nothing]) -> web.Response:
    """Ask for the end of a task, or of its commands on some hosts.

    Answered when the request is durably in the log; each host then confirms. Without the reporter a whole task can
    still be cancelled by its full id; `checked` is then false.
    """
    gateway, body = call.gateway, call.body
    try:
        found = await find_task(gateway, call.path["id"])
    except HttpProblem as problem:
        if problem.code != "service-unavailable" or body.hosts or body.host_ids or not _is_task_id(call.path["id"]):
            raise
        task_id, host_ids, checked = call.path["id"], tuple[str, ...](), False
    else:
        if found.state in ("ended", "refused"):
            raise HttpProblem("task-ended", f"the task has already ended ({found.outcome or found.state})")
        task_id, checked = found.task_id, True
        host_ids = await _hosts_to_cancel(gateway, task_id, body)
    data: list[events.Data] = [
        events.CancelRequested(task_id=task_id, host_ids=part, reason=body.reason) for part in _thousands(host_ids)
    ]
    seq = await _append(gateway, data, call.principal.name, task_id, check_room=False)
    return reply(AcceptedCancel(task_id=task_id, seq=seq, checked=checked), status=202)


async def _hosts_to_cancel(gateway: Gateway, task_id: str, body: Cancel) -> tuple[str, ...]:
    if not body.hosts and not body.host_ids:
        return ()
    known: dict[str, str] = {}
    open_ids: set[str] = set()
    async for command in commands_of(gateway, task_id):
        known[command.host_id] = known[command.host] = command.host_id
        if command.state != "ended":
            open_ids.add(command.host_id)
    chosen: dict[str, None] = {}
    for field, given in (("host_ids", body.host_ids), ("hosts", body.hosts)):
        for index, text in enumerate(given):
            for name in _expanded(text, f"/{field}/{index}"):
                if name not in known:
                    raise invalid(f"/{field}/{index}", f"this task has no command on {name[:100]!r}")
                chosen[known[name]] = None
    if not open_ids.intersection(chosen):
        raise HttpProblem("task-ended", "the commands on these hosts have already ended")
    return tuple(chosen)


def _expanded(text: str, pointer: str) -> list[str]:
    try:
        return list(hostset.expand(text))
    except (hostset.BadRange, ValueError) as error:
        raise invalid(pointer, str(error)) from None


@route("POST", "/api/v1/tasks/{id}/rerun", auth=Permission.RUN, body=Rerun, body_optional=True, answer=AcceptedRerun,
       status=202, idempotent=True,
       problems=("invalid", "task-not-found", "nothing-to-rerun", "idempotency-key", "idempotency-key-reused",
                 "service-unavailable", "bus-unavailable", "unsettled", "log-full"))
async def rerun(call: Call[Rerun, Nothing]) -> web.Response:
    """Run a task again, on all of its hosts or on those that ended in a certain way.

    The new task has the old one's specification with exact hosts instead of a target, and names the old one.
    """
    gateway, body = call.gateway, call.body
    if body.include_lost and not body.failed:
        raise invalid("/include_lost", "goes with `failed`; or name `lost` among the outcomes")
    if body.failed and body.outcomes:
        raise invalid("/outcomes", "give either `failed` or outcomes")
    new_id = decode.idempotency_key(call.request) or gateway.make_id()

    async def append() -> AcceptedRerun:
        decode.check_task_id_time(new_id, gateway.now_ms(), "")
        spec = await _rerun_spec(gateway, call.path["id"], body)
        _check(spec, "")
        submitted = events.TasksSubmitted(tasks=(events.Submission(task_id=new_id, spec=spec),))
        seq = await _append(gateway, [submitted], call.principal.name, new_id)
        return AcceptedRerun(task_id=new_id, seq=seq, hosts=len(spec.host_ids))

    asked = fingerprint(b"rerun", call.path["id"].encode("utf-8", "replace"), msgspec.json.encode(body))
    accepted = await gateway.recent.once(new_id, asked, append)
    return reply(accepted, status=202, headers={"Location": f"/api/v1/tasks/{new_id}"})


class _Rerunnable(msgspec.Struct, frozen=True):
    task_id: str
    spec: TaskSpec


async def _rerun_spec(gateway: Gateway, given: str, body: Rerun) -> TaskSpec:
    found = await find_task(gateway, given)
    answer = await gateway.asker.report("task", questions.TaskQuestion, {"task_id": found.task_id})
    old = decode.json_answer(answer.data, _Rerunnable, "reporter")
    outcomes = set(body.outcomes)
    if body.failed:
        outcomes = {*RERUN_OUTCOMES, Outcome.LOST} if body.include_lost else set(RERUN_OUTCOMES)
    chosen: list[str] = []
    lost = 0
    async for command in commands_of(gateway, old.task_id):
        lost += command.outcome == Outcome.LOST
        if not outcomes or command.outcome in outcomes:
            chosen.append(command.host_id)
    if not chosen:
        hint = f"; {lost} lost: look at them, then use include_lost" if lost and Outcome.LOST not in outcomes else ""
        raise HttpProblem("nothing-to-rerun", f"no host of this task ended that way{hint}")
    return msgspec.structs.replace(old.spec, target="", host_ids=tuple(chosen), rerun_of=old.task_id, plan_hash="")


async def _append(
    gateway: Gateway, data: list[events.Data], authid: str, task_id: str, *, check_room: bool = True
) -> int:
    if check_room:
        await gateway.appender.check_room()
    try:
        return await gateway.appender.append(data, authid)
    except Unsettled:
        raise HttpProblem(
            "unsettled", f"the bus did not confirm in time: ask for task {task_id}, or send the same request again",
            task_id=task_id,
        ) from None


def _check(spec: TaskSpec, prefix: str) -> None:
    try:
        check_spec(spec)
        if spec.rerun_of is not None:
            ids.id_ms(spec.rerun_of)
    except SpecError as error:
        raise HttpProblem("invalid", error.message, errors=[FieldError(prefix + error.pointer, error.message)]) from None
    except ids.InvalidId as error:
        raise invalid(f"{prefix}/rerun_of", str(error)) from None
    except UnicodeEncodeError:
        raise invalid(prefix, "every text must be valid UTF-8") from None


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


def _thousands(host_ids: tuple[str, ...]) -> list[tuple[str, ...]]:
    starts = range(0, max(len(host_ids), 1), EVENT_COMMANDS_MAX)
    return [host_ids[start : start + EVENT_COMMANDS_MAX] for start in starts]


def _is_task_id(text: str) -> bool:
    try:
        ids.id_ms(text)
    except ids.InvalidId:
        return False
    return True

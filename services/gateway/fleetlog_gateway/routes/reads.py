"""Questions: the reporter's answers, handed on as they are. The gateway checks what is asked and waits for what it wrote."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import decode, limits, sse
from fleetlog_gateway.asking import RawAnswer, handed_on
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.difference import difference, previous_question
from fleetlog_gateway.finding import OVER, check_identifier
from fleetlog_gateway.problems import FieldError, HttpProblem
from fleetlog_gateway.registry import Answered, Call, Nothing, Paged, reply, route
from fleetlog_gateway.routes import live
from fleetlog_schemas import admission, questions, view
from fleetlog_schemas.executions import Execution, ExecutionsQuestion
from fleetlog_schemas.files import file_run_by
from fleetlog_schemas.spec import TaskSpec

Text = Annotated[str, Meta(max_length=300)]
Cursor = Annotated[str, Meta(max_length=1_000)]
Limit = Annotated[int, Meta(ge=1, le=questions.PAGE_MAX)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
AsOf = Annotated[str, Meta(max_length=40, description="a log sequence or an RFC 3339 time")]


class Past(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which state is asked for: empty is now."""

    as_of: AsOf = ""


class TasksQuery(Past, frozen=True, kw_only=True):
    """Filters of a list of tasks."""

    kind: Text = ""
    state: Text = ""
    outcome: Text = ""
    host: Text = ""
    submitted_by: Text = ""
    name: Text = ""
    tag: Text = ""
    definition: Text = ""
    schedule: Text = ""
    part_of: Text = ""
    """The full id of a workflow: the tasks of its parts."""
    parts: Annotated[str, Meta(pattern="^(hide)?$")] = ""
    """`hide`: without the tasks that are parts of workflows."""
    since_ms: Count = 0
    until_ms: Count = 0
    limit: Limit = 50
    cursor: Cursor = ""


class CommandsQuery(Past, frozen=True, kw_only=True):
    """Filters of a task's commands."""

    state: Text = ""
    outcome: Text = ""
    host: Text = ""
    limit: Limit = 100
    cursor: Cursor = ""


class EventsQuery(Past, frozen=True, kw_only=True):
    """Filters of events."""

    task_id: Text = ""
    host: Text = ""
    type: Text = ""
    after_seq: Count = 0
    limit: Limit = 100


class TaskEventsQuery(Past, frozen=True, kw_only=True):
    """Filters of a task's events."""

    host: Text = ""
    type: Text = ""
    after_seq: Count = 0
    limit: Limit = 100


class OutputQuery(Past, frozen=True, kw_only=True):
    """Which output."""

    host: Text
    attempt: Annotated[int, Meta(ge=0, le=10_000)] = 0
    stream: Annotated[str, Meta(pattern="^(stdout|stderr)?$")] = ""
    after_frame: Count = 0
    tail_lines: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    limit_bytes: Annotated[int, Meta(ge=1, le=524_288)] = 262_144


class FunctionsQuery(Past, frozen=True, kw_only=True):
    """Filters of functions."""

    name: Text = ""
    limit: Limit = 100
    cursor: Cursor = ""


class HostsQuery(Past, frozen=True, kw_only=True):
    """Filters of hosts."""

    name: Text = ""
    presence: Text = ""
    label: Annotated[str, Meta(max_length=600)] = ""
    limit: Limit = 100
    cursor: Cursor = ""


class StatsQuery(Past, frozen=True, kw_only=True):
    """What statistics are about."""

    by: Annotated[str, Meta(pattern="^(kind|host|day|definition)$")] = "kind"
    since_ms: Count = 0
    until_ms: Count = 0
    kind: Text = ""
    host: Text = ""
    definition: Text = ""


class ExecutionsQuery(Past, frozen=True, kw_only=True):
    """Filters of the records of ended tasks."""

    kind: Text = ""
    definition: Text = ""
    outcome: Text = ""
    since_ms: Count = 0
    until_ms: Count = 0
    limit: Limit = 50
    cursor: Cursor = ""


class Sql(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One read-only statement."""

    query: Annotated[str, Meta(min_length=1, max_length=limits.SQL_TEXT_MAX)]
    limit: Annotated[int, Meta(ge=1, le=questions.SQL_ROWS_MAX)] = 1_000
    as_of: AsOf = ""


class Why(msgspec.Struct, frozen=True):
    """Why a task has not ended, or ended badly."""

    task: Any
    """TaskView without its commands; null when the reporter does not answer."""
    waiting: list[admission.WaitingGroup] | None
    """What its commands wait for; null when the dispatcher does not answer, empty when it has ended."""
    failures: list[view.FailureGroup] | None
    missing: tuple[str, ...] = ()
    """The services that did not answer."""
    difference: admission.Difference | None = None
    """Of a task that came from a definition: what is not as it was in the last one before it that succeeded."""


async def _ask(call: Call[Any, Any], question: str, kind: type[msgspec.Struct], **more: Any) -> web.Response:
    fields: dict[str, Any] = {**msgspec.structs.asdict(call.query), **more}
    fields.update(decode.as_of(fields.pop("as_of", "")))
    return handed_on(await call.gateway.asker.report(question, kind, fields))


@route("GET", "/api/v1/tasks", auth=Permission.READ, query=TasksQuery, answer=Answered[Paged[questions.TaskSummary]],
       problems=("bad-query", "service-unavailable", "behind"))
async def tasks(call: Call[Nothing, TasksQuery]) -> web.Response:
    """List tasks, newest first."""
    return await _ask(call, "tasks", questions.TasksQuestion)


@route("GET", "/api/v1/tasks/{id}", auth=Permission.READ, query=Past, answer=Answered[view.TaskView],
       problems=("task-not-found", "service-unavailable", "behind"))
async def task(call: Call[Nothing, Past]) -> web.Response:
    """Show everything about one task.

    `{id}` is its full id, at least the last 6 characters of it, or `last`.
    """
    return await _ask(call, "task", questions.TaskQuestion, task_id=check_identifier(call.path["id"]))


@route("GET", "/api/v1/tasks/{id}/commands", auth=Permission.READ, query=CommandsQuery,
       answer=Answered[Paged[view.CommandView]], problems=("task-not-found", "service-unavailable", "behind"))
async def commands(call: Call[Nothing, CommandsQuery]) -> web.Response:
    """List a task's commands by host name."""
    return await _ask(call, "commands", questions.CommandsQuestion, task_id=check_identifier(call.path["id"]))


@route("GET", "/api/v1/tasks/{id}/progress", auth=Permission.READ, query=Past, answer=Answered[questions.Progress],
       problems=("task-not-found", "service-unavailable", "behind"))
async def progress(call: Call[Nothing, Past]) -> web.Response:
    """Say how far a task is."""
    return await _ask(call, "progress", questions.TaskQuestion, task_id=check_identifier(call.path["id"]))


@route("GET", "/api/v1/tasks/{id}/output", auth=Permission.READ, query=OutputQuery, answer=Answered[questions.OutputPage],
       problems=("bad-query", "task-not-found", "service-unavailable", "behind"))
async def output(call: Call[Nothing, OutputQuery]) -> web.Response:
    """Read a piece of what a command wrote; ask again with `after_frame` for the next."""
    return await _ask(call, "output", questions.OutputQuestion, task_id=check_identifier(call.path["id"]))


@route("GET", "/api/v1/tasks/{id}/events", auth=Permission.READ, query=TaskEventsQuery,
       answer=Answered[Paged[questions.StoredEvent]], event_stream=True,
       problems=("bad-query", "task-not-found", "service-unavailable", "too-many-streams"))
async def task_events(call: Call[Nothing, TaskEventsQuery]) -> web.StreamResponse:
    """List the events that touch a task, in the order of the log; or follow them live.

    With `Accept: text/event-stream`: every event from the submission on, then each as it is stored, until the client
    closes. `id:` is the log sequence, `event:` the CloudEvent type, `data:` a StoredEvent; `Last-Event-ID` resumes.
    """
    identifier = check_identifier(call.path["id"])
    if sse.wants_stream(call.request):
        _no_filters(call.query, TaskEventsQuery())
        return await live.task_stream(call.gateway, call.request, identifier)
    return await _ask(call, "events", questions.EventsQuestion, task_id=identifier)


@route("GET", "/api/v1/events", auth=Permission.READ, query=EventsQuery,
       answer=Answered[Paged[questions.StoredEvent]], event_stream=True,
       problems=("bad-query", "service-unavailable", "too-many-streams"))
async def events(call: Call[Nothing, EventsQuery]) -> web.StreamResponse:
    """List events in the order of the log; or follow the whole log live.

    With `Accept: text/event-stream`: each event as it is stored, from `after_seq` or `Last-Event-ID` on, else from now.
    An event `reset` says that the log does not go back that far.
    """
    if sse.wants_stream(call.request):
        _no_filters(call.query, EventsQuery(after_seq=call.query.after_seq))
        return await live.log_stream(call.gateway, call.request, call.query.after_seq)
    return await _ask(call, "events", questions.EventsQuestion)


def _no_filters(given: msgspec.Struct, allowed: msgspec.Struct) -> None:
    for name in given.__struct_fields__:
        if getattr(given, name) != getattr(allowed, name):
            raise decode.bad_query(name, "a live stream takes no filter but its path")


@route("GET", "/api/v1/tasks/{id}/why", auth=Permission.READ, answer=Answered[Why],
       problems=("task-not-found", "service-unavailable", "behind"))
async def why(call: Call[Nothing, Nothing]) -> web.Response:
    """Say why a task has not ended yet, or how it failed.

    Needs the reporter or the dispatcher; what the other one knows is null, and `missing` names it.
    """
    asker, missing, seq = call.gateway.asker, list[str](), 0
    task_id = check_identifier(call.path["id"])
    found: dict[str, Any] | None = None
    changed: admission.Difference | None = None
    try:
        answer = await asker.report("task", questions.TaskQuestion, {"task_id": task_id})
    except HttpProblem as problem:
        if problem.status < 500 or len(task_id) < 36:
            raise
        missing.append("reporter")
    else:
        seq, found = answer.seq, decode.json_answer(answer.data, dict[str, Any], "reporter")
        changed = await _since_success(call, decode.json_answer(answer.data, _Ran, "reporter"))
        found.pop("commands", None)
        task_id = str(found.get("task_id", task_id))
    waiting, failures = msgspec.Raw(b"[]"), found.get("failures") if found else None
    if found is None or found.get("state") not in OVER:
        told = await _waiting(call, task_id, missing)
        seq, waiting = max(seq, told.seq), await _with_typical(call, task_id, told.data, missing)
    told_all = Why(task=found, waiting=waiting, failures=failures, missing=tuple(missing), difference=changed)  # type: ignore[arg-type]  # raw JSON
    return reply({"seq": seq, "data": told_all})


class _RanOn(msgspec.Struct, frozen=True):
    host: str


class _Ran(msgspec.Struct, frozen=True):
    """What is needed of a task to compare it with an earlier one."""

    task_id: str
    spec: TaskSpec
    outcome: str | None
    commands: list[_RanOn]


async def _since_success(call: Call[Any, Any], task: _Ran) -> admission.Difference | None:
    """Return how a task of a definition or a task file differs from the last one before it that succeeded; None: nothing to say."""
    if task.outcome == "success" or (task.spec.definition is None and not file_run_by(task.spec.payload)):
        return None
    question = {**previous_question(task.spec), "outcome": "success", "before_id": task.task_id}
    try:
        answer = await call.gateway.asker.report("previous", questions.PreviousQuestion, question, limits.ASK_EXTRA_MS_MAX)
        previous = decode.optional_answer(answer.data, questions.Previous, "reporter")
    except HttpProblem:
        return None  # it completes an answer that stands without it
    return difference(previous, task.spec, [one.host for one in task.commands]) if previous is not None else None


async def _waiting(call: Call[Any, Any], task_id: str, missing: list[str]) -> RawAnswer:
    try:
        return await call.gateway.asker.ask("dispatcher", "waiting", admission.WaitingQuestion(task_id=task_id))
    except HttpProblem as problem:
        if missing:
            raise
        if problem.status < 500:
            return RawAnswer(seq=0, data=msgspec.Raw(b"[]"))  # it ended between the two questions
        missing.append("dispatcher")
        return RawAnswer(seq=0)


async def _with_typical(call: Call[Any, Any], task_id: str, waiting: msgspec.Raw, missing: list[str]) -> msgspec.Raw:
    """Return the groups with how long the same took before, in those that run."""
    groups = decode.optional_answer(waiting, list[admission.WaitingGroup], "dispatcher")
    if "reporter" in missing or not any(group.state == "running" for group in groups or ()):
        return waiting
    try:
        answer = await call.gateway.asker.report(
            "typical", questions.TypicalQuestion, {"task_id": task_id}, limits.ASK_EXTRA_MS_MAX
        )
        typical = decode.optional_answer(answer.data, questions.Typical, "reporter")
    except HttpProblem:
        return waiting  # it completes an answer that stands without it
    told = [
        msgspec.structs.replace(group, typical=typical) if group.state == "running" else group for group in groups or ()
    ]
    return msgspec.Raw(msgspec.json.encode(told))


@route("GET", "/api/v1/functions", auth=Permission.READ, query=FunctionsQuery, answer=Answered[Paged[questions.FunctionView]],
       problems=("service-unavailable",))
async def functions(call: Call[Nothing, FunctionsQuery]) -> web.Response:
    """List the Python functions that hosts offer, by name."""
    return await _ask(call, "functions", questions.FunctionsQuestion)


@route("GET", "/api/v1/hosts", auth=Permission.READ, query=HostsQuery, answer=Answered[Paged[questions.HostView]],
       problems=("bad-query", "service-unavailable", "behind"))
async def hosts(call: Call[Nothing, HostsQuery]) -> web.Response:
    """List hosts by name."""
    return await _ask(call, "hosts", questions.HostsQuestion)


@route("GET", "/api/v1/hosts/{id}", auth=Permission.READ, query=Past, answer=Answered[questions.HostView],
       problems=("host-not-found", "service-unavailable", "behind"))
async def host(call: Call[Nothing, Past]) -> web.Response:
    """Show one host, by id or name."""
    name = call.path["id"]
    if len(name) > 300:
        raise HttpProblem("host-not-found", "no host has a name this long")
    return await _ask(call, "host", questions.HostsQuestion, name=name)


@route("GET", "/api/v1/stats", auth=Permission.READ, query=StatsQuery, answer=Answered[Paged[questions.StatsRow]],
       problems=("bad-query", "service-unavailable", "behind"))
async def stats(call: Call[Nothing, StatsQuery]) -> web.Response:
    """Count ended commands by kind, host, day or definition, with success ratio and durations."""
    return await _ask(call, "stats", questions.StatsQuestion)


@route("GET", "/api/v1/executions", auth=Permission.READ, query=ExecutionsQuery,
       answer=Answered[Paged[Execution]], problems=("bad-query", "service-unavailable", "behind"))
async def executions(call: Call[Nothing, ExecutionsQuery]) -> web.Response:
    """List the records of ended tasks, the newest end first."""
    return await _ask(call, "executions", ExecutionsQuestion)


@route("GET", "/api/v1/tasks/{id}/execution", auth=Permission.READ, query=Past, answer=Answered[Execution],
       problems=("task-not-found", "service-unavailable", "behind"))
async def execution(call: Call[Nothing, Past]) -> web.Response:
    """Show the record of one task that has ended; one that is open has none yet."""
    return await _ask(call, "execution", questions.TaskQuestion, task_id=check_identifier(call.path["id"]))


@route("POST", "/api/v1/sql", auth=Permission.SQL, body=Sql, answer=Answered[questions.SqlTable],
       problems=("invalid", "service-unavailable", "behind"))
async def sql(call: Call[Sql, Nothing]) -> web.Response:
    """Run one read-only SQL statement on the projection."""
    body = call.body
    try:
        past = decode.as_of(body.as_of)
    except HttpProblem as problem:
        raise HttpProblem("invalid", problem.detail, errors=[FieldError("/as_of", problem.detail)]) from None
    fields = {"query": body.query, "limit": body.limit, **past}
    return handed_on(await call.gateway.asker.report("sql", questions.SqlQuestion, fields, limits.SQL_MS_MAX))


@route("POST", "/api/v1/verify/projection", auth=Permission.SQL, answer=Answered[questions.Verified],
       problems=("service-unavailable", "behind"))
async def verify(call: Call[Nothing, Nothing]) -> web.Response:
    """Rebuild the projection from the log beside the kept one and compare them."""
    return handed_on(await call.gateway.asker.report("verify", questions.VerifyQuestion, {}, limits.VERIFY_MS_MAX))

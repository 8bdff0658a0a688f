"""Schedules: register, change, start, stop, pause, resume, run now; and when each fires next.

Folded here like definitions, so that a schedule can be paused with every other service down. A change is fenced: a
tick that was decided before it and stored after it is refused by the bus.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import decode
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.callable import FUNCTION_PROBLEMS, check_callable
from fleetlog_gateway.decode import Reason, check_reason
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.matching import Present, check_match
from fleetlog_gateway.problems import HttpProblem, invalid
from fleetlog_gateway.recent import fingerprint
from fleetlog_gateway.registry import Answered, Call, Nothing, Paged, reply, route
from fleetlog_schemas import events, limits
from fleetlog_schemas import schedule_events as stored
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.occurrences import LATEST_MS, RuleError, check_times, ticks
from fleetlog_schemas.policies import PolicyError, check_window
from fleetlog_schemas.schedule_events import Rule, SchedulePolicy
from fleetlog_schemas.schedules import Schedule, Unfit, task_of
from fleetlog_schemas.spec import TaskSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_CHANGES = ("invalid", "conflict", "bus-unavailable", "unsettled")
_Text = Annotated[str, Meta(max_length=100)]
NEXT_TICKS_MAX = 100
"""Next times that one request may ask for."""


class NextTick(msgspec.Struct, frozen=True):
    """A time at which a schedule fires, by the code that fires it."""

    at: str
    note: str = ""
    """What a change of the clocks does to it."""


class ScheduleView(msgspec.Struct, frozen=True):
    """A schedule, its state, and when it fires next."""

    name: str
    rule: Rule
    state: Literal["active", "inactive", "paused"]
    registered_at: str
    registered_by: str
    etag: int
    """The log sequence of its last change: its `ETag`."""
    next: list[NextTick]
    """Without jitter; none of a schedule that is inactive, or paused for good."""
    paused_reason: str = ""
    paused_until: str | None = None


class SetSchedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When to run what."""

    rule: Rule
    active: bool = True
    """Of a new schedule; a change keeps the state."""
    reason: Reason = ""


class ChangedSchedule(msgspec.Struct, frozen=True):
    """The change is in the log, at this sequence, which is the new `ETag`."""

    name: str
    seq: int


class Because(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it is done."""

    reason: Reason = ""


class Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why, and for how long."""

    reason: Reason
    until_ms: Annotated[int, Meta(ge=0, le=LATEST_MS)] = 0
    """When it resumes by itself; 0: only by a person."""


class SchedulesQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Filters of a list of schedules."""

    name: _Text = ""
    """May have `*` and `?`."""
    definition: _Text = ""
    state: Annotated[str, Meta(pattern="^(active|inactive|paused|)$")] = ""
    next: Annotated[int, Meta(ge=0, le=NEXT_TICKS_MAX)] = 1
    """How many next times are shown of each."""
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: _Text = ""


class ShowQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many next times are shown."""

    next: Annotated[int, Meta(ge=0, le=NEXT_TICKS_MAX)] = 5


class RemoveQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it is removed."""

    reason: Reason = ""


class Preview(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule that is not registered, and from when on to look."""

    rule: Rule
    from_ms: Annotated[int, Meta(ge=0, le=LATEST_MS)] = 0
    """0: from now on."""
    count: Annotated[int, Meta(ge=1, le=NEXT_TICKS_MAX)] = 10


class AcceptedScheduled(msgspec.Struct, frozen=True):
    """A task of a schedule that is durably in the log."""

    task_id: str
    seq: int


def next_ticks(rule: Rule, after_ms: int, count: int) -> list[NextTick]:
    """Return the next times of a rule."""
    return [NextTick(rfc3339(tick.at_ms), tick.note) for tick in islice(ticks(rule, after_ms, LATEST_MS), count)]


def view(gateway: Gateway, schedule: Schedule, count: int) -> ScheduleView:
    """Return a schedule as it is now."""
    now_ms = gateway.now_ms()
    state = schedule.state(now_ms)
    after_ms = schedule.fires_after_ms(now_ms)
    return ScheduleView(
        name=schedule.name, rule=schedule.rule, state=state, registered_at=rfc3339(schedule.registered_ms),
        registered_by=schedule.registered_by, etag=schedule.changed_seq,
        next=[] if after_ms is None else next_ticks(schedule.rule, after_ms, count),
        paused_reason=schedule.paused_reason if state == "paused" else "",
        paused_until=rfc3339(after_ms) if state == "paused" and after_ms else None,
    )


def named(gateway: Gateway, name: str) -> Schedule:
    """Return the schedule of this name. Raises HttpProblem."""
    found = gateway.access.schedules.by_name.get(name)
    if found is None:
        raise HttpProblem("schedule-not-found", f"no schedule is named {name[:100]!r}: `fleetlog schedule ls` shows them")
    return found


def check_rule(gateway: Gateway, rule: Rule, prefix: str = "/rule") -> Rule:
    """Check a rule, and that its definition can be run as it says. Raises HttpProblem."""
    check_when(rule, prefix)
    if rule.kind == "once" and rule.begins_ms <= gateway.now_ms():
        raise invalid(f"{prefix}/begins_ms", "this time is over: run it now instead, or name a later one")
    _task_of(gateway, rule, prefix)
    return rule


def check_when(rule: Rule, prefix: str, policy: str = "/policy") -> None:
    """Check when a rule means, and its policy, which stands at this place in what was sent. Raises HttpProblem."""
    try:
        check_times(rule)
    except RuleError as error:
        raise invalid(prefix + error.pointer, error.message) from None
    _check_policy(rule.policy, prefix + policy)


def _task_of(gateway: Gateway, rule: Rule, prefix: str) -> TaskSpec:
    """Return the task that running a rule's definition is. Raises HttpProblem."""
    try:
        return task_of(gateway.access.definitions, rule)
    except Unfit as error:
        raise invalid(prefix + error.pointer, str(error)) from None


def _check_policy(policy: SchedulePolicy, prefix: str) -> None:
    for field, most in (
        ("misfire_window_ms", limits.MISFIRE_WINDOW_MS_MAX), ("misfire_runs_max", limits.MISFIRE_RUNS_MAX),
        ("jitter_ms", limits.JITTER_MS_MAX),
    ):
        if not 0 <= getattr(policy, field) <= most:
            raise invalid(f"{prefix}/{field}", f"must be between 0 and {most}")
    if len(policy.windows) > limits.SCHEDULE_WINDOWS_MAX:
        raise invalid(f"{prefix}/windows", f"at most {limits.SCHEDULE_WINDOWS_MAX} windows")
    for index, window in enumerate(policy.windows):
        try:
            check_window(window)
        except PolicyError as error:
            raise invalid(f"{prefix}/windows/{index}{error.pointer}", error.message) from None


@route("GET", "/api/v1/schedules", auth=Permission.READ, query=SchedulesQuery, answer=Answered[Paged[ScheduleView]],
       problems=("bad-query",))
async def schedules_list(call: Call[Nothing, SchedulesQuery]) -> web.Response:
    """List schedules by name, each with its state and when it fires next. Needs no other service."""
    gateway, query = call.gateway, call.query
    now_ms = gateway.now_ms()
    fitting = [
        one for name, one in sorted(gateway.access.schedules.by_name.items())
        if name > query.cursor and (not query.name or fnmatch.fnmatchcase(name, query.name))
        and (not query.definition or one.rule.definition == query.definition)
        and (not query.state or one.state(now_ms) == query.state)
    ]
    page = fitting[: query.limit]
    cursor = page[-1].name if len(fitting) > len(page) else None
    items = [view(gateway, one, query.next) for one in page]
    return reply({"seq": gateway.tail.next_seq - 1, "data": Paged(items=items, next_cursor=cursor)})


@route("POST", "/api/v1/schedules/preview", auth=Permission.READ, body=Preview, answer=Answered[list[NextTick]],
       problems=("invalid",))
async def preview_schedule(call: Call[Preview, Nothing]) -> web.Response:
    """Say when a rule would fire, without registering it."""
    gateway, body = call.gateway, call.body
    check_when(body.rule, "/rule")
    after_ms = body.from_ms - 1 if body.from_ms else gateway.now_ms()
    return reply({"seq": gateway.tail.next_seq - 1, "data": next_ticks(body.rule, after_ms, body.count)})


@route("GET", "/api/v1/schedules/{name}", auth=Permission.READ, query=ShowQuery, answer=Answered[ScheduleView],
       problems=("schedule-not-found", "bad-query"))
async def show_schedule(call: Call[Nothing, ShowQuery]) -> web.Response:
    """Show a schedule, its state and when it fires next. Its `ETag` is the sequence of its last change."""
    schedule = named(call.gateway, call.path["name"])
    body = {"seq": call.gateway.tail.next_seq - 1, "data": view(call.gateway, schedule, call.query.next)}
    return reply(body, headers={"ETag": f'"{schedule.changed_seq}"'})


@route("PUT", "/api/v1/schedules/{name}", auth=Permission.RUN, body=SetSchedule, answer=ChangedSchedule,
       problems=(*_CHANGES, "bad-header", "version-missing", "schedule-changed", "too-many-schedules"))
async def register_schedule(call: Call[SetSchedule, Nothing]) -> web.Response:
    """Register a schedule, or change the rule of one.

    A change needs `If-Match` with the schedule's `ETag`; `*` is any. Ticks of the old rule that were not fired by then
    are missed, and the ledger says so.
    """
    gateway, name, body = call.gateway, call.path["name"], call.body
    if not _NAME.fullmatch(name):
        raise invalid("/name", "a schedule's name is 1-63 of A-Z a-z 0-9 _ . - and starts with a letter or digit")
    check_rule(gateway, body.rule)
    reason = check_reason(body.reason)
    decode.if_match(call.request)  # a bad header is said before anything is asked

    def decide() -> events.Data:
        schedules = gateway.access.schedules.by_name
        present = schedules.get(name)
        if present is None and len(schedules) >= limits.SCHEDULES_MAX:
            raise HttpProblem("too-many-schedules", f"there are {limits.SCHEDULES_MAX} schedules: remove some first")
        if present is not None:
            check_match(call.request, Present(f"the schedule {name}", present.changed_seq), changed_code="schedule-changed")
        return stored.ScheduleRegistered(name=name, rule=body.rule, active=body.active, reason=reason)

    return await _changed(call, decide)


@route("DELETE", "/api/v1/schedules/{name}", auth=Permission.RUN, query=RemoveQuery, answer=ChangedSchedule,
       problems=(*_CHANGES, "bad-query", "schedule-not-found"))
async def unregister_schedule(call: Call[Nothing, RemoveQuery]) -> web.Response:
    """Remove a schedule. Its ledger and its tasks keep their past; what runs goes on."""
    reason = check_reason(call.query.reason)
    return await _act(call, lambda one: stored.ScheduleUnregistered(name=one.name, reason=reason))


@route("POST", "/api/v1/schedules/{name}/start", auth=Permission.RUN, body=Because, body_optional=True,
       answer=ChangedSchedule, problems=(*_CHANGES, "schedule-not-found", "schedule-state"))
async def start_schedule(call: Call[Because, Nothing]) -> web.Response:
    """Activate an inactive schedule: ticks are expected from now on."""
    reason = check_reason(call.body.reason)
    return await _act(call, lambda one: stored.ScheduleStarted(name=one.name, reason=reason), "inactive")


@route("POST", "/api/v1/schedules/{name}/stop", auth=Permission.RUN, body=Because, body_optional=True,
       answer=ChangedSchedule, problems=(*_CHANGES, "schedule-not-found", "schedule-state"))
async def stop_schedule(call: Call[Because, Nothing]) -> web.Response:
    """Make a schedule inactive: no tick is expected from now on; what runs goes on."""
    reason = check_reason(call.body.reason)
    return await _act(call, lambda one: stored.ScheduleStopped(name=one.name, reason=reason), "active", "paused")


@route("POST", "/api/v1/schedules/{name}/pause", auth=Permission.RUN, body=Pause, answer=ChangedSchedule,
       problems=(*_CHANGES, "schedule-not-found", "schedule-state"))
async def pause_schedule(call: Call[Pause, Nothing]) -> web.Response:
    """Skip the ticks of a schedule until it is resumed, by a person or at the time given; the ledger tells them."""
    body = call.body
    reason = check_reason(body.reason, required=True)
    if body.until_ms and body.until_ms <= call.gateway.now_ms():
        raise invalid("/until_ms", "this time is over: name a later one, or none")
    return await _act(
        call, lambda one: stored.SchedulePaused(name=one.name, reason=reason, until_ms=body.until_ms), "active", "paused"
    )


@route("POST", "/api/v1/schedules/{name}/resume", auth=Permission.RUN, body=Because, body_optional=True,
       answer=ChangedSchedule, problems=(*_CHANGES, "schedule-not-found", "schedule-state"))
async def resume_schedule(call: Call[Because, Nothing]) -> web.Response:
    """Let a paused schedule fire again."""
    reason = check_reason(call.body.reason)
    return await _act(call, lambda one: stored.ScheduleResumed(name=one.name, reason=reason), "paused")


@route("POST", "/api/v1/schedules/{name}/run", auth=Permission.RUN, answer=AcceptedScheduled, status=202, idempotent=True,
       problems=("invalid", *FUNCTION_PROBLEMS, "schedule-not-found", "task-id-time", "idempotency-key", "idempotency-key-reused",
                 "bus-unavailable", "unsettled", "log-full"))
async def run_schedule(call: Call[Nothing, Nothing]) -> web.Response:
    """Run now what a schedule runs, whatever its state; its ticks are not touched. `Idempotency-Key` is the task's id."""
    gateway, task_id = call.gateway, decode.idempotency_key(call.request) or call.gateway.make_id()

    async def append() -> AcceptedScheduled:
        decode.check_task_id_time(task_id, gateway.now_ms(), "")
        schedule = named(gateway, call.path["name"])
        spec = _task_of(gateway, schedule.rule, "")
        decode.check_task(spec, "")
        await check_callable(gateway, spec)
        submission = events.Submission(task_id=task_id, spec=spec, schedule=schedule.name)
        seq = await gateway.store([events.TasksSubmitted(tasks=(submission,))], call.principal, task_id, new_tasks=True)
        return AcceptedScheduled(task_id=task_id, seq=seq)

    asked = fingerprint(b"schedule", call.path["name"].encode("utf-8", "replace"))
    accepted = await gateway.recent.once(task_id, asked, append)
    return reply(accepted, status=202, headers={"Location": f"/api/v1/tasks/{task_id}"})


async def _act(call: Call[Any, Any], make: Callable[[Schedule], events.Data], *states: str) -> web.Response:
    """Store what *make* returns, if the schedule is in one of these states."""
    gateway, name = call.gateway, call.path["name"]

    def decide() -> events.Data:
        schedule = named(gateway, name)
        state = schedule.state(gateway.now_ms())
        if states and state not in states:
            raise HttpProblem("schedule-state", f"{name} is {state}: this needs one that is {' or '.join(states)}")
        return make(schedule)

    return await _changed(call, decide)


async def _changed(call: Call[Any, Any], decide: Callable[[], events.Data]) -> web.Response:
    name = call.path["name"]
    seq = await call.gateway.change(events.SCHEDULE, decide, call.principal, f"look at schedule {name}, then try again")
    return reply(ChangedSchedule(name=name, seq=seq), headers={"ETag": f'"{seq}"'})

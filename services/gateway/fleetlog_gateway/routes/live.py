"""The log as it is: live streams, and raw pages straight from the bus that need no other service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from aiohttp import web, web_request
from msgspec import Meta

from fleetlog_gateway import limits, sse
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.decode import bad_query, is_task_id
from fleetlog_gateway.finding import find_task
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.registry import Answered, Call, Nothing, reply, route
from fleetlog_gateway.tail import Entry
from fleetlog_schemas import ids, questions, subjects
from fleetlog_schemas.limits import TASK_ID_AHEAD_MS_MAX


class LogQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which part of the log."""

    from_seq: Annotated[int, Meta(ge=0, le=2**53)] = 0
    limit: Annotated[int, Meta(ge=1, le=questions.PAGE_MAX)] = 100
    task_id: Annotated[str, Meta(max_length=36)] = ""
    """Only events that touch this task (its full id); without `from_seq`, from the time that the id carries."""


class LogPage(msgspec.Struct, frozen=True):
    """Stored events; `next_seq` asks for more, null at the end of the log. A page may be empty before the end."""

    items: list[questions.StoredEvent]
    next_seq: int | None


async def start_of(gateway: Gateway, task_id: str) -> int:
    """Return a log sequence at or before the submission of the task with this id.

    The id carries its maker's time; that clock may be ahead of the bus's by as much as the log allows.
    """
    return await gateway.bus.seq_at(subjects.EVENTS, max(0, ids.id_ms(task_id) - TASK_ID_AHEAD_MS_MAX))


def touching(task_id: str, *, begun: bool) -> Callable[[Entry], bool]:
    """Return the test whether a reader who folds this task alone must see an event; entries are tested in their order.

    Beside what is about the task itself, that is what acts on every task once this one is there (*begun*, or its first
    event was seen): it ends the task, or makes a dispatch void.
    """
    seen = begun

    def wanted(entry: Entry) -> bool:
        nonlocal seen
        named = task_id in entry.task_ids
        seen = seen or named
        return named or (seen and entry.every_task)

    return wanted


async def task_stream(gateway: Gateway, request: web_request.BaseRequest, identifier: str) -> web.StreamResponse:
    """Stream every event that touches a task, from its submission on. Raises HttpProblem."""
    resume = sse.last_event_id(request)
    task_id = identifier if is_task_id(identifier) else (await find_task(gateway, identifier)).task_id
    from_seq = resume + 1 if resume is not None else await start_of(gateway, task_id)
    wanted = touching(task_id, begun=resume is not None)
    return await gateway.streams.serve(request, from_seq, wanted, reset=resume is not None)


async def log_stream(gateway: Gateway, request: web_request.BaseRequest, after_seq: int) -> web.StreamResponse:
    """Stream the whole log, from a sequence or from now on. Raises HttpProblem."""
    resume = sse.last_event_id(request)
    if resume is None and after_seq:
        resume = after_seq
    from_seq = gateway.tail.next_seq if resume is None else resume + 1
    return await gateway.streams.serve(request, from_seq, lambda _: True, reset=resume is not None)


@route("GET", "/api/v1/log", auth=Permission.READ, query=LogQuery, answer=Answered[LogPage], problems=("bad-query",))
async def log(call: Call[Nothing, LogQuery]) -> web.Response:
    """Read stored events straight from the log, without the reporter.

    `seq` is the last sequence of the log. Pages end at `limit`, and earlier where they grow too large or when much was
    passed over for `task_id`; `next_seq` says where to go on.
    """
    gateway, query = call.gateway, call.query
    wanted: Callable[[Entry], bool] = lambda _: True  # noqa: E731  # the test of a page without a task
    position = query.from_seq
    if query.task_id:
        if not is_task_id(query.task_id):
            raise bad_query("task_id", "give the full id of the task")
        wanted = touching(query.task_id, begun=bool(query.from_seq))
        position = position or await start_of(gateway, query.task_id)
    items, next_seq = await _page(gateway, max(position, 1), query.limit, wanted)
    last_seq = (await gateway.bus.state(subjects.EVENTS)).last_seq
    data = {"items": items, "next_seq": next_seq if next_seq <= last_seq else None}
    return reply({"seq": last_seq, "data": data})


async def _page(
    gateway: Gateway, position: int, limit: int, wanted: Callable[[Entry], bool]
) -> tuple[list[msgspec.Raw], int]:
    items: list[msgspec.Raw] = []
    size = scanned = 0
    while len(items) < limit and size < limits.LOG_ANSWER_BYTES_MAX and scanned < limits.LOG_SCAN_MAX:
        found = await gateway.bus.get_range(subjects.EVENTS, position, min(limits.LOG_PAGE_MAX, limit))
        if not found:
            break
        for entry in map(Entry, found):
            if len(items) >= limit or size >= limits.LOG_ANSWER_BYTES_MAX or scanned >= limits.LOG_SCAN_MAX:
                break
            position = entry.seq + 1
            scanned += 1
            if wanted(entry):
                items.append(entry.json)
                size += len(entry.stored.body)
    return items, position

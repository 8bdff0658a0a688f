"""`events`: stored events as they stand in the log, filtered by what they name."""

from __future__ import annotations

from typing import Any

import msgspec

from fleetlog_reporter.answers import find
from fleetlog_reporter.answers.desk import Desk, NoAnswer, check_limit
from fleetlog_reporter.answers.sql_files import question_sql
from fleetlog_reporter.apply import touch_key
from fleetlog_schemas import ids, limits, questions
from fleetlog_schemas.codec import rfc3339

PAGE_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of events in one page: one event may have 256 KiB."""


async def events(desk: Desk, question: questions.EventsQuestion) -> tuple[int, questions.Page]:
    """Answer which events there are, in the order of the log; `next_cursor` is the next `after_seq`."""
    check_limit(question.limit)
    when = await desk.past(question)
    if when is None:
        await desk.wait(question)
    through = when.seq if when else desk.projector.position
    task_id, since_ms = "", 0
    if question.task_id:
        task_id = (await find.find(desk, question.task_id, question)).task_id
        since_ms = ids.id_ms(task_id) - limits.TASK_ID_AHEAD_MS_MAX
    host_id = _host_id(desk, question.host) if question.host else ""
    await desk.wait_for_tables(through)
    parameters = {
        "after_seq": question.after_seq, "through": through, "type": question.type, "since_ms": since_ms,
        "task_id": task_id, "task_key": touch_key(task_id), "host_id": host_id, "host_key": touch_key(host_id),
        "limit": question.limit + 1,
    }
    found = await desk.run(lambda db: db.execute(question_sql("events.sql"), parameters).fetchall())
    if task_id and not found and not question.after_seq and not question.host and not question.type:
        raise NoAnswer(404, "task-not-found", f"no event names task {task_id}", "/task_id")
    return through, _page(found, question.limit)


def _host_id(desk: Desk, name: str) -> str:
    host = desk.projector.hosts.named(name)
    return host.host_id if host else name


def _page(found: list[tuple[Any, ...]], limit: int) -> questions.Page:
    items: list[questions.StoredEvent] = []
    size = 0
    for seq, subject, time_ms, body in found[:limit]:
        size += len(body)
        if items and size > PAGE_BYTES_MAX:
            break
        event = msgspec.Raw(body.encode())
        items.append(questions.StoredEvent(seq=seq, subject=subject, stored_at=rfc3339(time_ms), event=event))
    more = len(items) < len(found)
    return questions.Page(items=items, next_cursor=str(items[-1].seq) if more else None)

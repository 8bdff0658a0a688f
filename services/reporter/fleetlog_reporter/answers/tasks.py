"""`tasks`, `task` and `commands`: what was asked for, and what became of it on which host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import duckdb
import msgspec

from fleetlog_reporter import rows
from fleetlog_reporter.answers import find
from fleetlog_reporter.answers.desk import (
    Desk,
    NoAnswer,
    Number,
    check_limit,
    check_one_of,
    decode_cursor,
    encode_cursor,
)
from fleetlog_reporter.answers.sql_files import question_sql
from fleetlog_reporter.readers import ATTEMPTS, TASKS
from fleetlog_schemas import questions, view
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.records import Command, CommandState, Task, TaskState

TASK_STATES = ("open", *(state.value for state in TaskState))
_TASK_FILTERS = ("kind", "state", "outcome", "host", "submitted_by", "name", "tag", "definition", "schedule", "part_of", "parts")
COMMAND_STATES = tuple(state.value for state in CommandState)
NEWEST_EVENTS = 50_000
WIDER = 4
"""A page of the newest tasks is looked for among those of the newest events, and then of so many times more: rows lie in
the order of the log, so that most questions read a small part of a long history, and others little more than all."""
OUTCOMES = tuple(outcome.value for outcome in Outcome)


async def tasks(desk: Desk, question: questions.TasksQuestion) -> tuple[int, questions.Page]:
    """Answer which tasks there are, newest first. A page stays where it was while new tasks arrive."""
    limit = check_limit(question.limit)
    check_one_of("state", question.state, TASK_STATES)
    check_one_of("outcome", question.outcome, OUTCOMES)
    before = decode_cursor(question.cursor, tuple[Number, str]) if question.cursor else (0, "")
    parameters = {
        **{name: getattr(question, name) for name in _TASK_FILTERS},
        "since_ms": question.since_ms, "until_ms": question.until_ms, "before_seq": before[0], "before_id": before[1],
        "limit": limit + 1,
    }
    moment = await desk.moment(question, TASKS, *([ATTEMPTS] if question.host else []))
    query = question_sql("tasks.sql" if question.host else "tasks_anywhere.sql")
    if not question.host:
        del parameters["host"]
    found = await desk.run(lambda db: _newest(db, query, parameters, before[0] or moment.seq), moment)
    items = [_summary(row) for row in found[:limit]]
    cursor = encode_cursor(found[limit - 1][-1], found[limit - 1][0]) if len(found) > limit else None
    return moment.seq, questions.Page(items=items, next_cursor=cursor)


def _newest(db: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any], last_seq: int) -> list[tuple[Any, ...]]:
    """Return the rows of a page, whose newest may be at *last_seq*."""
    span = NEWEST_EVENTS
    while True:
        from_seq = max(0, last_seq - span)
        found = db.execute(query, {**parameters, "from_seq": from_seq}).fetchall()
        if len(found) >= parameters["limit"] or not from_seq:
            return found
        span *= WIDER


def _summary(row: tuple[Any, ...]) -> questions.TaskSummary:
    (
        task_id, kind, name, summary, state, outcome, target, by, submitted_ms, ended_ms, hosts, counts, tags, hold,
        definition, version, schedule, nominal_ms, workflow_id, part, _,
    ) = row  # fmt: skip
    return questions.TaskSummary(
        task_id=task_id, kind=kind, name=name, summary=summary, state=state, outcome=outcome, target=target,
        submitted_by=by, submitted_at=rfc3339(submitted_ms), ended_at=rfc3339(ended_ms) if ended_ms else None,
        duration_seconds=(ended_ms - submitted_ms) / 1000 if ended_ms else None, hosts=hosts,
        counts=dict(sorted(msgspec.json.decode(counts, type=dict[str, int]).items())), tags=msgspec.json.decode(tags, type=tuple[str, ...]),
        hold=hold, definition=definition, version=version, schedule=schedule,
        nominal_at=rfc3339(nominal_ms) if nominal_ms else None, part_of=workflow_id, part=part,
    )


async def task(desk: Desk, question: questions.TaskQuestion) -> tuple[int, view.TaskView]:
    """Answer everything about one task."""
    at = await find.find(desk, question.task_id, question)
    return await find.with_task(desk, at, view.task_view)


async def commands(desk: Desk, question: questions.CommandsQuestion) -> tuple[int, questions.Page]:
    """Answer the commands of one task, by host name."""
    check_limit(question.limit)
    check_one_of("state", question.state, COMMAND_STATES)
    check_one_of("outcome", question.outcome, OUTCOMES)
    after = decode_cursor(question.cursor, tuple[str, str]) if question.cursor else None
    at = await find.find(desk, question.task_id, question)
    seq, in_memory = desk.projector.position, desk.projector.find(at.task_id)
    if not at.is_past and in_memory is not None:
        return seq, _page(in_memory.commands.values(), question, after)
    if not at.is_past and desk.follower.late_is_pending:
        await desk.wait_for_tables(seq)
    through = at.seq if at.is_past else seq
    page = await desk.run(lambda db: _page_of_rows(db, at.task_id, through, question, after))
    if page is not None:
        return through, page
    # It had not ended yet at that position, or it does not exist.
    return await find.with_task(desk, at, lambda found: _page(found.commands.values(), question, after))


def _page(
    found: Iterable[Command], question: questions.CommandsQuestion, after: tuple[str, str] | None
) -> questions.Page:
    keyed = {(command.host_name, command.host_id): command for command in found if _fits(command, question)}
    fitting = sorted(key for key in keyed if after is None or key > after)
    return _as_page([keyed[key] for key in fitting[: question.limit + 1]], question.limit)


def _fits(command: Command, question: questions.CommandsQuestion) -> bool:
    if question.state and command.state.value != question.state:
        return False
    if question.outcome and command.outcome != question.outcome:
        return False
    return not question.host or question.host in (command.host_id, command.host_name)


def _page_of_rows(
    db: duckdb.DuckDBPyConnection, task_id: str, seq: int, question: questions.CommandsQuestion,
    after: tuple[str, str] | None,
) -> questions.Page | None:
    if db.execute(question_sql("task.sql"), [task_id, seq]).fetchone() is None:
        return None
    host, host_id = after or ("", "")
    parameters = {
        "task_id": task_id, "state": question.state, "outcome": question.outcome, "host": question.host,
        "after_host": host, "after_host_id": host_id, "limit": question.limit + 1,
    }
    wanted = [host_id for (host_id,) in db.execute(question_sql("commands.sql"), parameters).fetchall()]
    attempts = db.execute(question_sql("commands_attempts.sql"), [task_id, wanted]).fetchall()
    late = db.execute(question_sql("task_late.sql"), [task_id, seq]).fetchall()
    by_id = rows.commands_from_rows(attempts, late)
    return _as_page([by_id[one] for one in wanted], question.limit)


def _as_page(found: list[Command], limit: int) -> questions.Page:
    items = [view.command_view(command) for command in found[:limit]]
    last = found[limit - 1] if len(found) > limit else None
    return questions.Page(items=items, next_cursor=encode_cursor(last.host_name, last.host_id) if last else None)


def the_command(task: Task, host: str) -> Command:
    """Return a task's command by host id or name. Raises NoAnswer."""
    command = task.commands.get(host) or next((one for one in task.commands.values() if one.host_name == host), None)
    if command is None:
        raise NoAnswer(404, "host-not-found", f"the task has no command on {host[:60]!r}", "/host")
    return command

"""`executions` and `execution`: the records of ended tasks, with the definition that each came from."""

from __future__ import annotations

from typing import Any

import duckdb
import msgspec

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
from fleetlog_reporter.answers.tasks import OUTCOMES
from fleetlog_reporter.readers import ATTEMPTS, TASKS
from fleetlog_schemas import questions
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.executions import Execution, ExecutionOrigin, ExecutionsQuestion


async def executions(desk: Desk, question: ExecutionsQuestion) -> tuple[int, questions.Page]:
    """Answer the records of ended tasks, the newest end first."""
    limit = check_limit(question.limit)
    check_one_of("outcome", question.outcome, OUTCOMES)
    before = decode_cursor(question.cursor, tuple[Number, str]) if question.cursor else (0, "")
    parameters = {
        **{name: getattr(question, name) for name in ("task_id", "kind", "definition", "outcome", "since_ms", "until_ms")},
        "before_seq": before[0], "before_id": before[1], "limit": limit + 1,
    }
    moment = await desk.moment(question, TASKS, ATTEMPTS)
    if not question.as_of_seq and not question.as_of_ms:
        await desk.wait_for_tables(moment.seq)  # which definitions there are is read from the events there
    found, ran = await desk.run(lambda db: _rows(db, parameters), moment)
    cursor = encode_cursor(found[limit - 1][9], found[limit - 1][0]) if len(found) > limit else None
    items = [_record(row, ran.get(row[0], _DID_NOT_RUN)) for row in found[:limit]]
    return moment.seq, questions.Page(items=items, next_cursor=cursor)


_Row = tuple[Any, ...]
_DID_NOT_RUN: _Row = (None, None, None, None)


def _rows(db: duckdb.DuckDBPyConnection, parameters: dict[str, Any]) -> tuple[list[_Row], dict[str, _Row]]:
    """Return the rows of tasks, and by task what its attempts say."""
    found = db.execute(question_sql("executions.sql"), parameters).fetchall()
    ran = db.execute(question_sql("executions_ran.sql"), [[row[0] for row in found]]).fetchall()
    return found, {task_id: tuple(rest) for task_id, *rest in ran}


async def execution(desk: Desk, question: questions.TaskQuestion) -> tuple[int, Execution]:
    """Answer the record of one task. Raises NoAnswer when it has not ended."""
    at = await find.find(desk, question.task_id, question)
    await find.with_task(desk, at, lambda task: task.task_id)  # says that there is none
    seq, page = await executions(
        desk, ExecutionsQuestion(task_id=at.task_id, as_of_seq=at.seq, at_least_seq=question.at_least_seq)
    )
    if not page.items:
        raise NoAnswer(409, "not-ended", "the task has not ended yet: its record is written when it has", "/task_id")
    return seq, page.items[0]


def _record(row: _Row, ran: _Row) -> Execution:
    (
        task_id, kind, name, definition_id, version, outcome, by, submitted_ms, ended_ms, _, hosts, counts, refusal,
        parameters, definition,
    ) = row  # fmt: skip
    started_ms, return_value, error, traceback = ran
    origin = None
    if definition_id is not None:
        values = msgspec.json.decode(parameters) if parameters else {}
        origin = ExecutionOrigin(definition_id, definition, version, values)
    return Execution(
        task_id=task_id, kind=kind, name=name, definition=origin, success=outcome == "success", outcome=outcome,
        submitted_by=by, submitted_at=rfc3339(submitted_ms), started_at=rfc3339(started_ms) if started_ms else None,
        completed_at=rfc3339(ended_ms), duration_seconds=(ended_ms - started_ms) / 1000 if started_ms else None, hosts=hosts,
        counts=dict(sorted(msgspec.json.decode(counts, type=dict[str, int]).items())),
        return_value=_value(return_value) if hosts == 1 else None, error=refusal or error, traceback=traceback,
    )


def _value(text: str | None) -> Any:
    """Return what a function gave back, from its JSON; what cannot be read is shown as it is."""
    try:
        return None if text is None else msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return text

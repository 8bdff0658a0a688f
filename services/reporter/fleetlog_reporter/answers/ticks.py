"""`ticks`: the ledger of schedules, read from the stored events, with how each task that was fired ended."""

from __future__ import annotations

from typing import Any

from fleetlog_reporter.answers.desk import (
    Desk,
    Number,
    check_limit,
    check_one_of,
    decode_cursor,
    encode_cursor,
)
from fleetlog_reporter.answers.sql_files import question_sql
from fleetlog_reporter.readers import TASKS
from fleetlog_schemas import ledger, questions
from fleetlog_schemas.codec import rfc3339

OUTCOMES = ("fired", "missed", "skipped", "queued")


async def ticks(desk: Desk, question: ledger.TicksQuestion) -> tuple[int, questions.Page]:
    """Answer what became of ticks, newest decision first. A page stays where it was while new ones are decided."""
    limit = check_limit(question.limit)
    check_one_of("outcome", question.outcome, OUTCOMES)
    before = decode_cursor(question.cursor, tuple[Number, Number]) if question.cursor else (0, 0)
    parameters = {
        **{name: getattr(question, name) for name in ("schedule", "outcome", "since_ms", "until_ms")},
        "before_seq": before[0], "before_index": before[1], "limit": limit + 1,
    }
    moment = await desk.moment(question, TASKS)
    if not question.as_of_seq and not question.as_of_ms:
        await desk.wait_for_tables(moment.seq)  # ticks are read from the events there
    query = question_sql("ticks.sql")
    found = await desk.run(lambda db: db.execute(query, parameters).fetchall(), moment)
    cursor = encode_cursor(*found[limit - 1][-2:]) if len(found) > limit else None
    return moment.seq, questions.Page(items=[_view(row) for row in found[:limit]], next_cursor=cursor)


def _view(row: tuple[Any, ...]) -> ledger.TickView:
    (
        schedule, nominal_ms, until_ms, count, more, outcome, reason, message, task_id, task_outcome, version, decided_ms,
        backfill, seq, _,
    ) = row  # fmt: skip
    return ledger.TickView(
        schedule=schedule, nominal_at=rfc3339(nominal_ms), until=rfc3339(until_ms) if until_ms else None, count=count,
        more=more, outcome=outcome, reason=reason, message=message, task_id=task_id, task_outcome=task_outcome,
        version=version, decided_at=rfc3339(decided_ms), backfill=backfill, seq=seq,
    )

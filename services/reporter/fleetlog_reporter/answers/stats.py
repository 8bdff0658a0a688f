"""`stats`: how many commands ended how, and how long they took, by kind, host, day or definition."""

from __future__ import annotations

from typing import Any

from fleetlog_reporter.answers.desk import Desk, NoAnswer
from fleetlog_reporter.answers.sql_files import question_sql
from fleetlog_reporter.readers import ATTEMPTS, TASKS
from fleetlog_schemas import questions
from fleetlog_schemas.outcomes import Outcome

KEYS = ("kind", "host", "day", "definition")


async def stats(desk: Desk, question: questions.StatsQuestion) -> tuple[int, questions.Page]:
    """Answer counts, success ratio and durations of ended commands; days are UTC by the log's time."""
    if question.by not in KEYS:
        raise NoAnswer(400, "bad-query", f"must be one of {', '.join(KEYS)}, not {question.by[:40]!r}", "/by")
    of_tasks = [TASKS] if question.definition or question.by == "definition" else []
    moment = await desk.moment(question, ATTEMPTS, *of_tasks)
    parameters = {
        "by": question.by, "since_ms": question.since_ms, "until_ms": question.until_ms, "kind": question.kind,
        "host": question.host, "definition": question.definition,
    }
    found = await desk.run(lambda db: db.execute(question_sql("stats.sql"), parameters).fetchall(), moment)
    return moment.seq, questions.Page(items=[_row(row) for row in found])


def _row(row: tuple[Any, ...]) -> questions.StatsRow:
    key, commands, outcomes, quantiles = row
    p50, p95, p99 = quantiles or (None, None, None)
    return questions.StatsRow(
        key=str(key), commands=commands, outcomes=dict(sorted(outcomes.items())),
        success_ratio=round(outcomes.get(Outcome.SUCCESS.value, 0) / commands, 6),
        p50_seconds=_seconds(p50), p95_seconds=_seconds(p95), p99_seconds=_seconds(p99),
    )


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds / 1000, 6)

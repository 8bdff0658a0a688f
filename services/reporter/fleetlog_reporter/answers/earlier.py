"""`typical` and `previous`: what is known of earlier tasks that ran the same payload, or were of the same definition."""

from __future__ import annotations

import msgspec

from fleetlog_reporter.answers import find
from fleetlog_reporter.answers.desk import Desk, NoAnswer
from fleetlog_reporter.answers.sql_files import question_sql
from fleetlog_reporter.readers import TASKS
from fleetlog_reporter.rows import payload_key
from fleetlog_schemas import questions
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.records import Task
from fleetlog_schemas.spec import TaskSpec


async def typical(desk: Desk, question: questions.TypicalQuestion) -> tuple[int, questions.Typical]:
    """Answer how long commands took of the newest ended tasks that ran the same before this one."""
    at = await find.find(desk, question.task_id, question)
    task = None if at.is_past else desk.projector.find(at.task_id)
    if task is not None:
        seq, (key, submitted_seq) = desk.projector.position, _key_and_place(task)
    else:
        seq, (key, submitted_seq) = await find.with_task(desk, at, _key_and_place)
    await desk.wait_for_tables(seq)
    parameters = {"payload_key": key, "submitted_seq": submitted_seq, "through": seq}
    found = await desk.run(lambda db: db.execute(question_sql("typical.sql"), parameters).fetchone())
    commands, quantiles = found or (0, None)
    p50, p95 = (round(one / 1000, 6) for one in quantiles) if quantiles else (None, None)
    return seq, questions.Typical(commands=commands, p50_seconds=p50, p95_seconds=p95)


def _key_and_place(task: Task) -> tuple[str, int]:
    return payload_key(task.spec.payload), task.submitted_seq


async def previous(desk: Desk, question: questions.PreviousQuestion) -> tuple[int, questions.Previous | None]:
    """Answer which task ran a payload, or was of a definition, last.

    One that has no plan yet has run nothing, and may still be refused.
    """
    if question.payload is None and not question.definition_id:
        raise NoAnswer(400, "bad-query", "give a payload or a definition", "/payload")
    moment = await desk.moment(question, TASKS)
    parameters = {
        "payload_key": payload_key(question.payload) if question.payload else "",
        **{name: getattr(question, name) for name in ("definition_id", "outcome", "before_id")},
    }
    row = await desk.run(lambda db: db.execute(question_sql("previous.sql"), parameters).fetchone(), moment)
    if row is None:
        return moment.seq, None
    task_id, submitted_ms, outcome, spec = row
    return moment.seq, questions.Previous(
        task_id=task_id, submitted_at=rfc3339(submitted_ms), outcome=outcome, spec=msgspec.json.decode(spec, type=TaskSpec),
        hosts=await _host_names(desk, task_id),
    )


async def _host_names(desk: Desk, task_id: str) -> list[str]:
    # A plan freezes the hosts: they are the same at whichever moment the question is about.
    task = desk.projector.find(task_id)
    if task is not None:
        return [name for name, _ in sorted((one.host_name, one.host_id) for one in task.commands.values())]
    found = await desk.run(lambda db: db.execute(question_sql("previous_hosts.sql"), [task_id]).fetchall())
    return [name for (name,) in found]

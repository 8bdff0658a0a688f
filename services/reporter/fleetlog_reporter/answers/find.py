"""Find the task that a question names, in memory or in the tables, now or in the past."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TypeVar

import duckdb
import msgspec

from fleetlog_reporter import rows
from fleetlog_reporter.answers import past
from fleetlog_reporter.answers.desk import FEW_COMMANDS, Desk, NoAnswer
from fleetlog_reporter.answers.sql_files import question_sql
from fleetlog_schemas import questions
from fleetlog_schemas.ids import InvalidId, id_ms
from fleetlog_schemas.records import Task

T = TypeVar("T")

SUFFIX_CHARACTERS_MIN = 6
"""Fewer last characters than this would soon name several tasks."""
SHOWN_MAX = 5
"""Tasks named when an abbreviation fits several."""
_SUFFIX = re.compile(r"[0-9a-f-]+")
_encode_task = msgspec.json.Encoder().encode
_decode_task = msgspec.json.Decoder(Task).decode


class At(msgspec.Struct, frozen=True):
    """Which task, and at which position it is asked for."""

    task_id: str
    seq: int
    is_past: bool


async def find(desk: Desk, task_id: str, question: questions.AsOf) -> At:
    """Return which task a question names: a full id, the end of one, or `last`. Raises NoAnswer."""
    when = await desk.past(question)
    if when is None:
        await desk.wait(question)
    seq = when.seq if when else desk.projector.position
    full = await _full_id(desk, task_id.strip().lower(), seq)
    # A question about now is about the moment at which it is answered, not at which the id was looked up.
    return At(task_id=full, seq=when.seq if when else 0, is_past=when is not None)


async def _full_id(desk: Desk, text: str, seq: int) -> str:
    if text == "last":
        return await _last(desk, seq)
    if len(text) == 36:
        try:
            id_ms(text)
        except InvalidId:
            raise _none(text) from None
        return text
    if len(text) < SUFFIX_CHARACTERS_MIN or not _SUFFIX.fullmatch(text):
        raise NoAnswer(
            400, "bad-query", f"{text[:40]!r} names no task: give its id, at least the last {SUFFIX_CHARACTERS_MIN} characters of it, or `last`",
            "/task_id",
        )
    in_memory = {task.task_id for task in desk.in_memory() if task.task_id.endswith(text) and task.submitted_seq <= seq}
    query = question_sql("task_ids_by_suffix.sql")
    found = await desk.run(lambda db: db.execute(query, [f"%{text}", seq, SHOWN_MAX + 1]).fetchall())
    fitting = sorted(in_memory | {task_id for (task_id,) in found})
    if not fitting:
        raise _none(text)
    if len(fitting) > 1:
        some = ", ".join(fitting[-SHOWN_MAX:])
        raise NoAnswer(409, "ambiguous", f"several tasks end in {text}: {some}; give more of the id", "/task_id")
    return fitting[0]


async def _last(desk: Desk, seq: int) -> str:
    # Looked up before memory is: a task that ends in between is then in one of the two.
    newest = [(task.submitted_seq, task.task_id) for task in desk.in_memory() if task.submitted_seq <= seq and not task.part_of]
    found = await desk.run(lambda db: db.execute(question_sql("task_id_last.sql"), [seq]).fetchone())
    if found:
        newest.append((int(found[0]), str(found[1])))
    if not newest:
        raise NoAnswer(404, "task-not-found", "there is no task yet", "/task_id")
    return max(newest)[1]


def _none(text: str) -> NoAnswer:
    return NoAnswer(404, "task-not-found", f"no task is named {text[:60]!r}; `fleetlog ls` lists them", "/task_id")


async def with_task(desk: Desk, at: At, ask: Callable[[Task], T]) -> tuple[int, T]:
    """Return the position answered for and what *ask* makes of a copy of the task; with many commands, on a thread.

    Raises:
        NoAnswer: there is no such task.
    """
    if at.is_past:
        return at.seq, await desk.run(lambda db: ask(_past_task(db, at)))
    seq, task = desk.projector.position, desk.projector.find(at.task_id)
    if task is not None:
        copied = _encode_task(task)
        if len(task.commands) <= FEW_COMMANDS:
            return seq, ask(_decode_task(copied))
        return seq, await asyncio.to_thread(lambda: ask(_decode_task(copied)))
    if desk.follower.late_is_pending:
        await desk.wait_for_tables(seq)
    return seq, await desk.run(lambda db: ask(_existing(task_of_rows(db, at.task_id, seq), at.task_id)))


def _past_task(db: duckdb.DuckDBPyConnection, at: At) -> Task:
    task = task_of_rows(db, at.task_id, at.seq)
    return _existing(task or past.fold_task(db, at.task_id, at.seq), at.task_id)


def _existing(task: Task | None, task_id: str) -> Task:
    if task is None:
        raise _none(task_id)
    return task


def task_of_rows(db: duckdb.DuckDBPyConnection, task_id: str, seq: int) -> Task | None:
    """Return a task that ended at or before *seq*, with the late results up to there; None when there is none."""
    row = db.execute(question_sql("task.sql"), [task_id, seq]).fetchone()
    if row is None:
        return None
    attempts = db.execute(question_sql("task_attempts.sql"), [task_id]).fetchall()
    late = db.execute(question_sql("task_late.sql"), [task_id, seq]).fetchall()
    return rows.task_from_rows(row, attempts, late)

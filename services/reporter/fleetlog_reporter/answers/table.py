"""`sql`: one read-only statement on the projection's views, in a sandbox.

The walls, each enough for what it keeps out: DuckDB's own parser must call the statement a SELECT or EXPLAIN; it
runs in a read-only transaction that is rolled back; the connection has no access to files, network, extensions or
settings; rows, bytes and time are limited. DuckDB does not count the memory of long texts, so the functions that
make them from nothing are refused by name: a slip must not cost the machine its memory.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import math
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import duckdb

from fleetlog_reporter.answers.desk import Desk, NoAnswer, check_limit
from fleetlog_reporter.readers import LIVE
from fleetlog_schemas import questions
from fleetlog_schemas.codec import rfc3339

SECONDS_MAX = 20.0
"""Longest run of one statement: it shares two cores with every answer."""
WAITING_MAX = 8
"""Statements that run or wait; people's SQL runs one at a time."""
BYTES_MAX = 8 * 1024 * 1024
"""Bytes of one result as JSON, about; beyond it the table is cut and says so."""
QUERY_BYTES_MAX = 100_000
ROWS_AT_ONCE = 256

_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_GREEDY = re.compile(
    r"\b(repeat|lpad|rpad|bar|format|printf|list_resize|array_resize|write_log)\s*\(", re.IGNORECASE
)


async def sql(desk: Desk, question: questions.SqlQuestion) -> tuple[int, questions.SqlTable]:
    """Answer one statement: SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN."""
    check_limit(question.limit, questions.SQL_ROWS_MAX)
    if len(question.query.encode(errors="replace")) > QUERY_BYTES_MAX:
        raise _refuse(f"a statement has at most {QUERY_BYTES_MAX} bytes")
    reader = desk.readers.sql
    if reader.waiting >= WAITING_MAX:
        raise NoAnswer(503, "busy", f"{WAITING_MAX} statements are running or waiting: ask again")
    if not question.as_of_seq and not question.as_of_ms:
        await desk.wait(question)
        await desk.wait_for_tables(desk.projector.position)
    moment = await desk.moment(question, *await desk.run(lambda db: needs_of(db, question.query)))
    watch = Watch(asyncio.get_running_loop(), reader.interrupt)
    try:
        return moment.seq, await reader.run(moment, lambda db: watch.over(lambda: _table(db, question)))
    except duckdb.InterruptException:
        raise NoAnswer(
            422, "sql-too-slow", f"the statement ran longer than {SECONDS_MAX:.0f} s: narrow it down", "/query"
        ) from None
    except duckdb.Error as error:
        raise _refuse(_message(error)) from None
    finally:
        watch.stop()


class Watch:
    """Interrupts a statement that runs too long: its time begins when it does, not while it waits for its turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interrupt: Callable[[], None]) -> None:
        """Use the loop's timer to call *interrupt*."""
        self._loop, self._interrupt = loop, interrupt
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    def over(self, run: Callable[[], questions.SqlTable]) -> questions.SqlTable:
        """Call *run*, on the reader's thread, with the time running."""
        self._loop.call_soon_threadsafe(self._start)
        return run()

    def _start(self) -> None:
        if not self._over:
            self._timer = self._loop.call_later(SECONDS_MAX, self._interrupt)

    def stop(self) -> None:
        """Stop the time, on the loop: the statement has ended."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()


def needs_of(db: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    """Return which live tables a statement reads. Raises NoAnswer when it is not one that reads."""
    try:
        statements = db.extract_statements(query)
    except duckdb.Error as error:
        raise _refuse(_message(error)) from None
    if len(statements) != 1:
        raise _refuse(f"one statement at a time, not {len(statements)}")
    if statements[0].type not in _READING:
        kind = str(statements[0].type).rpartition(".")[2]
        raise _refuse(f"{kind} is not allowed: only SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE and EXPLAIN")
    greedy = _GREEDY.search(query)
    if greedy:
        raise _refuse(f"the function {greedy[1]} is not available here")
    try:
        named = db.get_table_names(query)
    except duckdb.Error as error:
        raise _refuse(_message(error)) from None
    if statements[0].type is duckdb.StatementType.EXPLAIN:
        return []
    return [table for table in LIVE if table in named]


def _table(db: duckdb.DuckDBPyConnection, question: questions.SqlQuestion) -> questions.SqlTable:
    db.execute("BEGIN TRANSACTION READ ONLY")
    try:
        found = db.execute(question.query)
        columns = [str(column[0]) for column in found.description or []]
        table: list[list[Any]] = []
        size, truncated = 0, False
        while page := found.fetchmany(ROWS_AT_ONCE):
            for row in page:
                values = [plain(value) for value in row]
                size += sum(len(value) if isinstance(value, str) else 8 for value in values)
                if len(table) >= question.limit or (table and size > BYTES_MAX):
                    truncated = True
                    break
                table.append(values)
            if truncated:
                break
        return questions.SqlTable(columns=columns, rows=table, truncated=truncated)
    finally:
        db.execute("ROLLBACK")


def plain(value: Any) -> Any:
    """Return a DuckDB value as JSON has it: times as RFC 3339, bytes as base64, what has no number form as text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case dt.datetime():
            moment = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
            return rfc3339(round(moment.timestamp() * 1000))
        case dt.date() | dt.time():
            return value.isoformat()
        case dt.timedelta():
            return value.total_seconds()
        case Decimal():
            return float(value)
        case bytes():
            return base64.b64encode(value).decode()
        case uuid.UUID():
            return str(value)
        case dict():
            return {str(plain(key)): plain(one) for key, one in value.items()}
        case list() | tuple():
            return [plain(one) for one in value]
        case _:
            return str(value)


def _message(error: duckdb.Error) -> str:
    """Return what DuckDB says of a statement, without the paths of this machine."""
    return re.sub(r'"/[^"]*"', "that file", str(error)).strip()[:600].encode(errors="replace").decode()


def _refuse(message: str) -> NoAnswer:
    return NoAnswer(422, "invalid", message, "/query")

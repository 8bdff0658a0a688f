"""Tables as files: tasks, commands or events, written a stretch of the log at a time on a connection of their own.

The history lies in the order of the log, so a stretch of it is read without the rest: an export costs what it holds, and
never waits for, or keeps waiting, what people ask. Where the stretches end is asked first: each has about PAGE_BYTES. CSV
and Parquet are made of the same lines by another DuckDB, in memory, that knows nothing of the projection; the projection's
is not let near files. Which columns there are is asked of the views: what people see in SQL is what they get.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO, Any

import duckdb

from fleetlog_reporter.answers.desk import Desk
from fleetlog_reporter.answers.export_tar import too_large
from fleetlog_reporter.readers import ATTEMPTS, TASKS, Connection, Moment, Reader
from fleetlog_schemas import limits
from fleetlog_schemas.exports import Format, Selection, What

PAGE_BYTES = 16 * 1024**2
"""Of lines that are written at once, about; what one event ended is never divided."""
ROW_BYTES = 500
"""Of a line, about, beside the texts in it."""
ROWS_AT_ONCE = 256
"""Taken from DuckDB in one call, which holds the interpreter."""
CONVERTING_MEMORY = "256MB"
ROW_GROUP_BYTES = 32 * 1024**2
"""Of a Parquet file, what its writer keeps in memory, and its readers."""
OPEN_ONLY = {"hold", "hold_reason", "reason", "reason_since"}
"""Columns that only say something of what has not ended."""
_ORDER = {What.TASKS: "ended_seq, task_id", What.COMMANDS: "task_ended_seq, task_id, host_id", What.EVENTS: "seq"}
"""The first is the position in the log at which the rows are kept."""
_TEXTS = {What.TASKS: "strlen(spec::VARCHAR)", What.COMMANDS: "strlen(tail) + strlen(error)", What.EVENTS: "strlen(event::VARCHAR)"}
"""What of a row may be long."""
_TIME = "%Y-%m-%dT%H:%M:%S.%gZ"


def moment_up_to(seq: int, after: int = 0) -> Moment:
    """Return what has ended up to a position of the log, and nothing of what was open there."""
    return Moment(seq=seq, committed=seq, after=after, live={TASKS: [], ATTEMPTS: []})


def tasks_of(selection: Selection) -> tuple[str, dict[str, Any]]:
    """Return the query of the tasks that an export is about: which ended in its time, up to its position."""
    condition, parameters = _bounds(selection, "ended_at")
    query = f"SELECT * FROM tasks WHERE ended_seq IS NOT NULL AND {condition} AND (len($ids::VARCHAR[]) = 0 OR list_contains($ids, task_id))"  # noqa: S608 - names of this module
    return query, {**parameters, "ids": list(selection.tasks)}


async def write(desk: Desk, selection: Selection, path: Path) -> int:
    """Write a table to *path*; return how many rows it has. Raises NoAnswer, OSError, duckdb.Error."""
    source, parameters = _source(selection)
    lines, rows, after = path.with_name(f"{path.name}-lines"), 0, 0
    try:
        async with desk.readers.another("export") as reader:
            everything = moment_up_to(selection.as_of_seq)
            columns = await reader.run(everything, lambda db: _columns(db, source, parameters))
            page = _page(source, columns, _ORDER[selection.what])
            async with _Writer(path, selection.format, columns) as writer:
                for upto in await reader.run(everything, lambda db: _stretches(db, selection, source, parameters)):
                    with lines.open("wb") as file:
                        rows += await _write_page(reader, moment_up_to(upto, after), file, page, parameters)
                    await writer.add(lines)
                    after = upto
                await writer.finish()
    finally:
        lines.unlink(missing_ok=True)
    return rows


def _bounds(selection: Selection, time: str) -> tuple[str, dict[str, Any]]:
    """Return a condition on the column *time*, and its parameters."""
    return (
        f"({time} >= epoch_ms($since) AND ($until = 0 OR {time} < epoch_ms($until)))",
        {"since": selection.since_ms, "until": selection.until_ms},
    )


def _source(selection: Selection) -> tuple[str, dict[str, Any]]:
    """Return the query of all rows of an export."""
    tasks, parameters = tasks_of(selection)
    match selection.what:
        case What.TASKS:
            return tasks, parameters
        case What.COMMANDS:
            ended = f"SELECT task_id, ended_seq AS task_ended_seq FROM ({tasks})"  # noqa: S608 - names of this module
            return f"SELECT commands.*, task_ended_seq FROM commands JOIN ({ended}) AS those USING (task_id)", parameters  # noqa: S608 - names of this module
        case _:
            condition, bounds = _bounds(selection, "stored_at")
            named = "(len($ids::VARCHAR[]) = 0 OR list_bool_or(list_transform($ids::VARCHAR[], lambda id: contains(event, id))))"
            return f"SELECT * REPLACE (event::JSON AS event) FROM events WHERE {condition} AND {named}", {**bounds, "ids": list(selection.tasks)}  # noqa: S608 - names of this module


def _columns(db: duckdb.DuckDBPyConnection, source: str, parameters: dict[str, Any]) -> dict[str, str]:
    described = db.execute(f"DESCRIBE {source}", parameters).fetchall()
    return {name: kind for name, kind, *_ in described if name not in OPEN_ONLY and name != "task_ended_seq"}


def _stretches(db: duckdb.DuckDBPyConnection, selection: Selection, source: str, parameters: dict[str, Any]) -> list[int]:
    """Return the position at which each page ends."""
    seq, texts = _ORDER[selection.what].partition(",")[0], _TEXTS[selection.what]
    found = db.execute(
        f"SELECT max(seq) FROM (SELECT {seq} AS seq, sum(sum({ROW_BYTES} + {texts})) OVER (ORDER BY {seq}) AS bytes"  # noqa: S608 - names of this module
        f" FROM ({source}) GROUP BY {seq}) GROUP BY bytes // {PAGE_BYTES} ORDER BY 1", parameters,
    ).fetchall()
    return [seq for (seq,) in found] or [selection.as_of_seq]


def _page(source: str, columns: dict[str, str], order: str) -> str:
    """Return the query of the rows of a stretch, as JSON texts."""
    fields = ", ".join(
        f"{_quoted(name)} := " + (f"strftime({_quoted(name)}, '{_TIME}')" if kind == "TIMESTAMP" else _quoted(name))
        for name, kind in columns.items()
    )
    return f"SELECT to_json(struct_pack({fields}))::VARCHAR FROM ({source}) ORDER BY {order}"  # noqa: S608 - names of this module


async def _write_page(reader: Reader, stretch: Moment, file: IO[bytes], page: str, parameters: dict[str, Any]) -> int:
    def write_rows(db: duckdb.DuckDBPyConnection) -> int:
        rows, found = 0, db.execute(page, parameters)
        while some := found.fetchmany(ROWS_AT_ONCE):
            file.write("".join(f"{line}\n" for (line,) in some).encode("utf-8", "replace"))
            rows += len(some)
        return rows

    return await reader.run(stretch, write_rows)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class _Writer:
    """What makes a file of pages of lines."""

    def __init__(self, path: Path, form: Format, columns: dict[str, str]) -> None:
        self._path, self._form = path, form
        self._types = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
        self._bytes = self._pages = 0
        self._parts: list[Path] = []
        # One thread: with more, or with their order kept at any price, rows of long texts would gather in memory.
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": CONVERTING_MEMORY, "threads": 1, "preserve_insertion_order": False, "temp_directory": f"{path}-temp",
        }
        self._duckdb = Connection(duckdb.connect(config=settings), "converts")

    async def __aenter__(self) -> _Writer:
        await self._duckdb.call(lambda _: self._path.write_bytes(b""))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._duckdb.__aexit__(*error)
        for part in self._parts:
            part.unlink(missing_ok=True)

    async def add(self, lines: Path) -> None:
        """Add a page. Raises NoAnswer when it is too much, OSError, duckdb.Error."""
        part = lines
        if self._form is not Format.NDJSON:
            part = self._path.with_name(f"{self._path.name}-part{self._pages}")
            self._parts.append(part)
            header = f"FORMAT csv, HEADER {not self._pages}, TIMESTAMPFORMAT '{_TIME}'"
            how = header if self._form is Format.CSV else "FORMAT parquet, COMPRESSION zstd"
            await self._copy(f"read_json($from, format = 'newline_delimited', columns = {{{self._types}}})", str(lines), part, how)
        self._pages += 1
        self._bytes += part.stat().st_size
        if self._bytes > limits.EXPORT_BYTES_MAX:
            raise too_large()
        if self._form is not Format.PARQUET:
            await self._duckdb.call(lambda _: self._append(part))

    def _append(self, part: Path) -> None:
        with part.open("rb") as source, self._path.open("ab") as file:
            shutil.copyfileobj(source, file)
        part.unlink()

    async def finish(self) -> None:
        """Make the file of what was added."""
        if self._form is Format.PARQUET:
            how = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE_BYTES {ROW_GROUP_BYTES}"
            await self._copy("read_parquet($from)", [str(part) for part in self._parts], self._path, how)

    async def _copy(self, source: str, given: str | list[str], path: Path, how: str) -> None:
        query = f"COPY (SELECT * FROM {source}) TO $to ({how})"  # noqa: S608 - names of views
        await self._duckdb.call(lambda db: db.execute(query, {"from": given, "to": str(path)}).fetchall())

"""`export`: write a part of the log's history, or of what commands left, to a file, and answer it piece by piece.

A table is written as NDJSON, page by page, so that a long history needs no memory; Parquet and CSV are made of that by
DuckDB, on a connection of its own that knows nothing else. Which columns there are is asked of the views: what people
see in SQL is what they get. Output and artifacts are read from the stream OUTPUT; a tar ends with a manifest that names
each file, its digest, and what is not kept any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import duckdb
import msgspec

from fleetlog_reporter.answers import export_tar
from fleetlog_reporter.answers.desk import NUMBER_MAX, Desk, NoAnswer
from fleetlog_reporter.answers.export_tar import too_large
from fleetlog_reporter.answers.find import At, with_task
from fleetlog_reporter.made import SECONDS_MAX, BeingMade, Busy, Made
from fleetlog_reporter.readers import ATTEMPTS, TASKS, Moment
from fleetlog_schemas import limits
from fleetlog_schemas.exports import (
    Export,
    ExportPiece,
    ExportQuestion,
    Format,
    Selection,
    What,
    check_selection,
    selection_of,
)
from fleetlog_schemas.records import Task
from fleetlog_schemas.spec_fields import SpecError

ROWS_AT_ONCE = 1_000
BEHIND_SECONDS_MAX = 1.0
"""How long a question waits for a sequence: a host that fetches asks again by itself, and hears sooner that it must."""
CONVERTING_MEMORY = "256MB"
OPEN_ONLY = {"hold", "hold_reason", "reason", "reason_since"}
"""Columns that only say something of what has not ended."""
_KEYS = {What.TASKS: ("ended_seq", "task_id"), What.COMMANDS: ("ended_seq", "task_id", "host_id"), What.EVENTS: ("seq",)}
_TIME = "%Y-%m-%dT%H:%M:%S.%gZ"


async def export(desk: Desk, question: ExportQuestion) -> tuple[int, ExportPiece]:
    """Answer a piece of an export, which is made when its first piece is asked for. Raises NoAnswer."""
    if not 1 <= question.limit_bytes <= limits.EXPORT_PIECE_BYTES:
        raise NoAnswer(400, "bad-query", f"must be between 1 and {limits.EXPORT_PIECE_BYTES}", "/limit_bytes")
    selection, at_ms = await _selection(desk, question)
    try:
        made = await desk.exports.get(selection, lambda path: _make(desk, selection, path))
        data = await asyncio.to_thread(_read, made.path, question.offset, question.limit_bytes)
    except BeingMade:
        raise NoAnswer(503, "export-being-made", "the export is being made: ask again") from None
    except Busy:
        raise NoAnswer(503, "busy", "other exports are being made: ask again later") from None
    except TimeoutError:
        raise NoAnswer(422, "too-far", f"this cannot be exported in {SECONDS_MAX:.0f} s: name a shorter time, or fewer tasks") from None
    except (OSError, duckdb.IOException) as error:
        why = getattr(error, "strerror", None) or "its disk is full, or read-only"
        raise NoAnswer(507, "export-no-room", f"the reporter cannot write the export: {why}: make room on its disk, and ask again") from None
    piece = ExportPiece(
        selection=selection, size=made.size, sha256=made.sha256, rows=made.rows, missing=made.missing, at_ms=at_ms, data=data
    )
    return selection.as_of_seq, piece


async def _selection(desk: Desk, question: ExportQuestion) -> tuple[Selection, int]:
    """Return what is to be exported, with its position, and the time for which it stands. Raises NoAnswer."""
    if not await desk.follower.folded(question.at_least_seq, BEHIND_SECONDS_MAX):
        raise NoAnswer(504, "behind", "the reporter has not read the log so far yet: ask again")
    if question.of_task:
        return await _of_task(desk, question.of_task)
    if question.selection is None:
        raise NoAnswer(400, "bad-query", "say what is to be exported", "/selection")
    one = question.selection
    try:
        check_selection(one.what, one.format, one.tasks, one.since_ms, one.until_ms, one.artifact)
    except SpecError as error:
        raise NoAnswer(400, "bad-query", error.message, error.pointer) from None
    if not 0 <= one.as_of_seq <= NUMBER_MAX:
        raise NoAnswer(400, "bad-query", f"must be between 0 and {NUMBER_MAX}", "/selection/as_of_seq")
    if not await desk.follower.folded(one.as_of_seq, BEHIND_SECONDS_MAX):
        raise NoAnswer(
            504, "behind", f"the reporter has read the log up to {desk.projector.position}, not yet to {one.as_of_seq}: ask again"
        )
    return msgspec.structs.replace(one, as_of_seq=one.as_of_seq or desk.projector.position), one.until_ms


async def _of_task(desk: Desk, task_id: str) -> tuple[Selection, int]:
    def of(task: Task) -> tuple[Selection, int] | None:
        payload, at_ms = task.spec.payload, task.nominal_ms or task.submitted_ms
        if not isinstance(payload, Export):
            return None
        return selection_of(payload, at_ms, task.submitted_seq), payload.until_ms or at_ms

    _, found = await with_task(desk, At(task_id=task_id, seq=0, is_past=False), of)
    if found is None:
        raise NoAnswer(409, "no-export", "this task is no export", "/of_task")
    return found


def _read(path: Path, offset: int, bytes_max: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), bytes_max, offset)


async def _make(desk: Desk, selection: Selection, path: Path) -> Made:
    await desk.wait_for_tables(selection.as_of_seq)
    if selection.format is Format.TAR:
        rows, missing = await export_tar.write(desk, selection, await task_ids(desk, selection), path)
    elif selection.format is Format.FILE:
        rows, missing = await export_tar.write_file(desk, selection.artifact, await task_ids(desk, selection), path), 0
    elif selection.what is What.OUTPUT:
        rows, missing = await export_tar.write_lines(desk, await task_ids(desk, selection), path)
    else:
        rows, missing = await _write_table(desk, selection, path), 0
    size, sha256 = await asyncio.to_thread(_digest, path)
    if size > limits.EXPORT_BYTES_MAX:
        raise too_large()
    return Made(path, size, sha256, rows, missing)


def _digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


# --- tables ----------------------------------------------------------------------------------------------------------


def _moment(selection: Selection) -> Moment:
    """Return what has ended up to the position of an export, and nothing of what was open there."""
    return Moment(seq=selection.as_of_seq, committed=selection.as_of_seq, live={TASKS: [], ATTEMPTS: []})


def _bounds(selection: Selection, time: str) -> tuple[str, dict[str, Any]]:
    """Return a condition on the column *time*, and its parameters."""
    return (
        f"({time} >= epoch_ms($since) AND ($until = 0 OR {time} < epoch_ms($until)))",
        {"since": selection.since_ms, "until": selection.until_ms},
    )


def _tasks_of(selection: Selection) -> tuple[str, dict[str, Any]]:
    """Return the query of the tasks that an export is about: which ended in its time, up to its position."""
    condition, parameters = _bounds(selection, "ended_at")
    query = f"SELECT * FROM tasks WHERE ended_seq <= $as_of AND {condition} AND (len($ids::VARCHAR[]) = 0 OR list_contains($ids, task_id))"  # noqa: S608 - names of this module
    return query, {**parameters, "as_of": selection.as_of_seq, "ids": list(selection.tasks)}


def _source(selection: Selection) -> tuple[str, dict[str, Any]]:
    """Return the query of all rows of an export."""
    tasks, parameters = _tasks_of(selection)
    match selection.what:
        case What.TASKS:
            return tasks, parameters
        case What.COMMANDS:
            query = f"SELECT * REPLACE (coalesce(ended_seq, 0) AS ended_seq) FROM commands SEMI JOIN ({tasks}) AS those USING (task_id)"  # noqa: S608 - names of this module
            return query, parameters
        case _:
            condition, bounds = _bounds(selection, "stored_at")
            named = "(len($ids::VARCHAR[]) = 0 OR list_bool_or(list_transform($ids::VARCHAR[], lambda id: contains(event, id))))"
            return f"SELECT * REPLACE (event::JSON AS event) FROM events WHERE {condition} AND {named}", {**bounds, "ids": list(selection.tasks)}  # noqa: S608 - names of this module


async def task_ids(desk: Desk, selection: Selection) -> list[str]:
    """Return the ids of the tasks that an export is about, in the order in which they ended."""
    query, parameters = _tasks_of(selection)
    ordered = f"SELECT task_id FROM ({query}) ORDER BY ended_seq, task_id"  # noqa: S608 - names of this module
    return [row[0] for row in await desk.run(lambda db: db.execute(ordered, parameters).fetchall(), _moment(selection))]


async def _write_table(desk: Desk, selection: Selection, path: Path) -> int:
    source, parameters = _source(selection)
    columns = await desk.run(lambda db: _columns(db, source, parameters), _moment(selection))
    keys = _KEYS[selection.what]
    after: tuple[Any, ...] = (-1, *("" for _ in keys[1:]))
    lines, rows = path.with_name(f"{path.name}-lines"), 0
    query = _page(source, columns, keys)
    try:
        with (path if selection.format is Format.NDJSON else lines).open("wb") as file:
            while True:
                page = await desk.run(_pages(query, parameters, keys, after, file), _moment(selection))
                if page is None:
                    break
                count, after = page
                rows += count
                if file.tell() > limits.EXPORT_BYTES_MAX:
                    raise too_large()
        if selection.format is not Format.NDJSON:
            await asyncio.to_thread(_convert, lines, columns, selection.format, path)
    finally:
        lines.unlink(missing_ok=True)
    return rows


def _columns(db: duckdb.DuckDBPyConnection, source: str, parameters: dict[str, Any]) -> dict[str, str]:
    described = db.execute(f"DESCRIBE {source}", parameters).fetchall()
    return {name: kind for name, kind, *_ in described if name not in OPEN_ONLY}


def _page(source: str, columns: dict[str, str], keys: tuple[str, ...]) -> str:
    """Return the query of one page of rows as JSON texts, each behind its key."""
    fields = ", ".join(
        f"{_quoted(name)} := " + (f"strftime({_quoted(name)}, '{_TIME}')" if kind == "TIMESTAMP" else _quoted(name))
        for name, kind in columns.items()
    )
    after = ", ".join(f"$after_{key}" for key in keys)
    order = ", ".join(keys)
    return (
        f"SELECT {order}, to_json(struct_pack({fields}))::VARCHAR FROM ({source})"  # noqa: S608 - names of this module
        f" WHERE {keys[0]} >= $after_{keys[0]} AND ({order},) > ({after},) ORDER BY {order} LIMIT {ROWS_AT_ONCE}"
    )


def _pages(
    query: str, parameters: dict[str, Any], keys: tuple[str, ...], after: tuple[Any, ...], file: IO[bytes]
) -> Callable[[duckdb.DuckDBPyConnection], tuple[int, tuple[Any, ...]] | None]:
    """Return what writes the next page to *file*, and answers how many rows it had and the last one's key."""

    def write(db: duckdb.DuckDBPyConnection) -> tuple[int, tuple[Any, ...]] | None:
        given = {**parameters, **{f"after_{key}": value for key, value in zip(keys, after, strict=True)}}
        found = db.execute(query, given).fetchall()
        if not found:
            return None
        file.write("".join(f"{row[-1]}\n" for row in found).encode("utf-8", "replace"))
        return len(found), tuple(found[-1][:-1])

    return write


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _convert(lines: Path, columns: dict[str, str], form: Format, path: Path) -> None:
    """Make CSV or Parquet of NDJSON."""
    types = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
    how = f"FORMAT csv, HEADER, TIMESTAMPFORMAT '{_TIME}'" if form is Format.CSV else "FORMAT parquet, COMPRESSION zstd"
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": CONVERTING_MEMORY, "threads": 1, "temp_directory": str(path.parent / f"{path.name}-temp"),
    }
    with duckdb.connect(config=settings) as db:
        source = f"read_json($lines, format = 'newline_delimited', columns = {{{types}}})"
        db.execute(f"COPY (SELECT * FROM {source}) TO $path ({how})", {"lines": str(lines), "path": str(path)})  # noqa: S608 - names of views

"""`export`: write a part of the log's history, or of what commands left, to a file, and answer it piece by piece."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import duckdb
import msgspec

from fleetlog_reporter.answers import export_tables, export_tar
from fleetlog_reporter.answers.desk import NUMBER_MAX, Desk, NoAnswer
from fleetlog_reporter.answers.export_tar import too_large
from fleetlog_reporter.answers.find import At, with_task
from fleetlog_reporter.made import SECONDS_MAX, BeingMade, Busy, Made
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

BEHIND_SECONDS_MAX = 1.0
"""How long a question waits for a sequence: a host that fetches asks again by itself, and hears sooner that it must."""


async def export(desk: Desk, question: ExportQuestion) -> tuple[int, ExportPiece]:
    """Answer a piece of an export, which is made when its first piece is asked for. Raises NoAnswer."""
    if not 1 <= question.limit_bytes <= limits.EXPORT_PIECE_BYTES:
        raise NoAnswer(400, "bad-query", f"must be between 1 and {limits.EXPORT_PIECE_BYTES}", "/limit_bytes")
    selection, at_ms = await _selection(desk, question)
    try:
        made, data = await desk.exports.piece(
            selection, lambda path: _make(desk, selection, path), question.offset, question.limit_bytes
        )
    except BeingMade:
        raise NoAnswer(503, "export-being-made", "the export is being made: ask again") from None
    except Busy:
        raise NoAnswer(503, "busy", "other exports are being made, or fetched: ask again later") from None
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


async def _make(desk: Desk, selection: Selection, path: Path) -> Made:
    await desk.wait_for_tables(selection.as_of_seq)
    if selection.format is Format.TAR:
        rows, missing = await export_tar.write(desk, selection, await task_ids(desk, selection), path)
    elif selection.format is Format.FILE:
        rows, missing = await export_tar.write_file(desk, selection.artifact, await task_ids(desk, selection), path), 0
    elif selection.what is What.OUTPUT:
        rows, missing = await export_tar.write_lines(desk, await task_ids(desk, selection), path)
    else:
        rows, missing = await export_tables.write(desk, selection, path), 0
    size, sha256 = await asyncio.to_thread(_digest, path)
    if size > limits.EXPORT_BYTES_MAX:
        raise too_large()
    return Made(path, size, sha256, rows, missing)


def _digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


async def task_ids(desk: Desk, selection: Selection) -> list[str]:
    """Return the ids of the tasks that an export is about, in the order in which they ended."""
    query, parameters = export_tables.tasks_of(selection)
    ordered = f"SELECT task_id FROM ({query}) ORDER BY ended_seq, task_id"  # noqa: S608 - names of this package
    moment = export_tables.moment_up_to(selection.as_of_seq)
    return [row[0] for row in await desk.run(lambda db: db.execute(ordered, parameters).fetchall(), moment)]

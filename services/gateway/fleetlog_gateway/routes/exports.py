"""Exports: history, output and artifacts as one file, made by the reporter and handed on piece by piece."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import decode, limits
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.matching import has_already
from fleetlog_gateway.problems import HEADERS, FieldError, HttpProblem
from fleetlog_gateway.registry import Call, Nothing, route
from fleetlog_gateway.routes.reads import Count, Past
from fleetlog_schemas.exports import (
    ExportPiece,
    ExportQuestion,
    Format,
    Selection,
    What,
    check_selection,
    file_name_of,
    usual_format,
)
from fleetlog_schemas.spec_fields import SpecError

MEDIA_TYPES = {
    Format.NDJSON: "application/x-ndjson", Format.CSV: "text/csv; charset=utf-8", Format.PARQUET: "application/vnd.apache.parquet",
    Format.TAR: "application/x-tar", Format.FILE: "application/octet-stream",
}


_PASSING = ("export-being-made", "busy", "behind", "rebuilding", "service-unavailable", "bus-unavailable")
"""Problems that another reporter, or the same one a moment later, does not have."""


class ExportQuery(Past, frozen=True, kw_only=True):
    """What is exported, and as what."""

    format: Annotated[str, Meta(pattern="^(ndjson|csv|parquet|tar|file)?$")] = ""
    """Empty: tar of artifacts, ndjson of the rest. A file is one artifact as it is, and goes with its name."""
    artifact: Annotated[str, Meta(max_length=128)] = ""
    tasks: Annotated[str, Meta(max_length=4_000, description="full ids, with commas between them")] = ""
    since_ms: Count = 0
    until_ms: Count = 0


@route("GET", "/api/v1/exports/{what}", auth=Permission.READ, query=ExportQuery, answer=bytes,
       problems=("bad-query", "not-found", "export-being-made", "export-no-room", "busy", "too-far", "service-unavailable", "behind"))
async def export(call: Call[Nothing, ExportQuery]) -> web.StreamResponse:
    """Export `tasks`, `commands`, `events`, `output` or `artifacts` as one file.

    It is a function of the log up to `as_of` (a sequence; by default the newest), which `Fleetlog-Seq` says; times are those
    at which tasks ended, and events were stored. Its ETag is its SHA-256; `Fleetlog-Rows` says how many rows or files it
    has, `Fleetlog-Missing` how many are named in the log and not kept any more. While it is made the answer is 503: ask again.
    `If-None-Match` with the ETag of an earlier one gets 304 when this one is the same. If the connection ends before
    Content-Length is reached, what came is not whole.
    """
    gateway = call.gateway
    selection = placed(_selection(call.path["what"], call.query), max(gateway.appender.appended_seq, gateway.tail.next_seq - 1))
    piece = await piece_when_made(gateway, selection, 0, limits.EXPORT_SECONDS_MAX)
    selection = piece.selection
    headers = {
        **HEADERS, "ETag": f'"{piece.sha256}"', "Fleetlog-Seq": str(selection.as_of_seq), "Fleetlog-Rows": str(piece.rows),
        "Fleetlog-Missing": str(piece.missing),
    }
    if has_already(call.request, piece.sha256):
        return web.Response(status=304, headers=headers)
    response = web.StreamResponse(headers={
        **headers, "Content-Type": MEDIA_TYPES[selection.format],
        "Content-Disposition": f'attachment; filename="{file_name_of(selection.what, selection.format, selection.artifact)}"',
    })
    response.content_length = piece.size
    await response.prepare(call.request)
    if call.request.method != "HEAD":
        await _write(gateway, response, piece)
    await response.write_eof()
    return response


def _selection(what: str, query: ExportQuery) -> Selection:
    if what not in set(What):
        raise HttpProblem("not-found", f"there is nothing to export by this name: there are {', '.join(What)}")
    kind = What(what)
    form = Format(query.format) if query.format else Format.FILE if query.artifact else usual_format(kind)
    tasks = tuple(query.tasks.split(",")) if query.tasks else ()
    try:
        check_selection(kind, form, tasks, query.since_ms, query.until_ms, query.artifact)
    except SpecError as error:
        raise HttpProblem("bad-query", error.message, errors=[FieldError(error.pointer, error.message)]) from None
    past = decode.as_of(query.as_of)
    if past.get("as_of_ms"):
        raise decode.bad_query("as_of", "an export is made as of a sequence of the log; until_ms bounds its time")
    return Selection(
        what=kind, format=form, tasks=tasks, since_ms=query.since_ms, until_ms=query.until_ms, as_of_seq=past.get("as_of_seq", 0),
        artifact=query.artifact,
    )


def placed(selection: Selection, now_seq: int) -> Selection:
    """Return a selection that says as of which sequence: by default *now_seq*, the newest that this gateway knows.

    Fixed before it is asked for: the log grows while it is made, and each position is another export.

    Raises:
        HttpProblem: this gateway does not know of so much of the log yet.
    """
    if selection.as_of_seq > now_seq:
        raise HttpProblem("behind", f"the log was read up to {now_seq}, not yet to {selection.as_of_seq}: ask again when it has so much")
    return selection if selection.as_of_seq else msgspec.structs.replace(selection, as_of_seq=now_seq)


async def piece_when_made(gateway: Gateway, selection: Selection, offset: int, seconds_max: float) -> ExportPiece:
    """Return a piece as soon as the export is made, by whichever reporter answers. Raises HttpProblem."""
    deadline = asyncio.get_running_loop().time() + seconds_max
    while True:
        try:
            return await _piece(gateway, selection, offset)
        except HttpProblem as problem:
            if problem.code not in _PASSING or asyncio.get_running_loop().time() > deadline:
                problem.headers.setdefault("Retry-After", "1")
                raise
        await asyncio.sleep(limits.EXPORT_PAUSE_SECONDS)


async def _piece(gateway: Gateway, selection: Selection, offset: int) -> ExportPiece:
    fields = {"selection": msgspec.to_builtins(selection), "offset": offset}
    answer = await gateway.asker.report("export", ExportQuestion, fields)
    return decode.json_answer(answer.data, ExportPiece, "reporter")


async def _write(gateway: Gateway, response: web.StreamResponse, piece: ExportPiece) -> None:
    """Write all pieces; one that belongs to another file, or none, ends the connection, which says that it is not whole."""
    written, sha256 = 0, piece.sha256
    while True:
        await response.write(piece.data)
        written += len(piece.data)
        if written >= piece.size:
            return
        try:
            piece = await piece_when_made(gateway, piece.selection, written, limits.EXPORT_AGAIN_SECONDS_MAX)
        except HttpProblem as problem:
            raise ConnectionError(problem.detail) from None
        if piece.sha256 != sha256 or not piece.data:
            raise ConnectionError("the export was made anew, and differs: something of it has expired meanwhile")

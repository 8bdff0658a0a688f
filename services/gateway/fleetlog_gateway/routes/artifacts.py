"""Artifacts of builds: list them, fetch them, and say where they come from."""

from __future__ import annotations

import contextlib
from typing import Any

from aiohttp import web

from fleetlog_gateway import artifacts
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.matching import has_already
from fleetlog_gateway.problems import HEADERS, HttpProblem
from fleetlog_gateway.registry import Call, Nothing, Paged, reply, route
from fleetlog_schemas.spec import Build


@route("GET", "/api/v1/tasks/{id}/artifacts", auth=Permission.READ, answer=Paged[artifacts.ArtifactView],
       problems=("task-not-found", "service-unavailable", "behind"))
async def artifacts_of(call: Call[Nothing, Nothing]) -> web.Response:
    """List the files that a build left, by host, and until when each is kept."""
    task = await artifacts.ran(call.gateway, call.path["id"])
    return reply(Paged(await artifacts.views(call.gateway, task)))


@route("GET", "/api/v1/tasks/{id}/provenance", auth=Permission.READ, answer=dict[str, Any],
       problems=("task-not-found", "not-found", "service-unavailable", "behind"))
async def provenance(call: Call[Nothing, Nothing]) -> web.Response:
    """Say where a build's artifacts come from.

    An in-toto statement with a SLSA provenance, version 1, derived from the log: steps, inputs by digest, hosts, times.
    """
    task = await artifacts.ran(call.gateway, call.path["id"])
    if not isinstance(task.spec.payload, Build):
        raise HttpProblem("not-found", "this task is no build: only builds have a provenance")
    return reply(artifacts.provenance(task, task.spec.payload))


@route("GET", "/api/v1/tasks/{id}/artifacts/{host}/{name}", auth=Permission.READ, answer=bytes,
       problems=("bad-range", "task-not-found", "artifact-not-found", "artifact-gone", "service-unavailable", "behind"))
async def artifact(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """Fetch an artifact; `{host}` is a host's name or id.

    Its ETag is its SHA-256. One `Range` of bytes is obeyed. If the connection ends before Content-Length is reached, what
    came is not whole.
    """
    request = call.request
    task = await artifacts.ran(call.gateway, call.path["id"])
    one = artifacts.find(task, call.path["host"], call.path["name"])
    size, etag = one.artifact.size, f'"{one.artifact.sha256}"'
    headers = {**HEADERS, "ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if has_already(request, one.artifact.sha256):
        return web.Response(status=304, headers={**HEADERS, "ETag": etag})
    start, stop = _range(request.headers.get("Range", ""), size) if request.headers.get("If-Range", etag) == etag else (0, size)
    pieces = artifacts.content(call.gateway.bus, task.task_id, one)
    first = b""
    if request.method != "HEAD":
        with contextlib.suppress(StopAsyncIteration):  # what is not kept any more has no answer that has begun
            first = await anext(pieces)
    partial = (start, stop) != (0, size)
    response = web.StreamResponse(status=206 if partial else 200, headers=headers)
    if partial:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    response.content_length = stop - start
    await response.prepare(request)
    if request.method != "HEAD":
        await _write(response, first, pieces, start, stop)
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, first: bytes, pieces: Any, start: int, stop: int) -> None:
    offset, piece = 0, first
    while piece:
        if cut := piece[max(0, start - offset) : max(0, stop - offset)]:
            await response.write(cut)
        offset += len(piece)
        if offset >= stop:
            await pieces.aclose()
            return
        try:
            piece = await anext(pieces, b"")
        except HttpProblem as problem:
            raise ConnectionError(problem.detail) from None  # it has begun: the end of the connection says that it is not whole


def _range(header: str, size: int) -> tuple[int, int]:
    """Return from where to where to send; several ranges, or none that can be read, are the whole. Raises HttpProblem."""
    unit, _, span = header.partition("=")
    first, dash, last = span.strip().partition("-")
    if unit.strip() != "bytes" or not dash or not (first + last).isdecimal() or not (first + last).isascii():
        return 0, size
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        raise HttpProblem("bad-range", f"the artifact has {size} bytes", headers={"Content-Range": f"bytes */{size}"})
    return start, stop

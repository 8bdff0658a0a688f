"""Write the reference of the HTTP API from the table of routes: `python -m fleetlog_gateway.reference > docs/api.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec

import fleetlog_gateway.routes  # noqa: F401  # declares the routes
from fleetlog_gateway import problems
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.registry import REGISTRY, Nothing, Raw, Registry, Route

_HEAD = """\
# HTTP API

Generated from the gateway's table of routes by `python -m fleetlog_gateway.reference`; a test compares the two.
`GET /api/v1/openapi.json` describes the types.

Send `Authorization: Bearer TOKEN`; the token stands in `gateway/token` of the server's data folder. Answers to
questions are `{"seq": N, "data": ...}`: the data and the last log sequence that it reflects, which is never older
than what the same gateway has accepted. `as_of` (a log sequence or an RFC 3339 time) asks for a past state. Lists
come in pages: `limit`, and `cursor` with the `next_cursor` of the page before. Unknown fields and parameters are
refused. Errors are problems (RFC 9457, `application/problem+json`) with a stable `code` and `errors`, each with an
RFC 6901 `pointer`. 503 means that nothing was stored; 504 `unsettled` that nobody can tell yet: ask, or repeat the
request with the same `Idempotency-Key`. Live streams are server-sent events: `id` is the log sequence, `event` the
type, `data` a stored event; `Last-Event-ID` resumes, `: hb` comes every 15 s, and an event `reset` says that the log
does not go back that far.

While a freeze is in force, every answer to a token carries `Fleetlog-Frozen: COUNT; id=...; target=...; by=...;
since=...; reason=...`: how many there are, and the oldest one of every host, else the oldest; values are percent-encoded,
and cut after 200 characters. Whatever changes a task is answered 202 as soon as it is durably in the log; given its full
id it works without the reporter, and `checked` is then false.
"""


def reference(registry: Registry) -> str:
    """Return the reference as Markdown."""
    return "\n".join([_HEAD, *_table(registry), "", *_details(registry), *_problems()]) + "\n"


def _table(registry: Registry) -> Iterator[str]:
    yield "| method | path | needs | what it does |"
    yield "|---|---|---|---|"
    for row in registry:
        needs = "nothing" if row.auth is Permission.PUBLIC else f"`{row.auth.value}`"
        yield f"| {row.method} | `{row.path}` | {needs} | {row.summary} |"


def _details(registry: Registry) -> Iterator[str]:
    for row in registry:
        yield f"## {row.method} {row.path}\n"
        yield f"{row.summary}.\n"
        if row.description:
            yield f"{row.description}\n"
        yield from _input(row)
        streams = ", or `text/event-stream`" if row.event_stream else ""
        yield f"* Answer: {row.status}, {type_name(row.answer)}{streams}"
        if row.problems:
            yield "* Problems: " + ", ".join(f"`{code}`" for code in row.problems)
        yield ""


def _input(row: Route) -> Iterator[str]:
    if row.query is not Nothing:
        yield "* Query: " + ", ".join(f"`{field.name}`" for field in msgspec.structs.fields(row.query))
    if row.idempotent:
        yield "* Header: `Idempotency-Key`, a UUIDv7"
    if row.body is Raw:
        yield f"* Body: any bytes, at most {row.body_bytes_max}"
    elif row.body is not Nothing:
        fields = ", ".join(f"`{field.name}`" for field in msgspec.structs.fields(row.body))
        yield f"* Body: {type_name(row.body)} ({fields}){', may be empty' if row.body_optional else ''}"


def type_name(kind: Any) -> str:
    """Return a type as people write it: `Answered[Paged[TaskSummary]]`."""
    if get_origin(kind) is dict:
        return "an object"
    name = getattr(get_origin(kind) or kind, "__name__", str(kind))
    inner = ", ".join(type_name(argument) for argument in get_args(kind))
    return f"{name}[{inner}]" if inner else name


def _problems() -> Iterator[str]:
    yield "## Problem codes\n"
    yield "| code | status | title |"
    yield "|---|---|---|"
    for code, (status, title) in problems.KINDS.items():
        yield f"| `{code}` | {status} | {title} |"


if __name__ == "__main__":
    sys.stdout.write(reference(REGISTRY))

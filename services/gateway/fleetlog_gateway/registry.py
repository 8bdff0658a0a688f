"""The table of routes: what each takes, answers and needs. Requests, the reference and OpenAPI all come from it.

A route without a permission does not exist: `auth` has no default. What a handler gets is decoded and checked.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import web, web_request

from fleetlog_gateway import limits
from fleetlog_gateway.auth import Permission, Principal
from fleetlog_gateway.problems import HttpProblem

if TYPE_CHECKING:
    from fleetlog_gateway.gateway import Gateway

B = TypeVar("B")
Q = TypeVar("Q")
D = TypeVar("D")


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No body, or no query parameter."""


class Raw(msgspec.Struct, frozen=True):
    """A body that is taken as it is."""

    body: bytes


class Answered(msgspec.Struct, Generic[D], frozen=True):
    """An answer of the reporter: the data, and the last log sequence that it reflects."""

    seq: int
    data: D


class Paged(msgspec.Struct, Generic[D], frozen=True):
    """Some items; `next_cursor` asks for more, null when there are none."""

    items: list[D]
    next_cursor: str | None = None


@dataclasses.dataclass(slots=True)
class Call(Generic[B, Q]):
    """One request, checked."""

    gateway: Gateway
    request: web_request.BaseRequest
    path: dict[str, str]
    query: Q
    body: B
    principal: Principal


Handler = Callable[[Call[Any, Any]], Awaitable[web.StreamResponse]]
_H = TypeVar("_H", bound=Handler)


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """One row of the table."""

    method: str
    path: str
    handler: Handler
    auth: Permission
    body: Any
    """Type of the JSON body; Nothing: there is none; Raw: any bytes."""
    query: Any
    answer: Any
    status: int
    body_optional: bool
    body_bytes_max: int
    idempotent: bool
    """Takes an Idempotency-Key."""
    event_stream: bool
    """Answers `Accept: text/event-stream` with a live stream."""
    problems: tuple[str, ...]
    decoder: msgspec.json.Decoder[Any]

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return inspect.cleandoc(self.handler.__doc__ or "").split("\n", maxsplit=1)[0].rstrip(".")

    @property
    def description(self) -> str:
        """What follows it."""
        return inspect.cleandoc(self.handler.__doc__ or "").partition("\n")[2].strip()


class Registry:
    """Every route, in the order in which they were declared."""

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self._by_length: dict[int, list[tuple[list[str], Route]]] = {}

    def __iter__(self) -> Iterator[Route]:
        return iter(self.routes)

    def route(
        self, method: str, path: str, *, auth: Permission, body: Any = Nothing, query: Any = Nothing, answer: Any = None,
        status: int = 200, body_optional: bool = False, body_bytes_max: int = limits.JSON_BODY_BYTES_MAX,
        idempotent: bool = False, event_stream: bool = False, problems: tuple[str, ...] = (),
    ) -> Callable[[_H], _H]:
        """Declare the decorated handler as the answer to *method* on *path* (`{name}` takes one segment)."""

        def declare(handler: _H) -> _H:
            row = Route(
                method=method, path=path, handler=handler, auth=auth, body=body, query=query, answer=answer,
                status=status, body_optional=body_optional, body_bytes_max=body_bytes_max, idempotent=idempotent,
                event_stream=event_stream, problems=problems, decoder=msgspec.json.Decoder(body),
            )
            self.routes.append(row)
            segments = path.split("/")
            self._by_length.setdefault(len(segments), []).append((segments, row))
            return handler

        return declare

    def match(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """Return the route of a request and its path parameters; HEAD is answered like GET.

        Raises:
            HttpProblem: nothing is there, or it takes other methods.
        """
        given = raw_path.split("/")
        wanted = "GET" if method == "HEAD" else method
        allowed: list[str] = []
        for segments, row in self._by_length.get(len(given), []):
            parameters = _parameters(segments, given)
            if parameters is None:
                continue
            if row.method == wanted:
                return row, parameters
            allowed += [row.method, "HEAD"] if row.method == "GET" else [row.method]
        if allowed:
            raise HttpProblem(
                "method-not-allowed", f"this path takes {', '.join(allowed)}", headers={"Allow": ", ".join(allowed)}
            )
        raise HttpProblem("not-found", "no such path: see /api/v1/openapi.json for what there is")


def _parameters(segments: list[str], given: list[str]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for segment, text in zip(segments, given, strict=True):
        if segment.startswith("{"):
            found[segment[1:-1]] = unquote(text, errors="replace")
        elif segment != text:
            return None
    return found if all(found.values()) else None


REGISTRY = Registry()
route = REGISTRY.route


def reply(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return *data* as a JSON answer."""
    return web.Response(
        body=msgspec.json.encode(data), status=status, headers=headers, content_type="application/json"
    )

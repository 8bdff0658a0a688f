"""Health, version and the description of the API."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from fleetlog_gateway.auth import Permission
from fleetlog_gateway.openapi import document
from fleetlog_gateway.registry import REGISTRY, Call, Nothing, reply, route
from fleetlog_schemas.codec import READER
from fleetlog_schemas.version import VERSION


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str


class Ready(msgspec.Struct, frozen=True):
    """Whether requests can be served; each check is `ok` or says what is wrong."""

    status: str
    checks: dict[str, str]


class Version(msgspec.Struct, frozen=True):
    """What runs."""

    version: str
    api: str
    reader: int
    """The newest events that it understands."""


@route("GET", "/livez", auth=Permission.PUBLIC, answer=Alive)
async def livez(call: Call[Nothing, Nothing]) -> web.Response:
    """Say that the process answers. Needs no bearer token."""
    del call
    return reply(Alive(status="ok"))


@route("GET", "/readyz", auth=Permission.PUBLIC, answer=Ready)
async def readyz(call: Call[Nothing, Nothing]) -> web.Response:
    """Say whether the bus, the tail of the log and the reporter are there. Needs no bearer token; 503 when not."""
    checks = await call.gateway.readiness.checks()
    ready = all(text == "ok" for text in checks.values())
    return reply(Ready(status="ok" if ready else "not ready", checks=checks), status=200 if ready else 503)


@route("GET", "/api/v1/version", auth=Permission.READ, answer=Version)
async def version(call: Call[Nothing, Nothing]) -> web.Response:
    """Say which version runs."""
    del call
    return reply(Version(version=VERSION, api="v1", reader=READER))


@route("GET", "/api/v1/openapi.json", auth=Permission.READ, answer=dict[str, Any])
async def openapi(call: Call[Nothing, Nothing]) -> web.Response:
    """Return this description as OpenAPI 3.1."""
    del call
    return reply(document(REGISTRY, VERSION))

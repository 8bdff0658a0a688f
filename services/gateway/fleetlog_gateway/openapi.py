"""The API described as OpenAPI 3.1, from the table of routes and the types it names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from fleetlog_gateway import problems
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.registry import Nothing, Raw, Route

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)\}")


def document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """Return the whole description."""
    rows = list(routes)
    bodies = [row.body for row in rows if row.body not in (Nothing, Raw)]
    answers = [row.answer for row in rows]
    kinds = [*bodies, *answers, problems.Body]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    by_kind = dict(zip(map(repr, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, by_kind)
    return {
        "openapi": "3.1.1",
        "info": {"title": "fleetlog", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "security": [{"bearer": []}],
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {
                    "description": "Why there is no answer (RFC 9457)",
                    "content": {problems.MEDIA_TYPE: {"schema": by_kind[repr(problems.Body)]}},
                }
            },
        },
    }


def _operation(row: Route, by_kind: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": by_kind[repr(row.answer)]}}
    if row.event_stream:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    responses: dict[str, Any] = {str(row.status): {"description": row.summary, "content": content}}
    for status in sorted({problems.KINDS[code][0] for code in row.problems}):
        responses[str(status)] = {"$ref": "#/components/responses/Problem"}
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    described: dict[str, Any] = {
        "operationId": row.handler.__name__, "summary": row.summary, "parameters": _parameters(row),
        "responses": responses,
    }
    if row.description:
        described["description"] = row.description
    if row.auth is Permission.PUBLIC:
        described["security"] = []
    if row.body is Raw:
        described["requestBody"] = {"required": True, "content": {"application/octet-stream": {"schema": {}}}}
    elif row.body is not Nothing:
        described["requestBody"] = {
            "required": not row.body_optional, "content": {"application/json": {"schema": by_kind[repr(row.body)]}},
        }
    return described


def _parameters(row: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(row.path)
    ]
    schema = msgspec.json.schema(row.query)
    fields = schema["$defs"][row.query.__name__]
    for name, described in fields.get("properties", {}).items():
        found.append({"name": name, "in": "query", "required": name in fields.get("required", ()), "schema": described})
    if row.idempotent:
        found.append({"name": "Idempotency-Key", "in": "header", "required": False,
                      "schema": {"type": "string", "format": "uuid"}})
    if row.event_stream:
        found.append({"name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "integer"}})
    return found

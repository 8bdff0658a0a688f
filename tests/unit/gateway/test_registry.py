"""The table of routes, and what is generated from it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import fleetlog_gateway.routes  # noqa: F401  # declares the routes
from fleetlog_gateway import problems
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.openapi import document
from fleetlog_gateway.problems import HttpProblem
from fleetlog_gateway.reference import reference
from fleetlog_gateway.registry import REGISTRY

REFERENCE = Path(__file__).parents[3] / "docs" / "api.md"
PUBLIC = {("GET", "/livez"), ("GET", "/readyz"), ("GET", "/api/v1/ca"), ("POST", "/api/v1/join")}


def test_only_the_listed_routes_need_no_token() -> None:
    assert {(row.method, row.path) for row in REGISTRY if row.auth is Permission.PUBLIC} == PUBLIC


def test_what_changes_something_needs_more_than_reading() -> None:
    writing = {(row.path, row.auth) for row in REGISTRY if row.method != "GET"}
    assert {path for path, auth in writing if auth is Permission.READ} == {
        "/api/v1/definitions/{name}/plan", "/api/v1/files/check", "/api/v1/plan",
        "/api/v1/schedules/preview", "/api/v1/schedules/what-if",
    }


def test_the_reference_is_what_the_table_says() -> None:
    assert REFERENCE.read_text() == reference(REGISTRY), (
        "run `python -m fleetlog_gateway.reference > docs/api.md`"
    )


def test_no_two_routes_answer_to_the_same() -> None:
    rows = [(row.method, row.path) for row in REGISTRY]
    assert len(rows) == len(set(rows))
    names = [row.handler.__name__ for row in REGISTRY]
    assert len(names) == len(set(names)), "operationId must be unique"


def test_every_problem_that_a_route_names_exists() -> None:
    assert {code for row in REGISTRY for code in row.problems} <= set(problems.KINDS)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/v1/tasks/abc/events", {"id": "abc"}), ("HEAD", "/livez", {}),
        ("GET", "/api/v1/tasks/a%2Fb", {"id": "a/b"}), ("POST", "/api/v1/tasks/batch", {}),
        ("POST", "/api/v1/tasks/cancel-all", {}), ("DELETE", "/api/v1/windows/nights", {"name": "nights"}),
    ],
)
def test_a_request_finds_its_route(method: str, path: str, expected: dict[str, str]) -> None:
    assert REGISTRY.match(method, path)[1] == expected


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/", 404, None), ("GET", "/api/v1/tasks/", 404, None), ("GET", "/api/v1/tasks//events", 404, None),
        ("GET", "/api/v1/../livez", 404, None), ("DELETE", "/api/v1/tasks", 405, "GET, HEAD, POST"),
        ("OPTIONS", "/livez", 405, "GET, HEAD"), ("PUT", "/api/v1/join", 405, "POST"), ("get", "/livez", 405, "GET, HEAD"),
    ],
)
def test_what_is_not_in_the_table_is_refused(method: str, path: str, status: int, allow: str | None) -> None:
    with pytest.raises(HttpProblem) as caught:
        REGISTRY.match(method, path)
    assert caught.value.status == status
    assert caught.value.headers.get("Allow") == allow


def test_openapi_describes_every_route_and_every_reference_leads_somewhere() -> None:
    described = document(REGISTRY, "1.2.3")
    assert described["openapi"].startswith("3.1")
    for row in REGISTRY:
        operation = described["paths"][row.path][row.method.lower()]
        assert operation["summary"]
        assert str(row.status) in operation["responses"]
        assert {p["name"] for p in operation["parameters"] if p["in"] == "path"} == {
            piece[1:-1] for piece in row.path.split("/") if piece.startswith("{")
        }
    text = msgspec.json.encode(described).decode()
    for name in {piece.split('"')[0] for piece in text.split('"#/components/schemas/')[1:]}:
        assert name in described["components"]["schemas"]


def test_every_list_is_bounded_and_every_query_refuses_what_it_does_not_know() -> None:
    for row in REGISTRY:
        assert row.query.__struct_config__.forbid_unknown_fields, row.path
        for name, field in msgspec.json.schema(row.query)["$defs"][row.query.__name__].get("properties", {}).items():
            bounded = {"maximum", "maxLength", "pattern"} & set(field)
            assert bounded, f"{row.path} {name}"

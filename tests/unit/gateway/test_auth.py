"""Tokens, permissions, and what happens to those who guess."""

from __future__ import annotations

import pytest

from fleetlog_gateway import limits
from fleetlog_gateway.auth import FailureLimit, Permission, Principal, Refusals, Tokens
from fleetlog_gateway.problems import HttpProblem

OWNER = Principal(name="owner")
READER = Principal(name="reader", permissions=frozenset({Permission.READ}))
TOKENS = Tokens([("flt_one", OWNER), ("flt_two", READER)])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Bearer flt_one", OWNER), ("bearer flt_two", READER), ("  Bearer   flt_one ", OWNER),
        ("", None), ("Bearer", None), ("Bearer ", None), ("Basic flt_one", None), ("flt_one", None),
        ("Bearer flt_on", None), ("Bearer flt_one2", None), ("Bearer FLT_ONE", None), ("Bearer \udcff", None),
    ],
)
def test_a_header_stands_for_whoever_holds_its_token(header: str, expected: Principal | None) -> None:
    assert TOKENS.principal(header) is expected


def test_a_permission_that_is_not_held_is_refused() -> None:
    READER.require(Permission.READ)
    with pytest.raises(HttpProblem) as caught:
        READER.require(Permission.RUN)
    assert (caught.value.status, caught.value.code) == (403, "forbidden")


def failures(limit: FailureLimit, count: int, now_ms: int, remote: str = "10.0.0.1") -> list[str]:
    found = []
    for _ in range(count):
        try:
            limit.failed(remote, now_ms)
            found.append("counted")
        except HttpProblem as problem:
            found.append(f"{problem.status} {problem.headers['Retry-After']}")
    return found


def test_a_remote_that_fails_too_often_is_told_when_to_come_again() -> None:
    limit = FailureLimit()
    assert set(failures(limit, limits.AUTH_FAILURES_MAX, 1_000)) == {"counted"}
    assert failures(limit, 2, 31_000) == ["429 30", "429 30"]
    assert failures(limit, 1, 31_000, "10.0.0.2") == ["counted"]
    assert failures(limit, 1, 61_000) == ["counted"]


def test_remotes_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REMOTES_MAX", 2)
    monkeypatch.setattr(limits, "AUTH_FAILURES_MAX", 1)
    limit = FailureLimit()
    for remote in ("a", "b", "c"):
        failures(limit, 1, 1_000, remote)
    assert failures(limit, 1, 1_000, "b") == ["429 60"]
    assert failures(limit, 1, 1_000, "a") == ["counted"]


def test_refusals_are_counted_by_minute_and_reason_and_handed_out_once() -> None:
    refusals = Refusals()
    refusals.count("token", 59_999)
    refusals.count("token", 0)
    refusals.count("host-name", 60_000)
    assert refusals.take(before_minute=1) == [(0, {"token": 2})]
    assert bool(refusals)
    assert refusals.take(before_minute=2) == [(1, {"host-name": 1})]
    assert not refusals


def test_refusals_that_could_not_be_stored_are_added_to_the_newest_minute() -> None:
    refusals = Refusals()
    refusals.count("token", 120_000)
    refusals.put_back(0, {"token": 3, "no-token": 1})
    assert refusals.take(before_minute=9) == [(2, {"token": 4, "no-token": 1})]

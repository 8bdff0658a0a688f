"""Who may do what: bearer tokens, permissions, the limit of failed tries, and the count of refusals.

Pure: time is an argument. A token is compared by its hash and in constant time; it is never kept or logged.
A right token always passes, also from an address whose tries are limited: a stranger behind the same address must
not lock out the owner, and 256 random bits are not found by trying.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from fleetlog_gateway import limits
from fleetlog_gateway.problems import HttpProblem


class Permission(StrEnum):
    """What a token may allow. `public` needs no token."""

    PUBLIC = "public"
    READ = "read"
    """Ask for tasks, output, events, hosts, statistics."""
    RUN = "run"
    """Submit, rerun, steer and cancel tasks and store what they run; definitions; freezes, windows, limits of queues; see to alerts."""
    HOSTS = "hosts"
    """Invite, label, accept and revoke hosts; webhooks, by which what happens leaves the system."""
    SQL = "sql"
    """Statements on the projection, and its verification."""


EVERYTHING = frozenset(Permission)


class Principal(msgspec.Struct, frozen=True):
    """Who asks: the name that the log keeps as `authid`."""

    name: str
    permissions: frozenset[Permission] = EVERYTHING

    def require(self, permission: Permission) -> None:
        """Refuse what this principal may not do. Raises HttpProblem."""
        if permission not in self.permissions:
            raise HttpProblem("forbidden", f"this token has no permission `{permission}`")


NOBODY = Principal(name="", permissions=frozenset({Permission.PUBLIC}))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class Tokens:
    """The tokens that are accepted, as hashes."""

    def __init__(self, principals: Iterable[tuple[str, Principal]]) -> None:
        """Take pairs of token and whom it stands for."""
        self._known = [(_digest(token), principal) for token, principal in principals]

    def principal(self, authorization: str) -> Principal | None:
        """Return who sent this `Authorization` header, or None."""
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() != "bearer":
            return None
        given, found = _digest(token.strip()), None
        for digest, principal in self._known:  # every one is compared, so that time tells nothing
            if hmac.compare_digest(digest, given):
                found = principal
        return found


class FailureLimit:
    """Failed authentications of each remote address, in fixed windows."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, int]] = {}
        """Remote to (start of its window in Unix milliseconds, failures)."""

    def failed(self, remote: str, now_ms: int) -> None:
        """Count one failure. Raises HttpProblem when the remote has had too many in this window."""
        window_ms = limits.AUTH_WINDOW_SECONDS * 1000
        started_ms, count = self._failed.pop(remote, (now_ms, 0))
        if not 0 <= now_ms - started_ms < window_ms:
            started_ms, count = now_ms, 0
        self._failed[remote] = (started_ms, min(count + 1, limits.AUTH_FAILURES_MAX + 1))
        while len(self._failed) > limits.REMOTES_MAX:
            del self._failed[next(iter(self._failed))]
        if count >= limits.AUTH_FAILURES_MAX:
            wait_seconds = max(1, math.ceil((started_ms + window_ms - now_ms) / 1000))
            raise HttpProblem(
                "too-many-failures", f"too many failed authentications: try again in {wait_seconds} s",
                headers={"Retry-After": str(wait_seconds)},
            )


class Refusals:
    """How many requests were refused for who asked, by minute and reason, until the log has them."""

    def __init__(self) -> None:
        self._by_minute: dict[int, dict[str, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_minute)

    def count(self, reason: str, now_ms: int) -> None:
        """Count one refusal."""
        counts = self._by_minute.setdefault(now_ms // 60_000, {})
        counts[reason] = counts.get(reason, 0) + 1

    def take(self, before_minute: int) -> list[tuple[int, dict[str, int]]]:
        """Return and forget the minutes before *before_minute*, oldest first."""
        minutes = sorted(minute for minute in self._by_minute if minute < before_minute)
        return [(minute, self._by_minute.pop(minute)) for minute in minutes]

    def put_back(self, minute: int, counts: dict[str, int]) -> None:
        """Keep what could not be stored; while the bus is away it all becomes one minute, so that it stays small."""
        merged = self._by_minute.setdefault(max([minute, *self._by_minute]), {})
        for reason, count in counts.items():
            merged[reason] = merged.get(reason, 0) + count

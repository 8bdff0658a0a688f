"""Which version a change rests on, and which content is there already: `If-Match` and `If-None-Match`.

Of two people who change the same version one gets 412 and loses nothing: the check is made where the append is decided.
"""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import web_request

from fleetlog_gateway.decode import if_match
from fleetlog_gateway.problems import HttpProblem
from fleetlog_schemas.codec import rfc3339


class Present(NamedTuple):
    """What is there, and who made it so."""

    what: str
    version: int
    changed_by: str = ""
    changed_ms: int = 0


def etag(version: int) -> dict[str, str]:
    """Return the header that names a version."""
    return {"ETag": f'"{version}"'}


def has_already(request: web_request.BaseRequest, tag: str) -> bool:
    """Tell whether whoever asks has this content: its ETag, without quotes, is among those of `If-None-Match`."""
    return any(one.value in (tag, "*") for one in request.if_none_match or ())


def check_said(request: web_request.BaseRequest, present: Present) -> str:
    """Return which version a request rests on, or `*`. Raises HttpProblem when it does not say."""
    version = if_match(request)
    if version is None:
        raise HttpProblem(
            "version-missing", f"{present.what} exists, version {present.version}: say which version you changed: send If-Match with the ETag"
            ' that it had ("3"), or * for any', version=present.version,
        )
    return version


def check_match(request: web_request.BaseRequest, present: Present, *, changed_code: str = "version-changed") -> None:
    """Refuse a request that rests on another version, or does not say on which. Raises HttpProblem."""
    version = check_said(request, present)
    if version not in ("*", str(present.version)):
        who = f", changed by {present.changed_by or 'nobody named'} at {rfc3339(present.changed_ms)}" if present.changed_ms else ""
        raise HttpProblem(
            changed_code, f"version {version} was meant, and by now it is {present.version}{who}: look at what changed, then send it again",
            version=present.version, headers=etag(present.version),
        )


def check_absent(request: web_request.BaseRequest, what: str) -> None:
    """Refuse a request that rests on a version of what is not there. Raises HttpProblem."""
    if (version := if_match(request)) not in (None, "*"):
        raise HttpProblem("version-changed", f"version {version} of {what} was meant, and there is none by now", version=0)

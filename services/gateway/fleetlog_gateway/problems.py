"""Problems over HTTP (RFC 9457): one exception, one table of codes, one rendering.

A problem says what was wrong, where (`errors`, each with an RFC 6901 pointer) and what to do. It never carries a
traceback or a secret. `code` is stable and for programs; `detail` is for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from fleetlog_schemas import questions

MEDIA_TYPE = "application/problem+json"
TEXT_MAX = 400
"""Characters of a message: some of them quote what was sent."""

HEADERS: Mapping[str, str] = {
    "Server": "fleetlog",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""On every response."""

KINDS: dict[str, tuple[int, str]] = {
    "malformed-request": (400, "The request is not HTTP as it should be"),
    "malformed-json": (400, "The body is not JSON"),
    "bad-query": (400, "A query parameter is wrong"),
    "bad-header": (400, "A header is wrong"),
    "idempotency-key": (400, "The Idempotency-Key is not a UUIDv7"),
    "unauthenticated": (401, "A bearer token is needed"),
    "forbidden": (403, "This token may not do that"),
    "join-token": (403, "The join token is not accepted"),
    "key-revoked": (403, "This key was revoked"),
    "not-found": (404, "There is nothing here"),
    "task-not-found": (404, "There is no such task"),
    "host-not-found": (404, "There is no such host"),
    "freeze-not-found": (404, "There is no such freeze"),
    "window-not-found": (404, "There is no such window"),
    "definition-not-found": (404, "There is no such definition"),
    "schedule-not-found": (404, "There is no such schedule"),
    "artifact-not-found": (404, "There is no such artifact"),
    "version-not-found": (404, "There is no such version of this definition"),
    "method-not-allowed": (405, "This path does not take that method"),
    "conflict": (409, "Somebody else changed this at the same time"),
    "task-ended": (409, "The task has already ended"),
    "not-ended": (409, "The task has not ended yet"),
    "task-stopping": (409, "The task is being stopped already"),
    "on-hold": (409, "The task is on hold already"),
    "not-on-hold": (409, "The task is not on hold"),
    "nothing-to-approve": (409, "No wave of the task waits for approval"),
    "nothing-to-skip": (409, "None of these hosts waits"),
    "nothing-to-rerun": (409, "No host is left to run again"),
    "name-taken": (409, "A host of this name exists"),
    "key-enrolled": (409, "A host with this key exists"),
    "host-revoked": (409, "The host was revoked"),
    "join-token-used": (409, "The join token was already used"),
    "too-many-invitations": (409, "Too many open invitations"),
    "too-many-policies": (409, "Too many freezes, windows or limits of queues"),
    "file-not-found": (404, "There is no such task file"),
    "too-many-files": (409, "Too many task files"),
    "alert-not-found": (404, "There is no such alert"),
    "alert-state": (409, "The alert is resolved"),
    "webhook-not-found": (404, "There is no such webhook"),
    "too-many-webhooks": (409, "Too many webhooks"),
    "definition-exists": (409, "A definition of this name exists"),
    "schedule-state": (409, "The schedule is in another state"),
    "too-many-schedules": (409, "Too many schedules"),
    "too-many-definitions": (409, "Too many definitions"),
    "artifact-gone": (410, "The artifact is not kept any more"),
    "version-changed": (412, "There is another version by now"),
    "schedule-changed": (412, "The schedule was changed by now"),
    "body-too-large": (413, "The body is too large"),
    "media-type": (415, "The body is of a type that this path does not take"),
    "bad-range": (416, "There are no such bytes"),
    "misdirected": (421, "This gateway does not answer to that host name"),
    "invalid": (422, "A field is wrong"),
    "function-unknown": (422, "No host offers this function"),
    "function-arguments": (422, "The function does not take these arguments"),
    "too-far": (422, "This is too much of the past for one answer"),
    "version-missing": (428, "Say which version is meant, by If-Match"),
    "task-id-time": (422, "The task id is too old or too far ahead"),
    "idempotency-key-reused": (422, "The Idempotency-Key was used for another request"),
    "too-many-failures": (429, "Too many failed authentications"),
    "internal": (500, "Something is wrong inside the gateway"),
    "archive-missing": (503, "A part of the log cannot be read from the archive"),
    "bus-unavailable": (503, "The bus cannot be reached: nothing was stored"),
    "service-unavailable": (503, "A service that is needed does not answer"),
    "busy": (503, "Too much is asked for at once"),
    "export-no-room": (507, "There is no room for the export"),
    "export-being-made": (503, "The export is being made"),
    "too-many-streams": (503, "Too many live streams"),
    "stopping": (503, "The gateway is stopping"),
    "unsettled": (504, "It is not known whether this was stored"),
    "behind": (504, "The answer is not up to date yet"),
    "log-full": (507, "The log has no room for new tasks"),
}
"""Code to status and title."""


class FieldError(msgspec.Struct, frozen=True):
    """One thing that is wrong, and where: an RFC 6901 pointer into the body, or `/name` of a query parameter."""

    pointer: str
    message: str


class Body(msgspec.Struct, frozen=True):
    """An RFC 9457 problem as it is sent."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: tuple[FieldError, ...] = ()
    task_id: str | msgspec.UnsetType = msgspec.UNSET
    """With `unsettled`: the task to ask for."""
    version: int | msgspec.UnsetType = msgspec.UNSET
    """With `version-changed` and `definition-exists`: the present one."""


class HttpProblem(Exception):
    """Why a request has no answer."""

    def __init__(
        self, code: str, detail: str, *, errors: Iterable[FieldError] = (), headers: Mapping[str, str] | None = None,
        status: int = 0, task_id: str = "", version: int = 0,
    ) -> None:
        super().__init__(detail)
        known = KINDS.get(code, (status or 500, "The request was refused"))
        self.code = code
        self.status = status or known[0]
        self.title = known[1]
        self.detail = clip(detail)
        self.errors = tuple(FieldError(error.pointer, clip(error.message)) for error in errors)
        self.headers = dict(headers or {})
        self.task_id = task_id
        self.version = version

    def body(self, instance: str) -> bytes:
        """Return the JSON of this problem about the request to *instance* (a path)."""
        return msgspec.json.encode(
            Body(
                type=f"urn:fleetlog:problem:{self.code}", title=self.title, status=self.status, detail=self.detail,
                instance=clip(instance), code=self.code, errors=self.errors, task_id=self.task_id or msgspec.UNSET,
                version=self.version or msgspec.UNSET,
            )
        )


def clip(text: str) -> str:
    """Return *text* as valid UTF-8 of bounded length: messages quote what strangers sent."""
    return text[:TEXT_MAX].encode("utf-8", "replace").decode()


def invalid(pointer: str, message: str) -> HttpProblem:
    """Return the problem of one wrong field."""
    return HttpProblem("invalid", message, errors=[FieldError(pointer, message)])


def from_answer(problem: questions.Problem) -> HttpProblem:
    """Return the problem that another service answered with, as it is."""
    status = problem.status if 400 <= problem.status <= 599 else 500
    errors = [FieldError(problem.pointer, problem.message)] if problem.pointer else []
    return HttpProblem(problem.code, problem.message, errors=errors, status=status)


_AT = re.compile(r"(.*?)(?: - at `(key in )?(\$[^`]*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (?:contains unknown|missing required) field `(.*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")


def from_validation(text: str) -> FieldError:
    """Return where and why msgspec refused a value, from the text of its error.

    A key of a map is not named in the text: the pointer then ends at the map.
    """
    matched = _AT.fullmatch(text)
    message, path = (matched[1], matched[3] or "") if matched else (text, "")
    pointer = ""
    for name, index in _STEP.findall(path):
        if index == "...":
            break
        pointer += "/" + (index or escape(name))
    field = _FIELD.fullmatch(message)
    if field:
        pointer += "/" + escape(field[1][:100])
    return FieldError(pointer, clip(message))


def escape(token: str) -> str:
    """Return one step of an RFC 6901 pointer."""
    return token.replace("~", "~0").replace("/", "~1")

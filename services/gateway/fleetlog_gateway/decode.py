"""From what a client sent to typed values: bodies, queries, ids. Everything that is wrong becomes a problem."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web, web_request
from msgspec import Meta

from fleetlog_gateway import limits
from fleetlog_gateway.problems import FieldError, HttpProblem, from_validation, invalid
from fleetlog_schemas import hostset, ids
from fleetlog_schemas.codec import Malformed, parse_rfc3339
from fleetlog_schemas.limits import REASON_BYTES_MAX, TASK_ID_AGE_MS_MAX, TASK_ID_AHEAD_MS_MAX
from fleetlog_schemas.spec import SpecError, TaskSpec, check_spec

T = TypeVar("T")
_TAG = re.compile(r'"([0-9]{1,17})"|([0-9]{1,17})|\*')
Reason = Annotated[str, Meta(max_length=REASON_BYTES_MAX)]
"""Why somebody does something; `check_reason` counts its bytes."""


async def read_body(request: web_request.BaseRequest, bytes_max: int) -> bytes:
    """Return the body as it was sent.

    Raises:
        HttpProblem: it is too large, compressed, broken or too slow.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise HttpProblem("media-type", f"send the body as it is, not compressed ({encoding[:40]})")
    if request.content_length is not None and request.content_length > bytes_max:
        raise _too_large(bytes_max)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    chunks: list[bytes] = []
    total = 0
    try:
        async with asyncio.timeout(limits.BODY_READ_SECONDS_MAX):
            async for chunk in request.content.iter_any():
                total += len(chunk)
                if total > bytes_max:
                    raise _too_large(bytes_max)
                chunks.append(chunk)
    except TimeoutError:
        raise HttpProblem("malformed-request", "the body did not arrive in time") from None
    except web.RequestPayloadError:
        raise HttpProblem("malformed-request", "the body is not framed as HTTP says") from None
    return b"".join(chunks)


def _too_large(bytes_max: int) -> HttpProblem:
    return HttpProblem("body-too-large", f"a body on this path has at most {bytes_max} bytes")


def check_json_type(request: web_request.BaseRequest) -> None:
    """Take JSON only: a page of another origin can send forms and text without asking, but not JSON."""
    if request.content_type != "application/json":
        raise HttpProblem("media-type", "send the body with Content-Type: application/json")


def json_body(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the value of a JSON body.

    Raises:
        HttpProblem: it is not JSON, or not of the type.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        wrong = from_validation(str(error))
        raise HttpProblem("invalid", wrong.message, errors=[wrong]) from None
    except RecursionError:
        raise HttpProblem("malformed-json", "the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HttpProblem("malformed-json", str(error)) from None


def query(request: web_request.BaseRequest, kind: type[T]) -> T:
    """Return the query parameters as *kind*.

    Raises:
        HttpProblem: one is unknown, wrong or given twice.
    """
    given: dict[str, str] = {}
    for name, value in request.rel_url.query.items():
        if name in given:
            raise bad_query(name, "given twice")
        given[name] = value
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        wrong = from_validation(str(error))
        raise HttpProblem("bad-query", f"{wrong.pointer.strip('/')}: {wrong.message}", errors=[wrong]) from None


def bad_query(name: str, message: str) -> HttpProblem:
    """Return the problem of one wrong query parameter."""
    return HttpProblem("bad-query", f"{name[:100]}: {message}", errors=[FieldError(f"/{name[:100]}", message)])


def as_of(text: str) -> dict[str, int]:
    """Return the fields of a question that say which past state is meant: a log sequence or an RFC 3339 time."""
    if not text:
        return {}
    if text.isascii() and text.isdigit():
        if not 0 < int(text[:20]) < 2**63:
            raise bad_query("as_of", "a log sequence is between 1 and 2^63-1")
        return {"as_of_seq": int(text), "at_least_seq": int(text)}
    try:
        return {"as_of_ms": parse_rfc3339(text.replace(" ", "+"))}  # a plus sign in a query reads as a space
    except (Malformed, OverflowError) as error:
        raise bad_query("as_of", f"a log sequence or an RFC 3339 time: {error}") from None


def idempotency_key(request: web_request.BaseRequest) -> str | None:
    """Return the UUIDv7 of the Idempotency-Key header, quoted or not; None when there is none."""
    values = request.headers.getall("Idempotency-Key", [])
    if not values:
        return None
    if len(values) > 1:
        raise HttpProblem("idempotency-key", "send one Idempotency-Key")
    text = values[0].strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    try:
        ids.id_ms(text)
    except ids.InvalidId as error:
        raise HttpProblem("idempotency-key", f"the Idempotency-Key must be a UUIDv7: {error}") from None
    if ids.is_made(text):
        raise HttpProblem("idempotency-key", "the Idempotency-Key must be a UUIDv7: ids of version 8 are made by fleetlog itself")
    return text


def if_match(request: web_request.BaseRequest) -> str | None:
    """Return the one ETag of the If-Match header without its quotes, or `*`; None when there is none. Raises HttpProblem."""
    given = request.headers.getall("If-Match", [])
    if not given:
        return None
    match = _TAG.fullmatch(given[0].strip())
    if len(given) > 1 or match is None:
        raise HttpProblem("bad-header", 'If-Match is one ETag, as "3", or *')
    tag = match[1] or match[2]
    return str(int(tag)) if tag else "*"


def check_task_id_time(task_id: str, now_ms: int, pointer: str) -> None:
    """Refuse what every reader of the log would refuse: an id too old or too far ahead. Raises HttpProblem."""
    made_ms = ids.id_ms(task_id)
    if made_ms < now_ms - TASK_ID_AGE_MS_MAX:
        message = f"the task id {task_id} is older than {TASK_ID_AGE_MS_MAX // 3_600_000} h: make a new one"
    elif made_ms > now_ms + TASK_ID_AHEAD_MS_MAX:
        message = f"the task id {task_id} is from the future: check the clock of this machine"
    else:
        return
    raise HttpProblem("task-id-time", message, errors=[FieldError(pointer, message)] if pointer else [])


def check_reason(reason: str, *, required: bool = False) -> str:
    """Return a reason without blanks around it. Raises HttpProblem when it is too long, or needed and missing."""
    text = reason.strip()
    if len(text.encode("utf-8", "replace")) > REASON_BYTES_MAX:
        raise invalid("/reason", f"a reason has at most {REASON_BYTES_MAX} bytes: it is kept in the log for ever")
    if required and not text:
        raise invalid("/reason", "say why: everybody who is held up by this will read it")
    return text


def check_task(spec: TaskSpec, prefix: str) -> None:
    """Check what types cannot express of a specification; *prefix* is the pointer to it. Raises HttpProblem."""
    try:
        check_spec(spec)
        if spec.rerun_of is not None:
            ids.id_ms(spec.rerun_of)
    except SpecError as error:
        raise HttpProblem("invalid", error.message, errors=[FieldError(prefix + error.pointer, error.message)]) from None
    except ids.InvalidId as error:
        raise invalid(f"{prefix}/rerun_of", str(error)) from None
    except UnicodeEncodeError:
        raise invalid(prefix, "every text must be valid UTF-8") from None


def expanded(text: str, pointer: str) -> list[str]:
    """Return the host names that a folded name (`web[01-40]`) stands for. Raises HttpProblem."""
    try:
        return list(hostset.expand(text))
    except (hostset.BadRange, ValueError) as error:
        raise invalid(pointer, str(error)) from None


def is_task_id(text: str) -> bool:
    """Tell whether this is the full id of a task."""
    try:
        ids.id_ms(text)
    except ids.InvalidId:
        return False
    return True


def json_answer(data: msgspec.Raw, kind: type[T], service: str) -> T:
    """Return the data of an answer as *kind*; data of another shape is that service's fault. Raises HttpProblem."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HttpProblem("internal", f"the {service} answered in a form that cannot be read here: {error}") from None


def optional_answer(data: msgspec.Raw, kind: type[T], service: str) -> T | None:
    """Return the data of an answer as *kind*, or None where it is null. Raises HttpProblem."""
    return None if bytes(data) == b"null" else json_answer(data, kind, service)

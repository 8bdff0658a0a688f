"""The one way in and out of stored bytes: CloudEvents 1.0, JSON, structured mode.

Encoding checks size; decoding is strict about form and never raises anything but `Malformed` and `TooNew`.
Source of the format: CloudEvents 1.0 (JSON event format) and its NATS protocol binding.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, cast

import msgspec

from fleetlog_schemas import (
    alert_events,
    archive_events,
    control_events,
    definition_events,
    events,
    file_events,
    host_events,
    limits,
    policy_events,
    schedule_events,
    workflow_events,
)
from fleetlog_schemas.spec import Build, Export, Function, TaskSpec, Workflow

CONTENT_TYPE = "application/cloudevents+json"
READER = 2
"""What this code can read: events may ask for more by `minreader`. 2 (0.3.0): tasks that are runs of a definition; the
log's past may be in the archive."""


class Malformed(ValueError):
    """Bytes that are not an event; the message says what is wrong. Such a message is parked, never guessed at."""


class TooNew(Exception):
    """An event of an unknown type, or one that asks for a newer reader.

    `minreader` is above READER when a decider must stop; otherwise a reader keeps it and goes on.
    """

    def __init__(self, event_type: str, minreader: int) -> None:
        super().__init__(
            f"event {event_type} needs reader {minreader}, this is reader {READER}: upgrade fleetlog"
            if minreader > READER
            else f"event type {event_type} is unknown to this version"
        )
        self.event_type = event_type
        self.minreader = minreader


class _Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    specversion: str
    id: str
    source: str
    type: str
    time: str
    data: msgspec.Raw
    subject: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    authid: str | None = None
    traceparent: str | None = None
    minreader: int = 1


class Event(msgspec.Struct, frozen=True):
    """One event before it is stored, or as it was read; `seq` and `time_ms` are 0 until the log gave them."""

    id: str
    source: str
    data: events.Data
    time_ms: int
    """Written by its author; once stored, the log's own time replaces it."""
    seq: int = 0
    subject: str = ""
    authid: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None
    batch_end: bool = True
    """Whether the atomic batch that carried it ends here: readers checkpoint only at such places."""


_LAST_MS = 253_402_300_799_999
"""The end of the year 9999. A hostile host may report any number, and it must still be shown."""

TYPES_ELSEWHERE = (
    control_events, host_events, policy_events, definition_events, schedule_events, workflow_events, alert_events, file_events,
    archive_events,
)
"""Modules beside `events.py` that enter types into the registry."""

_encode = msgspec.json.Encoder().encode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decoders: dict[str, Callable[[bytes | msgspec.Raw], events.Data]] = {
    name: cast("Callable[[bytes | msgspec.Raw], events.Data]", msgspec.json.Decoder(row.data).decode)
    for name, row in events.REGISTRY.items()
}
_upcasts: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
"""Old stored type to (newer type, how its data reads in the newer form). Applied until a current type is reached."""


def rfc3339(time_ms: int) -> str:
    """Return Unix milliseconds as RFC 3339 in UTC with milliseconds; a time beyond the years 1970-9999 is their edge."""
    seconds, rest = divmod(min(max(time_ms, 0), _LAST_MS), 1000)
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def parse_rfc3339(text: str) -> int:
    """Return the Unix milliseconds of an RFC 3339 time.

    Raises:
        Malformed: it is not one, or has no time zone.
    """
    try:
        moment = dt.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise Malformed(f"a time needs a zone (Z): {text[:40]!r}")
        return round(moment.timestamp() * 1000)
    except Malformed:
        raise
    except (ValueError, OverflowError):
        raise Malformed(f"not an RFC 3339 time: {text[:40]!r}") from None


def minreader(data: events.Data) -> int:
    """Return the oldest reader that may decide over *data*.

    What an older one cannot read of a known type it would park, and decide as if it were not there.
    """
    if isinstance(data, events.TasksSubmitted) and any(one.part_of or _is_new(one.spec) for one in data.tasks):
        return 2
    if isinstance(data, control_events.CancelRequested) and data.parts:
        return 2
    return events.REGISTRY[events.NAMES[type(data)]].minreader


def _is_new(spec: TaskSpec) -> bool:
    """Tell whether a task has what readers before 0.3.0 do not know."""
    return spec.definition is not None or bool(spec.parameters) or isinstance(spec.payload, Build | Export | Function | Workflow)


def encode(event: Event) -> bytes:
    """Return the stored bytes of *event*.

    Raises:
        Malformed: it is larger than EVENT_BYTES_MAX; the writer must split it.
    """
    body = _encode(
        _Envelope(
            specversion="1.0",
            id=event.id,
            source=event.source,
            type=events.NAMES[type(event.data)],
            time=rfc3339(event.time_ms),
            data=msgspec.Raw(_encode(event.data)),
            correlationid=event.correlationid,
            causationid=event.causationid,
            authid=event.authid,
            traceparent=event.traceparent,
            minreader=minreader(event.data),
        )
    )
    if len(body) > limits.EVENT_BYTES_MAX:
        raise Malformed(f"event of {len(body)} bytes exceeds {limits.EVENT_BYTES_MAX}")
    return body


def decode(
    body: bytes, *, seq: int = 0, subject: str = "", time_ms: int | None = None, batch_end: bool = True,
    passing_over: frozenset[type[events.Data]] = frozenset(),
) -> Event:
    """Return the event of *body*, upcast to the current types.

    *seq*, *subject*, *time_ms* and *batch_end* are what the log says of it. Data of types in *passing_over* is not looked at.

    Raises:
        Malformed: the bytes are not an event of ours.
        TooNew: the type is unknown, or needs a newer reader.
    """
    if len(body) > limits.EVENT_BYTES_MAX:
        raise Malformed(f"event of {len(body)} bytes exceeds {limits.EVENT_BYTES_MAX}")
    try:
        envelope = _decode_envelope(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None
    if envelope.specversion != "1.0":
        raise Malformed(f"specversion {envelope.specversion[:20]!r} is not 1.0")
    data = _decode_data(envelope, passing_over)
    return Event(
        id=envelope.id,
        source=envelope.source,
        data=data,
        time_ms=parse_rfc3339(envelope.time) if time_ms is None else time_ms,
        seq=seq,
        subject=subject,
        authid=envelope.authid,
        correlationid=envelope.correlationid,
        causationid=envelope.causationid,
        traceparent=envelope.traceparent,
        batch_end=batch_end,
    )


def _decode_data(envelope: _Envelope, passing_over: frozenset[type[events.Data]]) -> events.Data:
    name, raw = envelope.type, envelope.data
    if envelope.minreader > READER:
        raise TooNew(name, envelope.minreader)
    if passing_over and name in events.REGISTRY and events.REGISTRY[name].data in passing_over:
        return events.PASSED_OVER
    decoder = _decoders.get(name)
    try:
        if decoder is not None:
            return decoder(raw)
        if name not in _upcasts:
            raise TooNew(name, envelope.minreader)
        content: dict[str, Any] = msgspec.json.decode(raw)
        while name in _upcasts:
            name, upcast = _upcasts[name]
            content = upcast(content)
        return msgspec.convert(content, events.REGISTRY[name].data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError) as error:
        raise Malformed(f"{envelope.type[:80]}: {error}") from None

"""Read a push as far as this version can: a start that it does not understand is named, so that it can be answered. Pure.

What a command is to run stands in its payload and its options; nothing in them may be unknown, for running a command
without half of what was asked for is worse than not running it. Who is newer than this agent may say more beside them.
"""

from __future__ import annotations

import msgspec

from fleetlog_schemas import pushes, wire
from fleetlog_schemas.version import VERSION


class UnknownStart(pushes.NamedAttempt, frozen=True):
    """A start that this version cannot read; `reason` says what in it."""


class _Start(msgspec.Struct, frozen=True, tag="start", tag_field="verb"):
    """A start push of which only the envelope is understood."""

    host_id: str
    epoch: int
    expires_ms: int
    seq: int
    attempts: tuple[msgspec.Raw, ...]


class StartPush(msgspec.Struct, frozen=True):
    """A start push of which at least one attempt is not understood."""

    host_id: str
    epoch: int
    expires_ms: int
    seq: int
    attempts: tuple[pushes.StartAttempt | UnknownStart, ...]


Push = pushes.Push | StartPush

_envelope = msgspec.msgpack.Decoder(_Start).decode
_attempt = msgspec.msgpack.Decoder(pushes.StartAttempt).decode
_name = msgspec.msgpack.Decoder(UnknownStart).decode


def read_push(payload: bytes) -> Push:
    """Return the push of *payload*. Raises wire.BadMessage: it is none, or none of its attempts has even a name."""
    try:
        push: pushes.Push = wire.decode(payload, pushes.Push)
    except wire.BadMessage:
        return _read_in_part(payload)
    return push


def _read_in_part(payload: bytes) -> StartPush:
    try:
        envelope = _envelope(payload)
        attempts = tuple(_read_attempt(raw) for raw in envelope.attempts)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise wire.BadMessage(str(error)) from None
    return StartPush(envelope.host_id, envelope.epoch, envelope.expires_ms, envelope.seq, attempts)


def _read_attempt(raw: msgspec.Raw) -> pushes.StartAttempt | UnknownStart:
    try:
        return _attempt(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        why = f"agent {VERSION} does not know what the task asks for ({error}): upgrade the agent"
        return msgspec.structs.replace(_name(raw), reason=why)

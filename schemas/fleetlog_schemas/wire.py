"""The codec of everything that is not an event: MessagePack with a size limit for each kind."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec

from fleetlog_schemas import limits, pushes, reports

_T = TypeVar("_T")

_BYTES_MAX: dict[Any, int] = {
    pushes.Signed: limits.PUSH_BYTES_MAX,
    pushes.Push: limits.PUSH_BYTES_MAX,
    pushes.SessionAnswer: limits.HEARTBEAT_BYTES_MAX,
    reports.OpenSession: limits.HEARTBEAT_BYTES_MAX,
    reports.Heartbeat: limits.HEARTBEAT_BYTES_MAX,
    reports.Report: limits.REPORT_BYTES_MAX,
    reports.Frame: limits.OUTPUT_FRAME_BYTES_MAX + 1024,
    reports.ArtifactChunk: limits.ARTIFACT_CHUNK_BYTES + 1024,
    reports.BlobRequest: 1024,
    reports.BlobChunk: limits.BLOB_CHUNK_BYTES + 1024,
}
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {kind: msgspec.msgpack.Decoder(kind) for kind in _BYTES_MAX}
_encoder = msgspec.msgpack.Encoder()


class BadMessage(ValueError):
    """Bytes that are not what the subject carries."""


def encode(message: msgspec.Struct) -> bytes:
    """Return the wire form of one of the messages of `pushes` and `reports`."""
    return _encoder.encode(message)


def decode(body: bytes, kind: type[_T] | Any) -> _T:
    """Return the message of *body*, which must be of *kind* (one of the messages, or `Push`, `SessionAnswer`).

    Raises:
        BadMessage: too long, not MessagePack, or not of that kind.
    """
    if len(body) > _BYTES_MAX[kind]:
        raise BadMessage(f"{len(body)} bytes exceed the {_BYTES_MAX[kind]} of this kind of message")
    try:
        return cast("_T", _decoders[kind].decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(str(error)) from None

"""What an agent and its worker processes say to each other, and what a worker keeps of its calls.

A worker is a process that has loaded the host's task modules and runs one call at a time, in the order in which it is
given them; a few are given ahead, so that it need not wait for its agent between short ones. Frames on a Unix socket of the
agent's folder, each four bytes of length (big-endian) and a MessagePack record; both ends run as the same user on the
same host. The same records, `Began` and `Finished`, stand in the worker's file of calls: they are written there before
they are said, so an agent that comes back finds what happened without it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

FRAME_BYTES_MAX = 1024 * 1024
"""One frame: arguments, or a returned value and a traceback, are far smaller."""
_LENGTH_BYTES = 4
_R = TypeVar("_R")


class Call(msgspec.Struct, frozen=True, tag="call", omit_defaults=True):
    """Run a function."""

    key: str
    """The attempt, as the agent names it."""
    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    environment: dict[str, str] = {}
    """Variables for the time of this call."""
    stdout: str = ""
    """File that takes what it prints."""
    stderr: str = ""
    parameters: dict[str, Any] = {}
    """Values by name that are given to the function where it has a parameter of that name."""


class Retire(msgspec.Struct, frozen=True, tag="retire"):
    """Leave when the call that runs, if one does, is over; begin no other."""


class Noted(msgspec.Struct, frozen=True, tag="noted"):
    """The answer to `Slow`: calls that come after it are to be made again."""


Order = Call | Retire | Noted


class Offered(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that a worker can run."""

    name: str
    queue: str
    module: str
    signature: str
    """As a person reads it: `(path: str, days: int = 30) -> int`."""
    summary: str = ""
    """First line of its documentation."""


class Hello(msgspec.Struct, frozen=True, tag="hello", omit_defaults=True):
    """The first thing that a worker says on a connection. What was asked for on an earlier one and not begun is dropped."""

    pid: int
    functions: tuple[Offered, ...]
    running: str = ""
    """The call that runs."""
    errors: tuple[str, ...] = ()
    """Modules that could not be loaded, and why."""


class Began(msgspec.Struct, frozen=True, tag="began"):
    """A call is about to be made."""

    key: str
    began_ms: int
    """By the boot clock."""


class Slow(msgspec.Struct, frozen=True, tag="slow"):
    """The call that runs takes long. What was given behind it, or comes before the answer `Noted`, is not begun here."""

    key: str


class Progressed(msgspec.Struct, frozen=True, tag="progressed"):
    """A function says how far it is."""

    key: str
    done: float
    total: float | None = None
    note: str = ""


class Finished(msgspec.Struct, frozen=True, tag="finished", omit_defaults=True):
    """How a call ended."""

    key: str
    began_ms: int
    ended_ms: int
    value: str | None = None
    """What it returned, as JSON; none: it did not return."""
    error: str = ""
    traceback: str = ""
    called: bool = True
    """Whether the function was called at all; false: unknown name, arguments that do not fit."""
    leaves: bool = False
    """The worker takes no further call: none that it was given behind this one is begun."""


News = Hello | Began | Slow | Progressed | Finished

_order_decoder = msgspec.msgpack.Decoder(Order)
_news_decoder = msgspec.msgpack.Decoder(News)
_encode = msgspec.msgpack.Encoder().encode


class BadFrame(ValueError):
    """What came is no frame of this protocol."""


def frame(record: Order | News) -> bytes:
    """Return a record as a frame."""
    body = _encode(record)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def take_orders(buffer: bytearray) -> list[Order]:
    """Take every whole frame from the beginning of *buffer*. Raises BadFrame."""
    return [_decoded(_order_decoder, body) for body in _take(buffer)]


def take_news(buffer: bytearray) -> list[News]:
    """Take every whole frame from the beginning of *buffer*. Raises BadFrame."""
    return [_decoded(_news_decoder, body) for body in _take(buffer)]


def _decoded(decoder: msgspec.msgpack.Decoder[_R], body: bytes) -> _R:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise BadFrame(str(error)) from None


def _take(buffer: bytearray) -> list[bytes]:
    bodies = []
    at = 0
    while len(buffer) - at >= _LENGTH_BYTES:
        size = int.from_bytes(buffer[at : at + _LENGTH_BYTES], "big")
        if size > FRAME_BYTES_MAX:
            raise BadFrame(f"a frame of {size} bytes is larger than {FRAME_BYTES_MAX}")
        if len(buffer) - at - _LENGTH_BYTES < size:
            break
        bodies.append(bytes(buffer[at + _LENGTH_BYTES : at + _LENGTH_BYTES + size]))
        at += _LENGTH_BYTES + size
    del buffer[:at]
    return bodies

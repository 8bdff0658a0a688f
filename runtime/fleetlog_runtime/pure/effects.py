"""What `decide` may ask for. Effects are data; `shell/interpreter.py` performs them, and the simulation its own way.

The counterparts are observations: what comes back to `observe`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleetlog_schemas import events


class Append(msgspec.Struct, frozen=True):
    """Store these events in one batch, in order. At most one is in flight; until it is read back, nothing rests on it."""

    data: tuple[events.Data, ...]


class Send(msgspec.Struct, frozen=True):
    """Sign this push and send it to its host, at most once."""

    push: Any
    """One of `pushes.Push`."""


class Answer(msgspec.Struct, frozen=True):
    """Answer a request, at most once."""

    reply: str
    body: bytes
    sign: bool = False
    """Wrap it in `Signed`."""


class WakeAt(msgspec.Struct, frozen=True):
    """Call `decide` again at this time even if nothing arrives. The earliest counts; the next decide replaces it."""

    at_ms: int


class Work(msgspec.Struct, frozen=True):
    """Have something done outside that takes a while; what comes of it is observed as `Done`. One at a time in each lane."""

    what: Any
    """The unit's own word for it: its shell knows how."""
    lane: str = ""
    """Works of different lanes do not wait for one another."""


class Done(msgspec.Struct, frozen=True):
    """A work is over, or cannot be done now."""

    what: Any
    """What was asked for."""
    found: Any = None
    """What came of it."""
    error: str = ""
    """Why nothing came of it; empty: it was done."""


Effect = Append | Send | Answer | WakeAt | Work


class Performed(msgspec.Struct, frozen=True):
    """An effect was handed to the shell. It may still fail or be lost."""

    effect: Effect


class Changed(msgspec.Struct, frozen=True):
    """An event was folded, and this came of it: what the unit's own fold returned."""

    event: Any
    changes: Any


class Tick(msgspec.Struct, frozen=True):
    """Time has come to look at what is due; precedes every decide."""


class Request(msgspec.Struct, frozen=True):
    """A core message arrived."""

    subject: str
    body: bytes
    reply: str

"""What the keeper asks its shell to do, and what it hears of it. Data only; `hands.py` does it."""

from __future__ import annotations

import msgspec


class Look(msgspec.Struct, frozen=True):
    """See how full the log is, and ask the services from where they would read. Found: `Room`."""


class Room(msgspec.Struct, frozen=True):
    """How full the log is."""

    bytes: int
    bytes_max: int


class Make(msgspec.Struct, frozen=True):
    """Write the next segment to the archive, if it is full, and read it back. Found: what to say of it, or None."""

    first_seq: int
    through_seq: int
    """Nothing beyond this is looked at: it is what the decision rests on."""
    chain_before: str


class Check(msgspec.Struct, frozen=True):
    """Read the segments of a range again from this keeper's own disk, whole, and put right what can be put right."""

    first_seq: int
    through_seq: int


class Purge(msgspec.Struct, frozen=True):
    """Check these segments once more, then remove what the log says is pruned. Doing it twice is doing it once."""

    first_seq: int
    through_seq: int
    below: dict[str, int]


class Post(msgspec.Struct, frozen=True):
    """Send one message to a webhook. Found: `Posted`."""

    webhook_id: str
    message_id: str
    attempt: int
    url: str
    body: str
    secret_numbers: tuple[int, ...]
    """Which of its secrets sign."""


class Posted(msgspec.Struct, frozen=True):
    """What an endpoint made of a message."""

    status: int = 0
    """Of the HTTP answer; 0: there was none."""
    error: str = ""
